import functools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qstar.data.revisions import edit_distance, revisions


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("kitten", "sitting", 3),
        ("", "abc", 3),
        ("abc", "", 3),
        ("", "", 0),
        ("flaw", "lawn", 2),
        ("-454-4;", "-453-3;", 2),
    ],
)
def test_edit_distance_of_known_pairs(first, second, expected):
    assert edit_distance(first, second) == expected


@given(st.text("abc", max_size=7), st.text("abc", max_size=7))
def test_edit_distance_is_the_recursive_definition(first, second):
    @functools.cache
    def distance(i, j):
        if not i or not j:
            return i + j
        replaced = distance(i - 1, j - 1) + (first[i - 1] != second[j - 1])
        return min(distance(i - 1, j) + 1, distance(i, j - 1) + 1, replaced)

    assert edit_distance(first, second) == distance(len(first), len(second))


def test_the_last_attempt_is_the_closest_and_each_number_of_attempts_is_as_frequent():
    wrong = ["zzzz", "axcd", "zzzy", "yyyy", "xxxx"]
    made = revisions(["abcd"] * 1000, wrong, np.random.default_rng(0))
    counts = np.bincount([len(revision.attempts) for revision in made], minlength=5)
    assert len(counts) == 5 and (abs(counts - 200) < 5 * np.sqrt(1000 * 0.2 * 0.8)).all()
    with_attempts = [revision.attempts for revision in made if revision.attempts]
    assert {attempts[-1] for attempts in with_attempts} == {"axcd"}
    assert all(len(set(attempts)) == len(attempts) for attempts in with_attempts)
    assert {attempts[0] for attempts in with_attempts if len(attempts) > 1} == set(wrong) - {"axcd"}


def test_there_are_no_more_attempts_than_wrong_solutions():
    made = revisions(["a"] * 20, ["b"], np.random.default_rng(0))
    assert {revision.attempts for revision in made} == {(), ("b",)}
    assert [revision.attempts for revision in revisions(["a"] * 3, [], np.random.default_rng(0))] == [()] * 3
