import math

import pytest

from qstar.tasks.grading.grade import Verdict
from qstar.tasks.rewards import Rewards

RIGHT, WRONG = Verdict(True, "4", "right"), Verdict(False, "5", "wrong")
NONE, SEVERAL = Verdict(False, "", "no answer"), Verdict(False, "", "several answers")


@pytest.mark.parametrize(
    ("verdict", "finished", "grade"),
    [(RIGHT, True, 1.0), (WRONG, True, 0.1), (NONE, True, -0.2), (SEVERAL, True, -0.2), (RIGHT, False, -0.5)],
)
def test_only_a_declared_answer_that_can_be_read_earns_as_a_wrong_one(verdict, finished, grade):
    rewards = Rewards(right=1.0, wrong=0.1, nothing=-0.2, unfinished=-0.5)
    assert rewards.terms(verdict, finished, 5, 10) == {"grade": grade}


def test_length_is_taken_off_right_answers_alone():
    rewards = Rewards(length=0.5)
    assert rewards.terms(RIGHT, True, 4, 10) == {"grade": 1.0, "length": -0.2}
    assert rewards.terms(WRONG, True, 4, 10) == {"grade": 0.0, "length": 0.0}
    assert rewards.terms(RIGHT, False, 10, 10) == {"grade": 0.0, "length": 0.0}


@pytest.mark.parametrize(
    ("tokens", "finished", "overlong"), [(6, True, 0.0), (7, True, -0.25), (10, True, -1.0), (10, False, -1.0)]
)
def test_the_soft_punishment_falls_over_the_last_tokens(tokens, finished, overlong):
    assert Rewards(overlong=4).terms(RIGHT, finished, tokens, 10)["overlong"] == overlong


@pytest.mark.parametrize(
    ("how", "earned"),
    [
        ("last", [0, 0, 0.4]),
        ("mean", [0, 0, 0.5]),
        ("min", [0, 0, 0.2]),
        ("sum", [0.9, 0.2, 0.4]),
        ("difference", [0.9, -0.7, 0.2]),
    ],
)
def test_scores_of_steps_become_what_they_earn(how, earned):
    assert Rewards(scorer_as=how).shaped([0.9, 0.2, 0.4]).tolist() == pytest.approx(earned)
    assert Rewards(scorer_as=how, scorer_coef=-2).shaped([0.9, 0.2, 0.4]).tolist() == pytest.approx(
        [-2 * step for step in earned]
    )


def test_the_soft_minimum_weighs_scores_by_how_low_they_are():
    # exp(-s / 0.5) of 0 and 0.5 is 1 and 1 / e, so the weights are e / (1 + e) and 1 / (1 + e).
    assert Rewards(scorer_as="softmin", softmin=0.5).shaped([0.0, 0.5]).tolist() == pytest.approx(
        [0, 0.5 / (1 + math.e)]
    )
    cold = Rewards(scorer_as="softmin", softmin=1e-3).shaped([0.9, 0.2, 0.4])
    assert cold.tolist() == pytest.approx([0, 0.2, 0])


def test_partial_credit_is_a_share_of_its_weight():
    assert Rewards(steps=0.5).terms(WRONG, True, 5, 10, right_steps=0.5) == {"grade": 0.0, "steps": 0.25}
