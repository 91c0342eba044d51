"""Which questions are asked, the rows that come of known predictions, and what is left of an evaluation on disk."""

import dataclasses
import json

import asked
import jax
import numpy as np
import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import models
from tolerances import rounding

from qstar.data import tokenizer as tokenizers
from qstar.evals import journal, suite
from qstar.evals.probability import Direct
from qstar.evals.suite import CupsEval, Evaluator, NoEval, QuestionsEval
from qstar.tasks import cups
from qstar.tasks.cups import Game

TOKENIZER = tokenizers.characters(cups.ALPHABET)
PLACES = (0, 1, 2, 3, 4)  # the ids of 1 to 5


def test_a_cups_item_scores_the_token_after_the_equals_sign_among_the_places():
    item = suite.cups_item(Game(3, "ab").problem("0-3ab="), TOKENIZER)
    # Move a takes the ball from cup 3 to 4, b from 4 to 3; ids count along "12345abcdefghij=-;.".
    assert item.text == "3ab=3"
    assert item.ids == (2, 5, 6, 15, 2)
    assert (item.anchors, item.targets, item.valid) == ((3,), (2,), PLACES)
    assert (item.prompt_len, item.gold, item.cut) == (4, "3", 0)
    assert (item.id, item.question) == ("0-3ab=", "3ab=")


def test_a_question_that_is_drawn_twice_is_two_items():
    (measure,) = CupsEval(items=200, min_moves=1, max_moves=1).measures(TOKENIZER)
    assert len({item.question for item in measure.items}) < 200
    assert len({item.id for item in measure.items}) == 200


def test_problems_are_those_of_the_split_with_the_requested_lengths_in_every_run():
    cfg = CupsEval(items=50, min_moves=2, max_moves=3, split="dev")
    problems = cfg.problems()
    assert problems == CupsEval(items=50, min_moves=2, max_moves=3, split="dev", batch_size=7, every=3).problems()
    assert {cups.split_of(problem.question) for problem in problems} == {"dev"}
    assert {len(problem.question) - 2 for problem in problems} == {2, 3}
    assert problems[:20] == dataclasses.replace(cfg, items=20).problems()
    test = dataclasses.replace(cfg, split="test").problems()
    assert {cups.split_of(problem.question) for problem in test} == {"test"}


def test_a_tokenizer_that_joins_places_is_refused():
    vocab = {letter: id for id, letter in enumerate(cups.ALPHABET)} | {"=4": 19}
    joined = Backend(models.BPE(vocab=vocab, merges=[("=", "4")]))
    with pytest.raises(ValueError, match="each place after '3ab=' as one token"):
        suite.cups_item(Game(3, "ab").problem("0"), tokenizers.Tokenizer(joined))


def test_a_special_token_count_does_not_move_the_anchor():
    vocab = {letter: id + 2 for id, letter in enumerate(cups.ALPHABET)} | {"<s>": 0, "</s>": 1}
    item = suite.cups_item(Game(5, "j").problem("0"), tokenizers.byte_level_bpe(vocab, [], ["<s>", "</s>"], "gpt-2"))
    assert (item.ids, item.anchors, item.valid) == ((6, 16, 17, 3), (2,), (2, 3, 4, 5, 6))


def test_no_questions_give_no_rows_whatever_a_recipe_sets_for_its_own():
    assert NoEval(items=500, every=10, batch_size=8, thoughts=["none", "sampled"]).measures(TOKENIZER) == []


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CupsEval(items=0), "eval.items = 0"),
        (lambda: CupsEval(batch_size=0), "eval.batch_size = 0"),
        (lambda: CupsEval(every=-1), "eval.every = -1"),
        (lambda: CupsEval(split="train"), "eval.split = 'train': choose one of dev, test"),
        (lambda: CupsEval(draws=0), "eval.draws = 0"),
        (
            lambda: CupsEval(thoughts=("none", "loud")),
            r"eval.thoughts = \['none', 'loud'\]: choose from none, greedy, samp",
        ),
        (lambda: QuestionsEval(thoughts=()), r"eval.thoughts = \[\]: choose from"),
        (lambda: QuestionsEval(thoughts=("none", "none")), "each once"),
        (lambda: QuestionsEval(gsm8k="", commonsense_qa="", gsm8k_split="dev"), "eval.gsm8k_split = 'dev': choose one"),
    ],
)
def test_settings_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_questions_left_out_are_not_looked_for():
    assert QuestionsEval(gsm8k="", commonsense_qa="").measures(TOKENIZER) == []


# --- questions from files -----------------------------------------------------------------------------------------


QUESTION = {"stem": "a b?", "choices": [{"label": label, "text": label.lower()} for label in "ABCDE"]}
LETTERS = tokenizers.characters("\n 0123456789ABCDEQ:()?abcde+#=")


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """Small GSM8K and CommonsenseQA folders, below the folder that QSTAR_DATA names."""
    monkeypatch.setenv("QSTAR_DATA", str(tmp_path))
    monkeypatch.setenv("QSTAR_CACHE", str(tmp_path / "cache"))
    write(tmp_path / "gsm8k" / "test.jsonl", [{"question": f"{i}+1?", "answer": f"#### {i + 1}"} for i in range(20)])
    rows = [{"question": QUESTION | {"stem": f"b {i}?"}, "answerKey": "ABCDE"[i % 5]} for i in range(10)]
    write(tmp_path / "commonsenseqa" / "dev_rand_split.jsonl", rows)
    return tmp_path


def write(file, records):
    file.parent.mkdir(exist_ok=True)
    file.write_text("".join(json.dumps(record) + "\n" for record in records))


def test_questions_of_the_environments_folder_have_their_line_as_id(folders):
    direct, letters, texts = QuestionsEval(items=7).measures(LETTERS)
    assert [direct.name, letters.name, texts.name] == ["gsm8k", "commonsense_qa", "commonsense_qa_text"]
    assert [len(measure.items) for measure in (direct, letters, texts)] == [7, 7, 7]
    for item in direct.items:
        number = int(item.id.removeprefix("test-"))
        assert (item.question, item.gold) == (f"{number}+1?", f"{number + 1}")
    assert [item.id for item in texts.items] == [item.id for item in letters.items]
    for item in texts.items:
        number = int(item.id.removeprefix("dev-"))
        assert (item.question, item.gold) == (f"b {number}?", number % 5)
    more = QuestionsEval(items=20).measures(LETTERS)[0].items
    assert (more[:7], len({item.id for item in more})) == (direct.items, 20)


def test_choice_texts_can_be_left_out(folders):
    assert [measure.name for measure in QuestionsEval(choice_texts=False).measures(LETTERS)] == [
        "gsm8k",
        "commonsense_qa",
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda row: row.pop("answerKey"), r"dev_rand_split.jsonl:2 lacks the field 'answerKey'; it has question"),
        (lambda row: row["question"].pop("stem"), r"dev_rand_split.jsonl:2 lacks the field 'stem'; it has choices"),
        (lambda row: row["question"]["choices"][3].pop("text"), r"dev_rand_split.jsonl:2 lacks the field 'text'"),
        (lambda row: row["question"]["choices"].pop(), r"dev_rand_split.jsonl:2: the choices are not labelled A to E"),
        (lambda row: row.update(answerKey="F"), r"dev_rand_split.jsonl:2: answerKey is 'F', expected one of A to E"),
    ],
)
def test_a_record_that_lacks_something_is_named_by_file_line_and_field(folders, change, message):
    rows = [{"question": json.loads(json.dumps(QUESTION)), "answerKey": "C"} for _ in range(3)]
    change(rows[1])
    write(folders / "commonsenseqa" / "dev_rand_split.jsonl", rows)
    with pytest.raises(ValueError, match=message):
        QuestionsEval(gsm8k="").measures(LETTERS)


def test_a_question_without_its_number_is_named_by_file_and_line(folders):
    write(folders / "gsm8k" / "test.jsonl", [{"question": "a?", "answer": "#### 1"}, {"question": "b?", "answer": "2"}])
    with pytest.raises(ValueError, match=r"test.jsonl:2: the answer has no '#### NUMBER' at its end"):
        QuestionsEval(commonsense_qa="").measures(LETTERS)


# --- rows ---------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Questions:
    """Three questions with the answers 1, 1 and 2, padded into one batch of two rows and another."""

    batch_size: int = 2
    every: int = 0
    thoughts: tuple[str, ...] = ("none", "greedy")
    draws: int = 1

    def measures(self, tokenizer):
        # 1 -a-> 5 -c-> 1;  2 -b-> 5 -c-> 1;  1 -b-> 2
        games = (Game(1, "ac"), Game(2, "bc"), Game(1, "b"))
        problems = [game.problem(f"{number}-{game.question}") for number, game in enumerate(games)]
        items = tuple(suite.cups_item(problem, tokenizer) for problem in problems)
        return [Direct("cups", items, self.batch_size, self.draws)]


ALL = Questions(thoughts=("sampled", "none", "greedy"), draws=2)


def evaluator(cfg=Questions(), method=asked.Fixed()):  # noqa: B008 (both are frozen)
    return Evaluator(cfg, method, asked.Weights(), TOKENIZER)


def test_rows_hold_accuracy_probability_and_nll_with_and_without_thoughts():
    plain, thinking = evaluator()(asked.PARAMS, jax.random.key(0))
    assert (plain.task, plain.thoughts, plain.way, plain.draws, plain.n) == ("cups", False, "none", 1, 3)
    assert (thinking.task, thinking.thoughts, thinking.way, thinking.draws, thinking.n) == (
        "cups",
        True,
        "greedy",
        1,
        3,
    )
    assert plain.accuracy == pytest.approx(2 / 3)
    assert plain.probability == pytest.approx((0.4 + 0.4 + 0.2) / 3, rel=rounding(20))
    assert plain.nll == pytest.approx(-(2 * np.log(0.2) + np.log(0.1)) / 3, rel=rounding(20))
    assert thinking.accuracy == pytest.approx(1 / 3)
    assert thinking.probability == pytest.approx((2 * 0.1 + 0.6) / 0.95 / 3, rel=rounding(20))
    assert thinking.nll == pytest.approx(-(2 * np.log(0.1) + np.log(0.6)) / 3, rel=rounding(20))
    # Wilson, 2 of 3.
    figure = plain.figures["accuracy"]
    assert (figure.low, figure.high) == pytest.approx((0.2077, 0.9385), abs=1e-4)
    assert plain.figures["probability"].low <= plain.probability <= plain.figures["probability"].high


def test_rows_come_in_one_order_of_ways():
    rows = evaluator(ALL)(asked.PARAMS, jax.random.key(0))
    assert [(row.way, row.thoughts, row.draws) for row in rows] == [
        ("none", False, 1), ("greedy", True, 1), ("sampled", True, 2),
    ]  # fmt: skip


def test_a_method_that_does_not_think_is_evaluated_once():
    params = asked.table({}, size=19)
    for thoughts in (("none", "greedy"), ("sampled",)):
        rows = evaluator(Questions(thoughts=thoughts), asked.Table())(params, jax.random.key(0))
        assert [(row.way, row.thoughts) for row in rows] == [("none", False)]


def test_a_row_survives_being_flat():
    row = evaluator()(asked.PARAMS, jax.random.key(0))[1]
    flat = suite.as_dict(row)
    assert list(flat) == [
        "task", "thoughts", "way", "draws", "n",
        "accuracy", "accuracy_low", "accuracy_high", "probability", "probability_low", "probability_high",
        "nll", "nll_low", "nll_high",
    ]  # fmt: skip
    assert (flat["accuracy"], flat["thoughts"], flat["way"]) == (row.accuracy, True, "greedy")
    assert suite.from_dict(json.loads(json.dumps({"step": 3, **flat}))) == row


def test_a_row_of_an_earlier_version_is_read():
    flat = {
        "step": 75, "task": "cups", "thoughts": True, "n": 500, "accuracy": 0.97, "accuracy_low": 0.951,
        "accuracy_high": 0.982, "probability": 0.889, "probability_low": 0.874, "probability_high": 0.902, "nll": 0.205,
    }  # fmt: skip
    row = suite.from_dict(flat)
    assert (row.task, row.thoughts, row.way, row.draws, row.n) == ("cups", True, "greedy", 1, 500)
    assert (row.accuracy, row.probability, row.nll) == (0.97, 0.889, 0.205)
    assert list(row.figures) == ["accuracy", "probability", "nll"]


def test_progress_counts_questions():
    seen = []
    evaluator()(asked.PARAMS, jax.random.key(0), lambda done, total: seen.append((done, total)))
    assert seen == [(0, 3), (2, 3), (3, 3)]


def test_the_key_and_the_item_decide_what_is_drawn_and_the_batch_does_not(tmp_path):
    def drawn(batch_size, key, name):
        cfg = Questions(batch_size, thoughts=("sampled",), draws=2)
        evaluator(cfg)(asked.PARAMS, jax.random.key(key), folder=tmp_path / name)
        return [row["score"] for row in journal.load(tmp_path / name)["cups"].to_pylist()]

    one = drawn(1, 0, "one")
    assert len(set(one)) == 6
    assert drawn(3, 0, "three") == pytest.approx(one, rel=rounding(20))
    assert not set(drawn(1, 1, "other")) & set(one)


# --- on disk ------------------------------------------------------------------------------------------------------


def stopped_after(batches):
    """A progress that ends the process, as far as the evaluation can tell, when this many batches are done."""

    def progress(done, total):
        seen.append(done)
        if len(seen) > batches:
            raise KeyboardInterrupt

    seen = []
    return progress


def test_a_row_for_every_item_way_and_draw_is_written_as_parquet(tmp_path):
    rows = evaluator(ALL)(asked.PARAMS, jax.random.key(0), folder=tmp_path / "out")
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["cups.parquet"]
    table = journal.load(tmp_path / "out")["cups"]
    assert table.column_names == [
        "item", "thoughts", "draw", "question", "answer", "prediction", "score", "exact", "loglik", "weight", "thought",
        "cut",
    ]  # fmt: skip
    assert table.num_rows == 12
    found = table.to_pylist()
    assert [row["item"] for row in found[::4]] == ["0-1ac=", "1-2bc=", "2-1b="]
    assert [(row["thoughts"], row["draw"]) for row in found[:4]] == [
        ("none", 0), ("greedy", 0), ("sampled", 0), ("sampled", 1),
    ]  # fmt: skip
    assert [row["exact"] for row in found[::4]] == [True, True, False]
    assert [row["answer"] for row in found[::4]] == ["1", "1", "2"]
    assert {row["prediction"] for row in found[::4]} == {"1"}
    score = np.mean([row["score"] for row in found if row["thoughts"] == "greedy"])
    assert rows[1].probability == pytest.approx(score, rel=rounding(6, "float64"))
    identity = journal.identity_of(table)
    assert (identity["task"], identity["method"]["class"], identity["eval"]["draws"]) == ("cups", "Fixed", 2)
    assert "every" not in identity["eval"]


@pytest.mark.parametrize("batches", [0, 1, 2])
def test_a_stopped_evaluation_resumes_where_it_was_and_gives_the_same_numbers(tmp_path, monkeypatch, batches):
    cfg = dataclasses.replace(ALL, batch_size=1)
    straight = evaluator(cfg)(asked.PARAMS, jax.random.key(0), folder=tmp_path / "straight")
    with pytest.raises(KeyboardInterrupt):
        evaluator(cfg)(asked.PARAMS, jax.random.key(0), stopped_after(batches), tmp_path / "out")
    written = (tmp_path / "out" / "cups.jsonl").read_text()
    assert len(written.splitlines()) == 1 + batches
    # What a kill tears: the beginning of the next line.
    with (tmp_path / "out" / "cups.jsonl").open("a") as file:
        file.write('{"batch": 2, "rows": [{"item": "2-1b=", "thou')
    ask, done, seen = Direct.ask, [], []
    monkeypatch.setattr(Direct, "ask", lambda self, *args: done.append(args[2]) or ask(self, *args))
    rows = evaluator(cfg)(asked.PARAMS, jax.random.key(0), lambda *told: seen.append(told), tmp_path / "out")
    assert done == [[0], [1], [2]][batches:]
    assert seen == [(0, 3), (1, 3), (2, 3), (3, 3)]
    assert rows == straight
    assert journal.load(tmp_path / "out")["cups"].equals(journal.load(tmp_path / "straight")["cups"])
    assert not (tmp_path / "out" / "cups.jsonl").exists()


def test_what_is_answered_is_not_asked_again(tmp_path, monkeypatch):
    first = evaluator()(asked.PARAMS, jax.random.key(0), folder=tmp_path)
    monkeypatch.setattr(Direct, "ask", None)
    seen = []
    assert evaluator()(asked.PARAMS, jax.random.key(0), lambda *told: seen.append(told), tmp_path) == first
    assert seen == [(0, 3), (3, 3)]


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"key": 1}, r"key = \[0, 0\], now \[0, 1\]"),
        ({"cfg": dataclasses.replace(ALL, draws=3)}, "eval.draws = 2, now 3"),
        ({"method": asked.Fixed(forbidden=("a",))}, r"method.forbidden = \[\], now \['a'\]"),
        ({"params": asked.PARAMS | {"plain": asked.distribution(0.3)}}, "weights = [0-9a-f]{16}, now [0-9a-f]{16}"),
    ],
)
def test_answers_of_another_evaluation_are_refused_and_left_alone(tmp_path, change, message, finished):
    expected = {"cfg": ALL, "method": asked.Fixed(), "params": asked.PARAMS, "key": 0}

    def run(cfg, method, params, key, progress=None):
        return evaluator(cfg, method)(params, jax.random.key(key), progress, tmp_path)

    if finished:
        run(**expected)
    else:
        with pytest.raises(KeyboardInterrupt):
            run(**expected, progress=stopped_after(1))
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    with pytest.raises(
        ValueError, match=rf"(?s)holds answers of another evaluation:\n  {message}\nname another folder"
    ):
        run(**expected | change)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_an_evaluation_that_wrote_the_ids_of_the_methods_tokens_continues(tmp_path):
    ask = evaluator(dataclasses.replace(ALL, batch_size=1))
    with pytest.raises(KeyboardInterrupt):
        ask(asked.PARAMS, jax.random.key(0), stopped_after(2), tmp_path)
    file = tmp_path / "cups.jsonl"
    identity, *lines = file.read_text().splitlines(keepends=True)
    identity = json.loads(identity)
    identity["method"] |= {"delimiter_id": 16, "dot_id": -1, "forbidden_ids": [3]}
    file.write_text("".join([json.dumps(identity) + "\n", *lines]))
    seen = []
    found = ask(asked.PARAMS, jax.random.key(0), lambda *told: seen.append(told), tmp_path)
    assert (seen[0], seen[1]) == ((0, 3), (1, 3)) and len(lines) == 2
    assert found == ask(asked.PARAMS, jax.random.key(0))


def test_other_questions_are_refused(tmp_path):
    def asked_of(first):
        (measure,) = Questions().measures(TOKENIZER)
        item = dataclasses.replace(measure.items[0], gold=first)
        return dataclasses.replace(measure, items=(item, *measure.items[1:]))

    class Other(Questions):
        def measures(self, tokenizer):
            return [asked_of("4")]

    evaluator()(asked.PARAMS, jax.random.key(0), folder=tmp_path)
    with pytest.raises(ValueError, match="questions = "):
        evaluator(Other())(asked.PARAMS, jax.random.key(0), folder=tmp_path)
