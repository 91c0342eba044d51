"""What thoughts did to every token of a text."""

import math

import numpy as np
import pytest

from qstar.data import tokenizer as tokenizers
from qstar.reports import benefit
from qstar.thoughts.read import Reading, Step, Thought


def step(token, base, mixed, thought=(3,)):
    return Step(token, (Thought(thought, 0.5, base, mixed, ()),), ())


@pytest.fixture
def readings():
    easy = Reading(0, (step(1, -0.1, -0.2), step(2, -0.2, -0.2)), 3)
    hard = Reading(2, (step(1, -4.0, -1.0, (2, 0)), step(0, -5.0, -5.5), step(1, -6.0, -6.1)), 4)
    return [easy, hard]


def test_every_token_but_the_first_of_a_text_is_a_row(readings):
    tokens = benefit.gathered(readings)
    assert tokens.text.tolist() == [0, 0, 1, 1, 1]
    assert tokens.position.tolist() == [1, 2, 1, 2, 3]
    np.testing.assert_allclose(tokens.gain, [-0.1, 0.0, 3.0, -0.5, -0.1])


def test_the_mean_counts_tokens_and_its_interval_texts(readings):
    tokens = benefit.gathered(readings)
    mean, low, high = benefit.mean_gain(tokens, np.ones(5, bool))
    assert math.isclose(mean, 2.3 / 5)
    assert math.isclose(low, -0.05)  # the first text drawn twice
    assert math.isclose(high, 0.8)  # the second one


def test_parts_hold_every_token_once_in_order_of_difficulty(readings):
    tokens = benefit.gathered(readings)
    parts = benefit.parts(tokens)
    assert [np.flatnonzero(chosen).tolist() for _, _, chosen in parts] == [[0], [1], [2], [3], [4]]
    assert (parts[0][0], parts[-1][1]) == (0.1, 6.0)


def test_the_best_thoughts_come_first_with_what_stood_before_them(readings):
    text = benefit.summary(benefit.gathered(readings), readings, tokenizers.characters("ab|d"))
    first = text.split("| text before |")[1].splitlines()[2]
    assert first == "| `¦` | `b` | `¦a` | +3.000 | 4.00 |"
    assert (
        "5 tokens of 2 texts; mean gain +0.46000 [-0.05000, +0.80000] nats; 0.200 of the tokens became likelier" in text
    )
