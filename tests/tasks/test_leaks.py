"""Leaks: hints in stored text, answers stated before they are derived, hints that are followed though wrong."""

from collections import Counter

import numpy as np
import pytest

from qstar.tasks import leaks
from qstar.tasks.gsm8k import GSM8K
from qstar.tasks.leaks import Statement, WrongHints
from qstar.tasks.problem import Problem


@pytest.mark.parametrize(
    ("stored", "shown", "stands"),
    [
        (" She pays 8 * 9 = 72.\n#### 72\n\n", " (72)", False),
        (" As the answer (72) says, 8 * 9 = 72.\n#### 72\n\n", " (72)", True),
        (" The answer must be ink (correct). Therefore, the answer is (a).\n\n", " (CORRECT)", True),
        ("<scratch>\n3 + 2 , C: 0\n, 5 C: 0\n0 5\n</scratch>\n5\n\n", "Target: 0 5", False),
        ("Target:\n0 5\n<scratch>\n", "Target: 0 5", True),
    ],
)
def test_the_hint_is_looked_for_as_it_was_shown(stored, shown, stands):
    assert leaks.hint_stands(stored, shown) is stands


def test_a_text_that_repeats_the_hint_is_not_stored():
    hens = Problem("0", "Hens?", "7")
    clean, leaky = " 3 + 4 = 7\n#### 7\n\n", " The hint says (7).\n#### 7\n\n"
    assert leaks.stored(GSM8K(), hens, clean + "Q: more", hint=True) == clean
    assert leaks.stored(GSM8K(), hens, leaky, hint=True) is None
    assert leaks.stored(GSM8K(), hens, leaky, hint=False) == leaky
    assert leaks.stored(GSM8K(), hens, " 3 + 4 = 7", hint=True) is None


def test_without_a_hint_there_is_nothing_to_look_for():
    with pytest.raises(ValueError, match="no hint was shown"):
        leaks.hint_stands("text", " ")


@pytest.mark.parametrize(
    ("text", "spellings", "place"),
    [
        ("it is 7", ("7",), 6),
        ("17 and 70 and 7.5 and 1,007 and 0.7 and 3 7 and x7", ("7",), None),
        ("it costs $7.", ("7",), 9),
        ("so 1,080 and 1080", ("1080", "1,080"), 3),
        ("a grapefruit, a grape", ("(c)", "grape"), 16),
        ("Grape it is", ("(c)", "grape"), 0),
        ("this is (c)", ("(c)", "grape"), 8),
        ("1 0 5 4 0", ("0 5 4", "1 0 5 4"), None),
        ("no answer", ("",), None),
    ],
)
def test_an_answer_is_stated_where_it_stands_by_itself(text, spellings, place):
    assert leaks.stated(text, spellings) == place


@pytest.mark.parametrize(
    ("reasons", "place", "derived", "early"),
    [
        ("8 * 9 = 72. ok", 8 / 14, True, False),
        ("8 * 9 = $<<8*9=72>>72.", 15 / 22, True, False),
        ("It is 72, as 8 * 9 = 72", 6 / 23, False, True),
        ("Eight times nine.", 1.0, True, False),
    ],
)
def test_statements_after_an_equals_sign_are_derived(reasons, place, derived, early):
    found = leaks.statement(reasons, ("72",))
    assert found == Statement(pytest.approx(place), derived)
    assert found.early is early


def test_shares_count_rationales_that_declare_an_answer():
    found = [Statement(0.5, True), Statement(0.25, False), Statement(1.0, True), None, Statement(0.25, False)]
    assert leaks.statements(found) == leaks.Statements(count=4, stated=0.75, early=0.5, place=0.5)
    with pytest.raises(ValueError, match="no rationale declares an answer"):
        leaks.statements([None, leaks.statement(None, ("1",))])


# --- wrong hints --------------------------------------------------------------------------------------------------

QUESTIONS = [
    Problem("0", "1 + 1", "2", "0 2", group="1"),
    Problem("1", "2 + 1", "3", "0 3", group="1"),
    Problem("2", "1 + 2", "3", "0 3", group="1"),
    Problem("3", "3 + 1", "4", "0 4", group="1"),
    Problem("4", "9 9 + 9 9", "1 9 8", "1 9 8", group="2"),
]


def test_a_wrong_hint_is_that_of_another_answer_in_the_group():
    seen = Counter()
    for seed in range(60):
        found = leaks.wrong_hints(QUESTIONS, np.random.default_rng(seed))
        assert [one.problem.id for one in found] == ["0", "1", "2", "3"]  # the last group has one answer only
        for one, question in zip(found, QUESTIONS, strict=False):
            assert (one.problem.question, one.problem.answer) == (question.question, question.answer)
            assert one.problem.hint == f"0 {one.hinted}" and one.hinted != question.answer
            seen[question.id, one.hinted] += 1
    assert set(seen) == {("0", "3"), ("0", "4"), ("1", "2"), ("1", "4"), ("2", "2"), ("2", "4"), ("3", "2"), ("3", "3")}


def test_without_a_hint_of_their_own_questions_are_told_the_other_answer():
    found = leaks.wrong_hints([Problem("0", "?", "A"), Problem("1", "?", "B")], np.random.default_rng(0))
    assert [(one.problem.hint, one.hinted) for one in found] == [("B", "B"), ("A", "A")]


def test_what_follows_wrong_hints_is_counted():
    answers = [("7", "7", "3"), ("7", "7", "4"), ("3", "7", "3"), ("5", "7", "3"), ("", "7", "3")]
    count = leaks.wrong_hint_count(answers)
    assert count == WrongHints(asked=5, followed=2, right=1, other=1, none=1)
    assert count.share_followed == 0.4


def test_right_hints_are_no_wrong_hints():
    with pytest.raises(ValueError, match=r"the hint '3' is the right answer"):
        leaks.wrong_hint_count([("3", "3", "3")])
    with pytest.raises(ValueError, match="no wrong hints were shown"):
        leaks.wrong_hint_count([])
