"""The bench of other models' mistakes: what is read of the files, how solutions are divided, and the figures."""

import experiment_scripts
import numpy as np
import pytest

RIGHT, WRONG = True, False


@pytest.fixture(scope="module")
def bench():
    return experiment_scripts.load("verifiers/mistakes/mistakes")


def record(mistake, steps=("A = 1", " B = 2 ", "So 3"), answer="3"):
    return {"input": "1 + 2 =", "steps": list(steps), "target": "3", "answer": answer, "mistake_index": mistake}


@pytest.mark.parametrize(
    ("mistake", "labels"),
    [
        (None, [RIGHT, RIGHT, RIGHT]),
        (0, [WRONG, None, None]),
        (1, [RIGHT, WRONG, None]),
        (2, [RIGHT, RIGHT, WRONG]),
    ],
)
def test_steps_before_the_mistake_are_right_and_those_after_it_unlabelled(mistake, labels, bench):
    row = bench.solution(record(mistake), "arithmetic", 7)
    assert row == {
        "task": "arithmetic", "number": 7, "prompt": "1 + 2 =\n", "completions": ["A = 1\n", "B = 2\n", "So 3\n"],
        "labels": labels,
    }  # fmt: skip
    assert bench.judged(row) == [label for label in labels if label is not None]


@pytest.mark.parametrize("mistake", [3, -1])
def test_a_mistake_that_is_no_step_is_refused(mistake, bench):
    with pytest.raises(ValueError, match=f"objects 4: mistake_index {mistake}: .* 3 steps"):
        bench.solution(record(mistake), "objects", 4)


@pytest.mark.parametrize(
    ("mistake", "answer", "contradictory"), [(None, "3", False), (None, "4", True), (1, "4", False), (1, "3", False)]
)
def test_a_wrong_answer_without_a_mistake_is_a_contradiction(mistake, answer, contradictory, bench):
    assert bench.contradictory(record(mistake, answer=answer)) is contradictory


def test_a_split_holds_every_solution_once_and_each_task_three_to_one_to_one(bench):
    rows = [{"task": task, "number": number} for task, count in (("a", 10), ("b", 22)) for number in range(count)]
    parts = [bench.split(rows, seed) for seed in (0, 0, 1)]
    assert parts[0] == parts[1] != parts[2]
    for of in parts:
        places = [(row["task"], row["number"]) for row in [*of.train, *of.dev, *of.test]]
        assert len(places) == len(set(places)) == 32
        for part, a, b in ((of.train, 6, 14), (of.dev, 2, 4), (of.test, 2, 4)):
            assert [sum(row["task"] == task for row in part) for task in ("a", "b")] == [a, b]


def test_shares_of_right_steps_are_by_task_and_place_and_count_no_unlabelled_step(bench):
    rows = [
        {"task": "a", "labels": [RIGHT, WRONG, None]},
        {"task": "a", "labels": [RIGHT, RIGHT, RIGHT]},
        {"task": "b", "labels": [WRONG, None, None]},
    ]
    assert bench.shares_right(rows, lambda row: row["task"]) == {
        ("a", 0): 3 / 4,
        ("a", 1): 2 / 4,
        ("a", 2): 2 / 3,
        ("b", 0): 1 / 3,
    }


def test_the_story_of_a_gift_that_is_a_ball_is_of_gifts(bench):
    prompts = ("They swap gifts: Alice has a ball.", "A game: Alice has a ball.", "(1 + 2) =")
    assert [bench.story({"prompt": prompt}) for prompt in prompts] == ["gifts", "ball", ""]


def test_the_area_is_the_share_of_pairs_in_order_with_ties_as_halves(bench):
    assert bench.area([0.9, 0.5, 0.5, 0.1], [RIGHT, RIGHT, WRONG, WRONG]) == (1 + 1 + 0.5 + 1) / 4
    assert bench.area([0.9, 0.5, 0.5, 0.1], [RIGHT, RIGHT, WRONG, WRONG], ["a", "b", "b", "b"]) == (0.5 + 1) / 2
    assert np.isnan(bench.area([0.9, 0.1], [RIGHT, RIGHT])) and np.isnan(bench.area([1, 0], [RIGHT, WRONG], ["a", "b"]))


SOLUTIONS = [
    {"judged": [RIGHT, WRONG], "scores": [0.8, 0.3, 0.0]},  # what follows the mistake does not matter
    {"judged": [RIGHT, WRONG], "scores": [0.6, 0.5, 0.9]},
    {"judged": [RIGHT, RIGHT], "scores": [0.9, 0.4]},
]
for solution, story in zip(SOLUTIONS, ("ball", "books", "ball"), strict=True):
    solution.update(task="objects", story=story)


def test_the_threshold_is_that_of_the_highest_f1_of_first_mistakes(bench):
    named = {at: bench.first_mistakes(SOLUTIONS, at) for at in (0.3, 0.5, 0.7)}
    assert [(of.wrong, of.right) for of in named.values()] == [(0.5, 1.0), (1.0, 0.0), (0.5, 0.0)]
    assert bench.best_threshold(SOLUTIONS) == 0.3
    assert bench.best_threshold(SOLUTIONS[:2]) == 0.5  # every solution has a mistake: there is no F1


def test_steps_are_judged_up_to_the_mistake_and_solutions_by_all_of_theirs(bench):
    found = bench.figures_of(SOLUTIONS, 0.3)
    assert (found["steps"], found["solutions"]) == (6, 3)
    near = {
        "flawless": 1 / 3, "base_rate": 4 / 6, "accuracy": 5 / 6, "step_auc": 7 / 8,
        "brier": (0.04 + 0.09 + 0.16 + 0.25 + 0.01 + 0.36) / 6, "named": 0.5, "passed": 1.0, "f1": 2 / 3,
        "solution_auc": 1 / 2, "within_auc": 1.0, "solution_base": 2 / 3, "solution_accuracy": 2 / 3,
    }  # fmt: skip
    for name, value in near.items():
        assert found[name] == pytest.approx(value, rel=1e-12), name
