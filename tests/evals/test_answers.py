"""Tasks as evaluations: what is asked, how it is graded, and that self-training grades the same."""

import dataclasses
import json

import jax
import pytest
import tiny

from qstar import runs
from qstar.config import ImproveConfig
from qstar.data import tokenizer as tokenizers
from qstar.evals.answers import TaskEval
from qstar.evals.suite import Evaluator
from qstar.methods.plain_lm import PlainLM
from qstar.methods.quiet_star import QuietStar
from qstar.models.lm import LMConfig
from qstar.models.origins import Pretrained
from qstar.policy import Policy
from qstar.recipes.recipe import Recipe
from qstar.runs import answering
from qstar.tasks import cups
from qstar.tasks.arithmetic import Arithmetic
from qstar.tasks.cups import Cups
from qstar.tasks.jsonl import Jsonl
from qstar.training.optim import OptimConfig

TOKENIZER = tokenizers.characters(cups.ALPHABET)
LM = LMConfig(
    vocab=TOKENIZER.size, width=16, layers=1, heads=2, kv_heads=2, head_size=8, ff=20, max_len=64, dtype="float64"
)
TASK = Cups(min_moves=3, max_moves=6, dev=12)
CFG = TaskEval(task=TASK, items=12, batch_size=4, thoughts=("none",))


@pytest.fixture(scope="module")
def bundled():
    """The bundled model of the cups task, which writes its workings, as a policy."""
    loaded = runs.load_model("bundled:cups")
    method = PlainLM()
    return dataclasses.replace(loaded, method=method, definition=method.definition(loaded.lm))


def thinker():
    model, params = tiny.thinker_of(LM)
    return Policy(QuietStar(thought_len=1), model, params, TOKENIZER)


def asked(cfg, subject, key=3):
    """Rows of all questions by id and way."""
    (measure,) = cfg.measures(subject.tokenizer)
    rows = [
        row for index in measure.batches() for row in measure.ask(subject, cfg.thoughts, index, jax.random.key(key))
    ]
    return {(row["item"], row["thoughts"]): row for row in rows}


def test_an_evaluation_and_self_training_grade_the_same_answers(bundled):
    evaluator = Evaluator(CFG, bundled.method, bundled.definition, bundled.tokenizer)
    (row,) = evaluator(jax.device_put(bundled.language_model), jax.random.key(0))
    cfg = ImproveConfig(
        run_dir="run", sample_batch=4, model=Pretrained("bundled:cups"), task=TASK, improve=Recipe(),
        optim=OptimConfig(), mesh=None,
    )  # fmt: skip
    known = answering.evaluated(cfg, bundled, TASK.problems("dev"), "dev", 0)["accuracy"]
    assert (row.accuracy, row.n) == (known["share"], known["n"])
    assert (row.task, row.figures["accuracy"].low, row.figures["accuracy"].high) == (
        "cups_written",
        known["low"],
        known["high"],
    )
    assert 0 < row.accuracy < 1


def test_the_verdicts_of_samples_are_the_graders_and_the_answer_of_most_counts(bundled):
    rows = asked(dataclasses.replace(CFG, items=4, samples=5, temperature=1.0), bundled)
    problems = {problem.id: problem for problem in TASK.problems("dev")}
    for (id, _), row in rows.items():
        verdicts = [TASK.grader(text, problems[id].answer) for text in row["written"]]
        told = [
            verdict.answer for verdict, reason in zip(verdicts, row["reasons"], strict=True) if reason != "too long"
        ]
        assert [answer for answer in row["answers"] if answer] == [answer for answer in told if answer]
        assert row["gold"] == problems[id].answer
        assert row["right_alone"] == row["answers"].count(row["gold"]) / 5
        assert row["answers"].count(row["answer"]) == (max(map(row["answers"].count, "12345")) or 5)
        assert row["right"] == (row["answer"] == row["gold"])
    assert len({text for row in rows.values() for text in row["written"]}) > 4


def test_text_after_thoughts_depends_on_neither_batches_nor_the_number_of_samples(x64):
    cfg = dataclasses.replace(CFG, thoughts=("sampled",), items=2, batch_size=2, samples=2, temperature=1.0)
    whole = asked(cfg, thinker())
    ((place, row),) = asked(dataclasses.replace(cfg, items=1, batch_size=1, samples=1), thinker()).items()
    for column in ("written", "tokens", "reasons"):
        assert row[column] == whole[place][column][:1]
    texts = [text for row in whole.values() for text in row["written"]]
    assert len(texts) == 4 and len(set(texts)) > 2  # samples and questions differ
    assert not any(";" in text for text in texts)  # the stop is none of the text


def test_a_row_holds_plain_values(bundled):
    (row,) = asked(dataclasses.replace(CFG, items=1), bundled).values()
    assert json.loads(json.dumps(row)) == row


def test_a_file_of_questions_uses_the_tasks_own_prompt(tmp_path):
    lines = [{"question": f"{i} and 1?", "answer": str(i + 1)} for i in range(8)]
    (tmp_path / "sums.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    task = Jsonl(path=str(tmp_path / "sums.jsonl"), answers="numeric", dev=0, test=0)
    (measure,) = TaskEval(task=task, split="train", items=3).measures(TOKENIZER)
    assert measure.name == "jsonl_written"
    for item in measure.items:
        number = int(item.problem.question[0])
        assert (item.problem.answer, item.prompt) == (str(number + 1), f"Q: {number} and 1?\nA:")


def test_few_shot_examples_are_the_same_in_every_evaluation_and_optional():
    cfg = TaskEval(task=Arithmetic(digits=(1,), num_shots=2), items=3)
    with_shots, again, fewer = (
        one.measures(TOKENIZER)[0].items for one in (cfg, cfg, dataclasses.replace(cfg, items=2))
    )
    assert with_shots == again and with_shots[:2] == fewer
    (alone,) = dataclasses.replace(cfg, few_shot=False).measures(TOKENIZER)
    for item, bare in zip(with_shots, alone.items, strict=True):
        assert item.prompt.endswith(bare.prompt) and item.prompt.count("Input:") == 3 * bare.prompt.count("Input:") == 3


def test_questions_longer_than_the_context_are_left_out():
    short = dataclasses.replace(LM, max_len=15, dtype="float32")
    model, _ = tiny.thinker_of(short)
    cfg = TaskEval(task=dataclasses.replace(TASK, min_moves=1), items=12, overlong="skip")
    evaluator = Evaluator(cfg, QuietStar(thought_len=2), model, TOKENIZER)
    left = set(evaluator.fit()["cups_written"])
    # A prompt of m + 2 tokens with room for the workings of six moves: 8 + 2 tokens.
    assert left == {problem.id for problem in cfg.task.problems("dev") if int(problem.group) + 2 + 10 > 15}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task": "gsm8k"}, r"eval.task = 'gsm8k': .* task@eval.task=gsm8k"),
        ({"samples": 4}, "eval.temperature = 0 with eval.samples = 4"),
        ({"split": "all"}, "eval.split = 'all'"),
        ({"items": 0}, "eval.items = 0"),
    ],
)
def test_settings_that_do_not_fit_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(CFG, **change)
