import itertools
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qstar.data import tokenizer as tokenizers
from qstar.tasks import countdown
from qstar.tasks.countdown import Countdown, Goal, Makes
from qstar.tasks.leaks import hint_stands
from qstar.tasks.problem import Problem

QUESTION = "Make 44 from 3, 25, 7, 2."
WORKED = "3 * 7 = 21, left 25, 2, 21\n25 + 21 = 46, left 2, 46\n46 - 2 = 44\n\n"


def reachable(numbers, target):
    """All orders of the numbers, all signs, all bracketings, in fractions that must be positive integers."""
    return any(target in made(order) for order in itertools.permutations(numbers))


def made(numbers):
    if len(numbers) == 1:
        return {Fraction(numbers[0])}
    values = set()
    for cut in range(1, len(numbers)):
        for a, b in itertools.product(made(numbers[:cut]), made(numbers[cut:])):
            values |= {value for value in (a + b, a - b, a * b, a / b) if value > 0 and value.denominator == 1}
    return values


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 12), min_size=2, max_size=4), st.integers(1, 60))
def test_what_can_be_made_is_what_an_exhaustive_search_finds(numbers, target):
    assert countdown.can_make(numbers, target) == reachable(numbers, target)


def test_gold_solutions_of_every_split_are_right_in_both_forms():
    task = Countdown(train=50, dev=50, test=50, seed=3)
    for problem in (problem for split in ("train", "dev", "test") for problem in task.problems(split)):
        worked = task.grader(task.completion(problem.rationale, problem), problem.gold)
        alone = task.grader(task.direct(problem), problem.gold)
        assert worked.correct and alone.correct and worked.answer == alone.answer
        assert countdown.split_of(problem.question) == problem.id.split("-")[0]


@pytest.mark.parametrize(
    ("written", "correct", "answer"),
    [
        (WORKED, True, "(((3 * 7) + 25) - 2)"),
        ("7 * 3 = 21\n21 + 25 = 46\n46 - 2 = 44", True, "(((3 * 7) + 25) - 2)"),  # another order, nothing left
        ("7*3=21\n21+25=46\n46-2=44", True, "(((3 * 7) + 25) - 2)"),
        ("3 * 7 + 25 - 2", True, "(((3 * 7) + 25) - 2)"),
        ("25 - 2 + 7 * 3\n\n", True, "((25 - 2) + (3 * 7))"),
        ("25 + 21 = 46\n46 - 2 = 44", False, "25 + 21 = 46; 46 - 2 = 44"),  # it has no 21
        ("3 * 7 = 22, left 25, 2, 22\n25 + 22 = 47, left 2, 47\n47 - 3 = 44", False, None),
        ("3 * 7 = 21\n25 + 21 = 46", False, "((3 * 7) + 25)"),  # 2 is not used
        ("25 + 7 = 32\n32 * 2 = 64\n64 - 3 = 61", False, "(((25 + 7) * 2) - 3)"),
        ("44", False, "44"),
        ("22 * 2", False, "(2 * 22)"),
        ("3 - 7 + 25 * 2 - 2", False, "3 - 7 + 25 * 2 - 2"),  # below zero on the way
        ("25 / 7", False, "25 / 7"),
        ("25 / 0", False, "25 / 0"),
        ("2 ** 5", False, "2 ** 5"),
        ("((((", False, "(((("),
        ("", False, ""),
        ("I think it is 44", False, ""),
        ("3 * 7 = 21\nso 44", False, ""),
        ("2 5 + 7", False, "2 5 + 7"),
        ("025 + 7", False, "025 + 7"),
        ("٣ * 7 = 21\n25 + 21 = 46\n46 - 2 = 44", False, ""),  # a digit of another script
        ("3 \u00d7 7 + 25 \u2212 2", True, "(((3 * 7) + 25) - 2)"),
        ("3 * 7 + 25 - 2 = 44", True, "(((3 * 7) + 25) - 2)"),
        ("3 * 7 + 25 - 2 = 45", False, "3 * 7 + 25 - 2 = 45"),
        ("3 * 7 + 25 - 2 =", False, ""),
    ],
)  # fmt: skip
def test_solutions_are_graded_by_what_they_make_of_the_numbers(written, correct, answer):
    verdict = Makes()(written, QUESTION)
    assert verdict.correct == correct
    if answer is not None:
        assert verdict.answer == answer


def test_a_number_may_be_used_as_often_as_it_is_given():
    assert Makes()("5 + 5", "Make 10 from 5, 5.").correct
    assert not Makes()("5 + 5", "Make 10 from 5, 2.").correct
    assert not Makes()("5 + 5 + 0", "Make 10 from 5, 5.").correct


def test_deep_and_long_expressions_are_answers_that_are_wrong():
    for written in ("(" * 240 + "1" + ")" * 240, "1 + " * 120 + "1", "9" * 499):
        assert not Makes()(written, QUESTION).correct


@pytest.mark.parametrize(
    ("written", "right", "reachable"),
    [
        (WORKED, "...", "..."),
        # Legal, and 44 can no longer be made.
        ("25 * 3 = 75, left 7, 2, 75\n75 - 7 = 68, left 2, 68\n68 / 2 = 34\n\n", "...", "xxx"),
        # A slip that is carried on: what follows is right, the target out of reach.
        ("3 * 7 = 22, left 25, 2, 22\n25 + 22 = 47, left 2, 47\n47 - 2 = 45\n\n", "x..", "xxx"),
        # Says wrongly what is left, and goes on from there.
        ("3 * 7 = 21, left 25, 3, 21\n25 + 21 = 46, left 3, 46\n46 - 3 = 43\n\n", "x..", "..x"),
        # The right line after a wrong list of what is left does not follow from it.
        ("3 * 7 = 21, left 25, 21\n25 + 21 = 46, left 2, 46\n46 - 2 = 44\n\n", "xx.", "..."),
        # Zero is no positive number, whatever is said to be left.
        ("3 * 7 = 21, left 0, 5\n0 * 5 = 0\n\n", "xx", ".x"),
        # What is left in another order, or not written; signs as people write them.
        ("3 \u00d7 7 = 21, left 21, 2, 25\n25+21=46\n46 \u2212 2 = 44\n\n", "...", "..."),
        ("what\n25 + 21 = 46, left 2, 46\n\n", "xx", "xx"),
    ],
)
def test_steps_are_compared_with_what_is_said_to_be_left_and_with_what_is(written, right, reachable):
    task = Countdown()
    problem = Problem("dev-0", QUESTION, "3 * 7 + 25 - 2", group="4", key=QUESTION)
    steps = task.steps(written)
    assert "".join(steps) == written
    truth = task.truth(problem, steps)
    marks = lambda values: "".join(".x"[not value] for value in values)  # noqa: E731
    assert (marks(truth.right), marks(truth.reachable)) == (right, reachable)


def test_a_correct_solution_has_its_last_step_in_reach_and_a_wrong_one_has_not():
    task, rng = Countdown(numbers=(3,), largest=5, min_target=1), np.random.default_rng(0)
    for problem in task.problems("dev"):
        numbers, lines = countdown.Goal.of(problem.question).numbers, []
        while len(numbers) > 1:
            steps = list(countdown.moves(numbers))
            *step, numbers = steps[rng.integers(len(steps))]
            lines.append(countdown.line(*step, numbers))
        written = "\n".join(lines) + "\n\n"
        truth = task.truth(problem, task.steps(written))
        assert all(truth.right)
        assert truth.reachable[-1] == task.grader(written, problem.gold).correct
        assert list(truth.reachable) == sorted(truth.reachable, reverse=True)  # what is lost stays lost


def test_budget_suffices_for_every_gold_solution_and_its_characters_are_known():
    task = Countdown(train=500)
    tokenizer = tokenizers.characters(countdown.ALPHABET, countdown.WORDS)
    for problem in task.problems("train"):
        assert len(tokenizer.encode(task.completion(problem.rationale, problem))) <= task.budget(problem, tokenizer)
        for text in (task.hinted(problem), task.completion(problem.rationale, problem), task.direct(problem)):
            assert tokenizer.decode(tokenizer.encode(text)) == text


def test_stored_completions_keep_the_workings_and_hide_the_hint():
    task = Countdown()
    problem = task.problems("dev")[0]
    stored = task.cleaned(task.completion(problem.rationale, problem) + "more")
    assert stored == problem.rationale + "\n\n"
    assert task.reasons(stored) == problem.rationale.rpartition("\n")[0]
    assert not hint_stands(stored, task.shown(problem)) and hint_stands(task.hinted(problem), task.shown(problem))
    assert task.cleaned("I think it is 44\n\n") is None and task.reasons("I think it is 44") is None


def test_no_problem_is_in_two_splits_not_even_with_its_numbers_in_another_order():
    task = Countdown(train=2000, dev=200, test=200)
    splits = {split: [problem.question for problem in task.problems(split)] for split in ("train", "dev", "test")}
    for split in ("dev", "test"):
        assert len(set(splits[split])) == len(splits[split]) == 400
    goals = [{(goal.target, *sorted(goal.numbers)) for goal in map(Goal.of, found)} for found in splits.values()]
    assert len(set.union(*goals)) == sum(map(len, goals))
    assert countdown.split_of("Make 44 from 3, 25, 7, 2.") == countdown.split_of("Make 44 from 25, 2, 3, 7.")


def test_orders_of_one_problem_lie_in_one_split_and_are_counted():
    goals = {
        split: [Goal.of(problem.question) for problem in Countdown().problems(split)]
        for split in ("train", "dev", "test")
    }
    problems = {split: {(goal.target, *sorted(goal.numbers)) for goal in found} for split, found in goals.items()}
    assert not problems["train"] & problems["dev"] and not problems["train"] & problems["test"]
    assert not problems["dev"] & problems["test"]
    assert {split: (len(goals[split]), len(problems[split])) for split in ("dev", "test")} == {
        "dev": (200, 175),
        "test": (1000, 586),
    }


def test_shots_have_as_many_numbers_and_are_not_the_question():
    task = Countdown(num_shots=3)
    problem = task.problems("dev")[-1]
    shots = task.shots(problem, np.random.default_rng(0))
    assert [shot.group for shot in shots] == ["4"] * 3 and problem.question not in [shot.question for shot in shots]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"numbers": ()}, "task.numbers"),
        ({"numbers": (3, 3)}, "task.numbers"),
        ({"numbers": (9,)}, "numbers"),
        ({"min_target": 50, "max_target": 20}, "task.min_target"),
        ({"largest": 1}, "task.largest"),
    ],
)
def test_bad_settings_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        Countdown(**change)


def test_targets_that_cannot_be_made_are_refused_before_they_are_searched_for_ever(monkeypatch):
    monkeypatch.setattr(countdown, "MOST_DRAWS", 200)
    with pytest.raises(ValueError, match="made no number from 90 to 99"):
        Countdown(numbers=(2,), largest=3, min_target=90, train=5).problems("train")
    with pytest.raises(ValueError, match="hardly more than"):
        Countdown(numbers=(2,), largest=10, min_target=8, dev=500).problems("dev")
