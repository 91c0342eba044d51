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
