"""Steps of solutions, and which of them are right, where a task knows it."""

import dataclasses

import numpy as np
import pytest

from qstar.tasks.arithmetic import Arithmetic
from qstar.tasks.countdown import Countdown
from qstar.tasks.cups import Cups
from qstar.tasks.gsm8k import GSM8K
from qstar.tasks.problem import Problem

SUM = Problem(
    "train-2-0",
    "5 8 + 4 7",
    "1 0 5",
    rationale="<scratch>\n5 8 + 4 7 , C: 0\n5 + 4 , 5 C: 1\n, 0 5 C: 1\n1 0 5\n</scratch>",
    group="2",
)
CUPS = Problem("train-0", "3aeg=", "4", rationale="-454-", group="3")


def truth(task, problem, written):
    steps = task.steps(written)
    assert "".join(steps) == written
    found = task.truth(problem, steps)
    assert len(found.right) == len(found.reachable) == len(steps)
    marks = lambda values: "".join(".x"[not value] for value in values)  # noqa: E731
    return marks(found.right), marks(found.reachable)


@pytest.mark.parametrize("task", [Arithmetic(), Countdown(), Cups()], ids=["arithmetic", "countdown", "cups"])
def test_every_step_of_a_right_solution_is_right(task):
    for problem in task.problems("dev"):
        right, reachable = truth(task, problem, task.completion(problem.rationale, problem))
        assert set(right) == set(reachable) == {"."}


@pytest.mark.parametrize("task", [Arithmetic(), Countdown(), Cups()], ids=["arithmetic", "countdown", "cups"])
def test_an_answer_alone_is_one_step(task):
    problem = task.problems("dev")[0]
    assert truth(task, problem, task.direct(problem)) == (".", ".")
    wrong = "2" if problem.answer == "1" else "1"
    assert truth(task, problem, task.direct(dataclasses.replace(problem, answer=wrong))) == ("x", "x")


@pytest.mark.parametrize(
    ("lines", "right", "reachable"),
    [
        # 8 + 7 is 5 with a carry: all after a wrong digit follows, and is lost.
        ("<scratch>|5 8 + 4 7 , C: 0|5 + 4 , 6 C: 1|, 0 6 C: 1|1 0 6|</scratch>|1 0 6", "..x....", "..xxx.x"),
        # The carry forgotten, then found again: that line is a second mistake, and the answer comes within reach.
        ("<scratch>|5 8 + 4 7 , C: 0|5 + 4 , 5 C: 0|, 0 5 C: 1|1 0 5|</scratch>|1 0 5", "..xx...", "..x...."),
        # Another pair of digits than the question's.
        ("<scratch>|5 8 + 4 7 , C: 0|6 + 4 , 5 C: 1|, 1 5 C: 1|1 1 5|</scratch>|1 1 5", "..x....", "..xxx.x"),
        # An answer that is not the scratchpad's.
        ("<scratch>|5 8 + 4 7 , C: 0|5 + 4 , 5 C: 1|, 0 5 C: 1|1 0 5|</scratch>|1 0 6", "......x", "......x"),
        # Nothing follows from a line that is none, nor after the end.
        ("<scratch>|what|5 + 4 , 5 C: 1", ".xx", ".x."),
        ("<scratch>|5 8 + 4 7 , C: 0|5 + 4 , 5 C: 1|, 0 5 C: 1|1 0 5|</scratch>|1 0 5|1", ".......x", ".......x"),
    ],
)
def test_lines_of_a_scratchpad(lines, right, reachable):
    assert truth(Arithmetic(), SUM, lines.replace("|", "\n")) == (right, reachable)


@pytest.mark.parametrize(
    ("written", "right", "reachable"),
    [
        ("-454-4;", "....", "...."),
        ("-435-5;", ".x..", ".xxx"),  # a slip, followed from there on
        ("-434-4;", ".xx.", ".x.."),  # a slip that is put right by another
        ("-454-5;", "...x", "...x"),
        ("-45", "..", ".."),
        ("-4544-4;", "...xx", "...xx"),
    ],
)
def test_places_of_workings(written, right, reachable):
    assert truth(Cups(), CUPS, written) == (right, reachable)


def test_the_first_wrong_step():
    task = Cups()
    assert task.truth(CUPS, task.steps("-435-5;")).first_wrong == 1
    assert task.truth(CUPS, task.steps("-454-4;")).first_wrong is None


def test_tasks_in_words_split_at_lines_and_know_no_truth(tmp_path):
    task = GSM8K(folder=str(tmp_path))
    steps = task.steps(" 3 + 4 = 7\n7 * 2 = 14\n\n#### 14\n\n")
    assert steps == (" 3 + 4 = 7\n", "7 * 2 = 14\n\n", "#### 14\n\n")
    assert task.truth(SUM, steps) is None


def test_cups_are_questions_with_splits_hints_and_shots():
    task = Cups(num_shots=2, dev=50)
    few = Cups(min_moves=4, max_moves=4, dev=50)  # 50,000 problems, so that splits that overlap would show
    questions = [[one.question for one in few.problems(split)] for split in ("train", "dev", "test")]
    assert [len(set(found)) for found in questions] == [2000, 50, 500]
    assert len(set().union(*questions)) == 2550
    assert task.prompt(CUPS) == "3aeg=" and task.hinted(CUPS) == "4.3aeg="
    shots = task.shots(CUPS, np.random.default_rng(0))
    assert task.prompt(CUPS, shots) == "".join(f"{one.question}{one.rationale}{one.answer};" for one in shots) + "3aeg="
    assert [task.grader(text, "4").reason for text in ("-454-4", "4;", "-454-5", "-454", "4 or 5")] == [
        "right", "right", "wrong", "no answer", "no answer"
    ]  # fmt: skip
    with pytest.raises(ValueError, match=r"task.dev = 500: .* different problems of 1 to 1 moves"):
        Cups(min_moves=1, max_moves=1, dev=500).problems("dev")
