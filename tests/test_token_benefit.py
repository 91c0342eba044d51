"""What thoughts did to every token of a text: the numbers of experiments/quiet_star/token_benefit.py."""

import math
import sys

import numpy as np
import pytest

from qstar.data import tokenizer as tokenizers
from qstar.paths import ROOT
from qstar.thoughts.read import Reading, Step, Thought

sys.path.insert(0, str(ROOT / "experiments" / "quiet_star"))

import token_benefit


def step(token, base, mixed, thought=(3,)):
    return Step(token, (Thought(thought, 0.5, base, mixed, ()),), ())


@pytest.fixture
def readings():
    easy = Reading(0, (step(1, -0.1, -0.2), step(2, -0.2, -0.2)), 3)
    hard = Reading(2, (step(1, -4.0, -1.0, (2, 0)), step(0, -5.0, -5.5), step(1, -6.0, -6.1)), 4)
    return [easy, hard]


def test_every_token_but_the_first_of_a_text_is_a_row(readings):
    tokens = token_benefit.gathered(readings)
    assert tokens.text.tolist() == [0, 0, 1, 1, 1]
    assert tokens.position.tolist() == [1, 2, 1, 2, 3]
    np.testing.assert_allclose(tokens.gain, [-0.1, 0.0, 3.0, -0.5, -0.1])


def test_the_mean_counts_tokens_and_its_interval_texts(readings):
    tokens = token_benefit.gathered(readings)
    mean, low, high = token_benefit.mean_gain(tokens, np.ones(5, bool))
    assert math.isclose(mean, 2.3 / 5)
    assert math.isclose(low, -0.05)  # the first text drawn twice
    assert math.isclose(high, 0.8)  # the second one


def test_parts_hold_every_token_once_in_order_of_difficulty(readings):
    tokens = token_benefit.gathered(readings)
    parts = token_benefit.parts(tokens)
    assert [np.flatnonzero(chosen).tolist() for _, _, chosen in parts] == [[0], [1], [2], [3], [4]]
    assert (parts[0][0], parts[-1][1]) == (0.1, 6.0)


def test_the_best_thoughts_come_first_with_what_stood_before_them(readings):
    text = token_benefit.summary(token_benefit.gathered(readings), readings, tokenizers.characters("ab|d"))
    first = text.split("| text before |")[1].splitlines()[2]
    assert first == "| `¦` | `b` | `¦a` | +3.000 | 4.00 |"
    assert (
        "5 tokens of 2 texts; mean gain +0.46000 [-0.05000, +0.80000] nats; 0.200 of the tokens became likelier" in text
    )


def test_texts_without_the_fields_are_refused(tmp_path):
    (tmp_path / "t.jsonl").write_text('{"question": "q", "answer": "a"}\n')
    assert token_benefit.texts(tmp_path / "t.jsonl", ["question", "answer"], 3) == ["q\na"]
    with pytest.raises(ValueError, match=r"t.jsonl: its records lack body; choose other fields with --field"):
        token_benefit.texts(tmp_path / "t.jsonl", ["body"], 3)
    with pytest.raises(FileNotFoundError, match=r"none.jsonl is no file"):
        token_benefit.texts(tmp_path / "none.jsonl", ["body"], 3)
