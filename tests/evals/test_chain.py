"""Votes, and what is asked and read in the two passes of a chain of thought."""

import dataclasses
import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from tokenizers import pre_tokenizers

from qstar.data import tokenizer as tokenizers
from qstar.evals import chain, suite
from qstar.evals.chain import NUMBER, Chain, ChainEval
from qstar.methods.plain_lm import PlainLM
from qstar.methods.quiet_star import QuietStar
from qstar.models.lm import LMConfig
from qstar.policy import Policy
from qstar.tasks.problem import Problem
from qstar.thoughts.writing import Generated

BYTES = {letter: id for id, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
TOKENIZER = tokenizers.byte_level_bpe(BYTES | {"<|endoftext|>": 256}, [], ["<|endoftext|>"], "smollm")
END = 256
LM = LMConfig(
    vocab=257, width=16, layers=1, heads=2, kv_heads=2, head_size=8, ff=20, max_len=256, tied=False, dtype="float64"
)
QUICK = dataclasses.replace(LM, dtype="float32")
THINKING = QuietStar(thought_len=2)
ROWS = [
    {"id": "test-4", "question": "One and one?", "answer": "It is two.\n#### 2"},
    {"id": "test-9", "question": "A thousand and a half?", "answer": "#### 1,000.50"},
    {"id": "test-0", "question": "Nought?", "answer": "#### 0"},
]
QUESTIONS = tuple(map(chain.number_problem, ROWS))
CFG = ChainEval(gsm8k="", batch_size=2, votes=3, max_tokens=20, answer_tokens=4, thoughts=("none", "greedy", "sampled"))


def measured(cfg=CFG, questions=QUESTIONS):
    return Chain("gsm8k_chain", questions, NUMBER, cfg, (), (END,))


def thinker(lm=LM):
    model, params = tiny.thinker_of(lm)
    return Policy(THINKING, model, params, TOKENIZER)


def asked(measure, subject, ways):
    rows = [row for index in measure.batches() for row in measure.ask(subject, ways, index, jax.random.key(3))]
    return {(row["item"], row["thoughts"]): row for row in rows}


# --- votes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("votes", "answer"),
    [
        (["3", "2", "2"], "2"),
        (["3", "2"], "3"),  # a tie: the first
        (["2", "3", "3", "2"], "2"),
        (["", "", "5"], "5"),  # no number is no vote
        (["", ""], ""),
        ([], ""),
    ],
)
def test_the_majority_of_votes(votes, answer):
    assert chain.majority(votes) == answer


@pytest.mark.parametrize(
    ("votes", "count", "expected"),
    [
        (["2", "3", "2", "5"], 1, 2 / 4),
        (
            ["2", "3", "2", "5"],
            2,
            1 / 6 + 4 / 6 / 2,
        ),  # of 6 pairs one is 2 2; four hold one 2 and come first half the time
        (["2", "3", "2", "5"], 3, 2 / 4 + 2 / 4 / 3),  # both 2s with 3 or 5; or one 2 with 3 and 5, three alike
        (["2", "", ""], 2, 2 / 3),
        (["3", "", "4"], 2, 0.0),
        (["", ""], 1, 0.0),
        (["2"] * 4, 3, 1.0),
    ],
)
def test_the_chance_of_a_majority_of_some_votes_by_hand(votes, count, expected):
    assert chain.chance(votes, "2", count) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("votes", ["223", "2233", "23345", "2 3 2", "22 334", "2334455", "3322244"])
def test_the_chance_is_the_share_of_draws_in_every_order_whose_majority_is_right(votes):
    votes = [vote.strip() for vote in votes]
    for count in range(1, len(votes) + 1):
        draws = list(itertools.permutations(votes, count))
        expected = sum(chain.majority(draw) == "2" for draw in draws) / len(draws)
        assert chain.chance(votes, "2", count) == pytest.approx(expected, abs=1e-12)


# --- what is asked ------------------------------------------------------------------------------------------------


def test_prompts_are_those_of_the_released_script():
    assert chain.prompt(QUESTIONS[0]) == "Q: One and one?\nA: Let's think step by step."
    assert NUMBER.text == "\nTherefore, the answer (arabic numerals) is"
    assert [one.answer for one in QUESTIONS] == ["2", "1000.5", "0"]


def test_a_choice_is_requested_and_read_as_a_letter():
    row = {"id": "dev-1", "question": "Where?", "choices": ["bank", "sea", "bed", "sky", "home"], "answer": "C"}
    problem = chain.letter_problem(row)
    choices = "(A) bank\n(B) sea\n(C) bed\n(D) sky\n(E) home"
    assert chain.prompt(problem) == f"Q: Where?\n{choices}\nA: Let's think step by step."
    assert chain.LETTER.text == "\nTherefore, among A through E, the answer is"
    assert [chain.LETTER.answer(text) for text in (" (C) bed.", " C", " bed", " 3")] == ["C", "C", "", ""]
    assert problem.answer == "C"


class Script:
    """Writes what it was told, row by row, and keeps what it was asked."""

    def __init__(self, *calls):
        self.calls, self.seen = list(calls), []

    def __call__(self, method, definition, params, prompts, keys, **settings):
        texts = self.calls[len(self.seen)]
        self.seen.append(([TOKENIZER.decode(prompt) for prompt in prompts], settings))
        ids = [TOKENIZER.encode(text) for text in texts]
        tokens = np.zeros((len(ids), max(map(len, ids))), np.int32)
        for row, written in enumerate(ids):
            tokens[row, : len(written)] = written
        return Generated(tokens, np.array(list(map(len, ids))), np.zeros(tokens.shape), None)


def scripted(monkeypatch, *calls, cfg=CFG, questions=QUESTIONS, ways=("greedy",)):
    script = Script(*calls)
    monkeypatch.setattr(chain, "generate", script)
    measure = measured(cfg, questions)
    return script, measure.ask(thinker(QUICK), ways, range(len(questions)), jax.random.key(0))


def test_a_rationale_ends_at_the_next_question_and_the_answer_follows_it(monkeypatch):
    reasons = [" One,\ntwo. \n", " Two.\nQ: And three? 3", " 7\n\n\n8<|endoftext|>", "<|endoftext|>", " 1000.5", ""]
    answers = [" 2.", " -2", " $2.00, 9", " x", " 1,000.50.", "\nQ: 1000.5"]
    script, rows = scripted(monkeypatch, reasons, answers, questions=QUESTIONS[:2])
    first, second = chain.prompt(QUESTIONS[0]), chain.prompt(QUESTIONS[1])
    closing = "\nTherefore, the answer (arabic numerals) is"
    assert script.seen[0][0] == [first, second]
    ends = [" One,\ntwo.", " Two.", " 7"]
    assert script.seen[1][0] == [
        *(first + end + closing for end in ends),
        *(second + end + closing for end in ("", " 1000.5", "")),
    ]
    settings = {"temperature": 0.9, "think": True, "greedy_thoughts": True, "stop": (END,)}
    assert script.seen[0][1] == settings | {"max_new_tokens": 20, "samples": 3}
    assert script.seen[1][1] == settings | {"max_new_tokens": 4, "samples": 1}
    one, two = rows
    assert (one["item"], one["thoughts"], one["draw"], one["gold"]) == ("test-4", "greedy", 0, "2")
    assert (one["votes"], one["answer"], one["right"]) == (["2", "-2", "2"], "2", True)
    assert one["right_of"] == pytest.approx([2 / 3, 1 / 3 + 2 / 3 / 2, 1])
    assert one["rationales"] == ends
    assert one["answers"] == answers[:3]
    assert one["tokens"] == [12 + 3, 21 + 3, 7 + 9]
    assert (two["votes"], two["answer"], two["right"], two["answered"]) == (["", "1000.5", ""], "1000.5", True, 1 / 3)


def test_the_way_of_thinking_is_passed_on_and_missing_questions_are_filled_up(monkeypatch):
    texts = ["5"] * 6
    script, rows = scripted(monkeypatch, *[texts] * 6, questions=QUESTIONS[2:], ways=("none", "greedy", "sampled"))
    assert [row["thoughts"] for row in rows] == ["none", "greedy", "sampled"]  # one question, though two were asked
    assert [(how["think"], how["greedy_thoughts"]) for _, how in script.seen[::2]] == [
        (False, False),
        (True, True),
        (True, False),
    ]
    assert script.seen[0][0] == [chain.prompt(QUESTIONS[2])] * 2


def test_a_rationale_that_does_not_fit_before_the_closing_is_cut(monkeypatch):
    cfg = dataclasses.replace(CFG, batch_size=1, votes=1)
    # 256 places, 4 for the answer, 44 of the prompt and 43 of the closing.
    script, _ = scripted(monkeypatch, [" " + "ab" * 100], ["1"], cfg=cfg, questions=QUESTIONS[:1])
    [text] = script.seen[1][0]
    assert len(text) == 252
    assert text == chain.prompt(QUESTIONS[0]) + " " + ("ab" * 100)[: 252 - 44 - 43 - 1] + NUMBER.text


def test_the_share_of_single_votes_that_answer_has_wilsons_interval():
    rows = [{"item": item, "right": False, "right_of": [0.0], "answered": 0.0} for item in "abc"]
    answered = measured(dataclasses.replace(CFG, votes=1)).figures(rows)["answered"]
    assert (answered.value, answered.low, answered.high) == pytest.approx((0, 0, 0.5615), abs=1e-4)


def test_figures_are_the_majority_of_all_votes_and_of_fewer():
    rows = [
        {"item": "a", "right": True, "right_of": [0.75, 0.8, 0.9, 1.0, 1.0], "answered": 1.0},
        {"item": "b", "right": False, "right_of": [0.25, 0.2, 0.1, 0.1, 0.0], "answered": 0.5},
        {"item": "c", "right": False, "right_of": [0.5, 0.5, 0.5, 0.0, 0.0], "answered": 0.0},
    ]
    found = measured(dataclasses.replace(CFG, votes=5)).figures(rows)
    assert {name: figure.value for name, figure in found.items()} == pytest.approx(
        {"accuracy": 1 / 3, "accuracy_of_1": 0.5, "accuracy_of_2": 0.5, "accuracy_of_4": 1.1 / 3, "answered": 0.5}
    )
    assert (found["accuracy"].low, found["accuracy"].high) == pytest.approx(
        (0.0615, 0.7923), abs=1e-4
    )  # Wilson, 1 of 3
    assert 0.25 <= found["accuracy_of_1"].low < 0.5 < found["accuracy_of_1"].high <= 0.75


# --- a real model -------------------------------------------------------------------------------------------------


def test_the_text_for_a_question_depends_on_neither_batches_nor_votes(x64):
    subject = thinker()
    whole = asked(measured(CFG, QUESTIONS[:2]), subject, ("sampled",))
    assert len(whole) == 2
    small = dataclasses.replace(CFG, batch_size=1, votes=2)
    alone = asked(measured(small, QUESTIONS[1:2]), subject, ("sampled",))["test-9", "sampled"]
    for column in ("rationales", "answers", "tokens", "votes"):
        assert alone[column] == whole["test-9", "sampled"][column][:2]
    texts = [text for row in whole.values() for text in row["rationales"]]
    assert len(set(texts)) == len(texts)  # votes and questions differ


def test_a_row_holds_plain_values(x64):
    [row] = asked(measured(CFG, QUESTIONS[:1]), thinker(), ("greedy",)).values()
    assert json.loads(json.dumps(row)) == row
    assert all(len(row[column]) == 3 for column in ("votes", "rationales", "answers", "tokens", "right_of"))
    assert all(1 <= count <= 24 for count in row["tokens"])
    assert isinstance(row["right"], bool)


def test_a_model_that_does_not_think_answers_as_the_language_model_inside_a_thinker(x64):
    subject = thinker()
    plain = Policy(PlainLM(), PlainLM().definition(LM), subject.params["lm"], TOKENIZER)
    [row] = asked(measured(CFG, QUESTIONS[:1]), plain, ("none",)).values()
    assert row == asked(measured(CFG, QUESTIONS[:1]), subject, ("none",))["test-4", "none"]


def test_weights_that_are_not_numbers_are_refused(x64):
    subject = thinker()
    broken = subject.params | {"lm": jax.tree.map(lambda leaf: leaf * jnp.nan, subject.params["lm"])}
    with pytest.raises(ValueError, match="not a number"):
        asked(measured(), dataclasses.replace(subject, params=broken), ("none",))


# --- which questions ----------------------------------------------------------------------------------------------


def written(folder, name, *records):
    folder.mkdir()
    (folder / name).write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(folder)


def test_questions_come_from_the_folders_the_longest_first(tmp_path, monkeypatch):
    monkeypatch.setenv("QSTAR_CACHE", str(tmp_path / "cache"))
    records = [{"question": "Q" * n, "answer": f"#### {n}"} for n in (1, 5, 3)]
    gsm8k = written(tmp_path / "gsm8k", "test.jsonl", *records)
    choices = [{"label": letter, "text": letter.lower()} for letter in "ABCDE"]
    record = {"answerKey": "B", "question": {"stem": "Which?", "choices": choices}}
    csqa = written(tmp_path / "csqa", "dev_rand_split.jsonl", record)
    number, letter = ChainEval(gsm8k=gsm8k, commonsense_qa=csqa, begin="A").measures(TOKENIZER)
    assert (number.name, letter.name) == ("gsm8k_chain", "commonsense_qa_chain")
    assert {(one.id, one.answer) for one in number.items} == {("test-0", "1"), ("test-1", "5"), ("test-2", "3")}
    assert [[number.items[i].answer for i in index] for index in number.batches()] == [["5", "3"], ["1"]]
    assert [(one.id, one.answer) for one in letter.items] == [("dev-0", "B")]
    assert (number.begin, number.stop) == (tuple(TOKENIZER.encode("A")), (END,))
    with pytest.raises(ValueError, match=r"eval.begin = 'AB' is not one token"):
        ChainEval(gsm8k=gsm8k, begin="AB").measures(TOKENIZER)
    with pytest.raises(FileNotFoundError, match=r"eval.gsm8k = .*/none' is not a folder"):
        ChainEval(gsm8k=str(tmp_path / "none")).measures(TOKENIZER)


def test_an_answer_without_a_number_is_refused():
    with pytest.raises(ValueError, match="question test-3: there is no number in its answer 'two'"):
        chain.number_problem({"id": "test-3", "question": "One and one?", "answer": "#### two"})


def test_the_begin_token_stands_before_both_prompts(monkeypatch):
    script = Script(["a"], ["1"])
    monkeypatch.setattr(chain, "generate", script)
    cfg = dataclasses.replace(CFG, batch_size=1, votes=1)
    measure = dataclasses.replace(measured(cfg, QUESTIONS[:1]), begin=(END,))
    measure.ask(thinker(QUICK), ("none",), [0], jax.random.key(0))
    assert [texts[0].startswith("<|endoftext|>Q: One") for texts, _ in script.seen] == [True, True]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"votes": 0}, "eval.votes = 0"),
        ({"max_tokens": 0}, "eval.max_tokens = 0"),
        ({"answer_tokens": 0}, "eval.answer_tokens = 0"),
        ({"temperature": -0.1}, "eval.temperature = -0.1: expected 0 or a positive number"),
        ({"temperature": 0.0, "thoughts": ("none", "greedy")}, "eval.temperature = 0 with eval.votes = 3"),
        ({"gsm8k_split": "dev"}, "eval.gsm8k_split = 'dev': choose one of train, test"),
        ({"items": 0}, "eval.items = 0"),
    ],
)
def test_settings_out_of_range_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(CFG, **change)


@pytest.mark.parametrize("change", [{"max_tokens": 213}, {"answer_tokens": 200}])
def test_answers_too_long_for_the_longest_question_are_refused_first(change, monkeypatch):
    monkeypatch.setattr(chain, "generate", None)
    with pytest.raises(ValueError, match=r"gsm8k_chain: question test-9 has 54 tokens, .* was built for 256"):
        asked(measured(dataclasses.replace(CFG, **change)), thinker(QUICK), ("none",))


# --- questions that are too long ----------------------------------------------------------------------------------


def evaluator(overlong, monkeypatch):
    """Of two questions, one of which is longer than the context of the model."""
    room = thinker(QUICK).definition.abstract_model.lm.cfg.max_len
    questions = tuple(Problem(f"test-{i}", "A" * (i * room), "1") for i in range(2))
    cfg = dataclasses.replace(CFG, overlong=overlong, max_tokens=2, answer_tokens=1)
    monkeypatch.setattr(ChainEval, "measures", lambda self, tokenizer: [measured(self, questions)])
    return suite.Evaluator(cfg, THINKING, thinker(QUICK).definition, TOKENIZER)


def test_an_overlong_question_is_named_or_left_out(monkeypatch):
    with pytest.raises(ValueError, match=r"1 of 2 questions .*test-1 \(\d+ tokens\).*eval.overlong=skip"):
        evaluator("error", monkeypatch).fit()
    lenient = evaluator("skip", monkeypatch)
    assert lenient.fit() == {"gsm8k_chain": ["test-1"]}
    assert lenient.fit() == {}
