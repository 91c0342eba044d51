"""A model at work without a command or a file: reading, writing, answering, searching."""

import dataclasses

import jax
import pytest
import small_runs

import qstar
from qstar.data import tokenizer as tokenizers
from qstar.evals.suite import CupsEval
from qstar.methods.plain_lm import PlainLM
from qstar.methods.quiet_star import QuietStar
from qstar.models import lm
from qstar.models.lm import LMConfig
from qstar.policy import Policy
from qstar.reports import interactive
from qstar.tasks.cups import Cups

TOKENIZER = tokenizers.characters(small_runs.ALPHABET)
LM = LMConfig(TOKENIZER.size, width=16, layers=1, heads=2, kv_heads=2, head_size=8, ff=20, max_len=64)
METHOD = QuietStar(thought_len=2, delimiter="-", mixing_start=0.5)


@pytest.fixture(scope="module")
def policy():
    definition = METHOD.definition(LM, TOKENIZER)
    params = METHOD.start_from(definition, lm.definition(LM).init(jax.random.key(0)), jax.random.key(1))
    return Policy(METHOD, definition, params, TOKENIZER, "small")


def test_a_policy_is_one_line_without_its_weights(policy):
    assert (
        repr(policy) == f"Policy(small: QuietStar, 1 layers of width 16, {policy.definition.size / 1e6:.3g} M weights)"
    )


def test_texts_are_read_with_likeliest_and_with_drawn_thoughts(policy):
    readings = qstar.read(policy, ["3aegbdh=4;", "1b=2"])
    assert readings.texts == ["3aegbdh=4;", "1b=2"]
    assert readings.about == "small · thoughts of 2 tokens, likeliest"
    assert [row["position"] for row in readings.table().records()] == [*range(1, 10), 1, 2, 3]
    drawn = qstar.read(policy, "1b=2", num_thoughts=3, seed=4)
    assert drawn.table()["draw"].tolist() == [0, 1, 2] * 3


def test_a_text_goes_on_with_what_the_model_writes(policy):
    (reading,) = interactive.think(policy, "3a=", tokens=2)
    assert reading.given == 3 and 4 <= len(reading.tokens) <= 5


def test_questions_are_answered_by_the_name_of_an_evaluation_and_kept_on_request(policy, tmp_path):
    answers = qstar.ask(policy, "cups", items=6, batch_size=6, out=tmp_path / "asked")
    assert [(row.task, row.way, row.n) for row in answers.rows] == [("cups", "none", 6), ("cups", "greedy", 6)]
    assert len(answers.items["cups"]) == 12
    right = answers.items["cups"]["exact"].sum()
    assert len(answers.wrong()) == 12 - right
    assert "95" not in repr(answers) and "cups, likeliest thoughts: accuracy" in repr(answers)
    assert "<table" in answers._repr_html_()
    assert (tmp_path / "asked" / "cups.parquet").is_file()


def test_a_search_leaves_a_directory_that_is_opened(policy, tmp_path):
    task = Cups(min_moves=6, max_moves=6)
    folder = interactive.solve(policy, task, "majority", n=2, questions=2, out=tmp_path / "search")
    run = qstar.open(folder)
    assert run.questions()["solutions"].tolist() == [2, 2]
    assert run.config.search.n == 2


@pytest.mark.parametrize(
    ("call", "found"),
    [
        (lambda policy: qstar.ask(policy, "nope"), r"'nope'.*arithmetic.*perplexity"),
        (lambda policy: qstar.ask(policy), "no task"),
        (lambda policy: qstar.ask(policy, "cups", itemz=3), r"itemz = 3.*items"),
        (lambda policy: qstar.ask(policy, CupsEval(), items=-1), r"items = -1"),
        (lambda policy: interactive.solve(policy, "cups", "nope"), r"'nope'.*majority"),
        (lambda policy: interactive.solve(policy, "cups", "majority", m=2), r"m = 2.*n"),
        (lambda policy: qstar.read(policy, []), r"\[\]"),
        (lambda policy: qstar.read(policy, "3a=", num_thoughts=2), "num_thoughts = 2"),
        (lambda policy: qstar.read(dataclasses.replace(policy, method=PlainLM()), "3a="), "method=lm"),
    ],
)
def test_what_cannot_work_is_refused_by_its_name_and_value(policy, call, found):
    with pytest.raises(ValueError, match=found):
        call(policy)
