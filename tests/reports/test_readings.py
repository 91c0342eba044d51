import math

import pytest

from qstar.reports.readings import Readings
from qstar.thoughts.read import Candidate, Reading, Step, Thought

LETTERS = "ab<\n"


class Letters:
    def decode(self, ids):
        return "".join(LETTERS[id] for id in ids)

    def token(self, id):
        return LETTERS[id]


def step(token, base, *thoughts):
    made = tuple(Thought(ids, weight, base, mixed, (Candidate(2, math.log(0.25)),)) for ids, weight, mixed in thoughts)
    return Step(token, made, (Candidate(1, math.log(0.5)),))


FIRST = Reading(0, (step(2, -2.0, ((1, 2), 0.5, -0.5)), step(3, -1.0, ((), 0.25, -1.5))), 2)
SECOND = Reading(1, (step(0, -1.0, ((0,), 0.5, -0.75)),), 2)
READINGS = Readings((FIRST, SECOND), Letters(), "runs/mine")


def test_a_row_has_a_thought_with_its_token_weight_gain_and_candidates():
    rows = READINGS.table().records()
    assert rows[0] == {
        "text": 0, "position": 1, "draw": 0, "token": "<", "thought": "b<", "weight": 0.5, "gain": 1.5,
        "nll_without": 2.0, "nll": 0.5, "id": 2, "candidates_without": [{"token": "b", "probability": 0.5}],
        "candidates": [{"token": "<", "probability": 0.25}], "written": False,
    }  # fmt: skip
    assert [(row["text"], row["position"], row["written"]) for row in rows] == [
        (0, 1, False),
        (0, 2, True),
        (1, 1, False),
    ]


def test_numbers_are_over_the_tokens_of_all_texts():
    assert READINGS.base_nll == pytest.approx(4 / 3)
    assert READINGS.mixed_nll == pytest.approx(2.75 / 3)
    assert READINGS.helped == pytest.approx(2 / 3)
    assert repr(READINGS) == (
        "Readings(2 texts, 3 tokens with thoughts: NLL 1.333 without, 0.917 with, 67% of the tokens helped)"
    )
    assert repr(Readings((Reading(0, (), 1),), Letters(), "")) == "Readings(1 text of one token)"


def test_the_best_and_the_worst_thoughts_stand_with_the_text_before_them():
    assert [(row["text before"], row["thought"], row["token"]) for row in READINGS.best(2).records()] == [
        ("a", "b<", "<"),
        ("b", "a", "a"),
    ]
    assert READINGS.worst().records() == [
        {"text before": "a<", "thought": "", "token": "\n", "gain": -0.5, "weight": 0.25, "nll without": 1.0}
    ]


def test_readings_are_a_sequence_and_a_slice_of_them_is_one():
    assert len(READINGS) == 2 and READINGS[1] is SECOND and list(READINGS) == [FIRST, SECOND]
    assert READINGS[1:].readings == (SECOND,)
    assert READINGS.texts == ["a<\n", "ba"]


def test_what_a_model_wrote_reaches_the_page_as_text():
    shown = READINGS._repr_html_()
    assert "b&lt;" in shown and "b<<" not in shown and ">b<\n" not in shown
    assert shown.count('class="token') == 3 and shown.count('tabindex="0"') == 3
    assert '"token written"' in shown and "(pauses)" in shown
    assert '"given":2' in READINGS.page(0)
