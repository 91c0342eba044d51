"""Labels of steps from completions whose outcomes are literal."""

import pytest

from qstar.search import labelling
from qstar.search.labelling import MonteCarlo, OmegaPRM, Solution


def solution(text, right, problem=0):
    """A step is a letter, and a token."""
    return Solution(problem, "?", tuple(text), tuple((ord(letter),) for letter in text), right)


class Completer:
    """Completions that end right after the prefixes of `right`, by its number; keeps what it was asked."""

    def __init__(self, right):
        self.right, self.calls = right, []

    def __call__(self, prefixes, k):
        self.calls.append([("".join(one.solution.steps[: one.count]), k) for one in prefixes])
        found = []
        for one in prefixes:
            before = "".join(one.solution.steps[: one.count])
            outcomes = self.right.get(before, "")
            found.append(
                [solution(f"{before}{i}z", outcomes[i : i + 1] == "1", one.solution.problem) for i in range(k)]
            )
        return found


def test_monte_carlo_labels_of_the_papers_equations():
    complete = Completer({"a": "0100", "ab": "0000"})
    (hard,) = MonteCarlo(k=4)([solution("abc", False)], complete)
    assert hard.labels == (True, False, False)
    assert hard.outcomes == ((False, True, False, False), (False,) * 4, (False,))
    (soft,) = MonteCarlo(k=4, soft=True)([solution("abc", False)], complete)
    assert soft.labels == (0.25, 0.0, 0.0)
    assert complete.calls[0] == [("a", 4), ("ab", 4)]  # the last step has its own answer


def test_fewer_completions_are_the_first_of_the_largest():
    outcomes = ((False, True, False, False), (False, False, False, True), (True,))
    assert labelling.estimates(outcomes, 1, soft=False) == (False, False, True)
    assert labelling.estimates(outcomes, 2, soft=True) == (0.5, 0.0, 1.0)
    assert labelling.estimates(outcomes, 4, soft=False) == (True, True, True)
    assert labelling.estimates((None, (True,)), 1, soft=True) == (None, 1.0)
    with pytest.raises(ValueError, match=r"label.smaller = \[8\]: 8 is no smaller"):
        MonteCarlo(k=8, smaller=(8,))


@pytest.mark.parametrize("first", range(8))
def test_halving_finds_the_first_wrong_step_in_three_calls_of_eight_steps(first):
    text = "abcdefgh"
    complete = Completer({text[:count]: "01" for count in range(1, first + 1)})
    (found,) = OmegaPRM(k=2)([solution(text, False)], complete)
    assert found.labels == tuple(count < first for count in range(8))
    assert len(complete.calls) == 3
    assert sum(each is not None for each in found.outcomes) == 4  # and the answer's own


def test_any_right_completion_makes_a_prefix_right_and_right_solutions_are_free():
    complete = Completer({"ab": "0000001"})
    wrong, right = OmegaPRM(k=7)([solution("abcd", False), solution("abcx", True)], complete)
    assert wrong.labels == (True, True, False, False)
    assert right.labels == (True,) * 4
    assert complete.calls == [[("ab", 7)], [("abc", 7)]]


def test_questions_are_searched_side_by_side():
    complete = Completer({"a": "1", "p": "1"})
    found = OmegaPRM(k=1)([solution("abcd", False, 0), solution("pqrs", False, 1)], complete)
    assert [each.labels for each in found] == [(True, False, False, False)] * 2
    assert complete.calls == [[("ab", 1), ("pq", 1)], [("a", 1), ("p", 1)]]


def test_soft_labels_are_the_shares_of_the_prefixes_that_were_completed():
    complete = Completer({"ab": "0100", "abc": "0000"})
    (found,) = OmegaPRM(k=4, soft=True)([solution("abcde", False)], complete)
    assert found.labels == (None, 0.25, 0.0, 0.0, 0.0)


def test_wrong_completions_are_searched_as_well_and_none_twice():
    # "ab" is right in half of its completions: ab0z is wrong, ab1z right.
    complete = Completer({"ab": "01"})
    found = OmegaPRM(k=2, searches=5)([solution("abcd", False)], complete)
    assert [("".join(each.solution.steps), each.given) for each in found] == [("abcd", True), ("ab0z", False)]
    assert found[1].labels == (True, True, False, False)
    none = OmegaPRM(k=2, searches=0)([solution("abcd", False)], Completer({"ab": "01"}))
    assert len(none) == 1


def test_a_prefix_that_was_selected_yields_to_others_of_equal_quality():
    tree = labelling._Tree(OmegaPRM(k=2, searches=2, beta=1.0, c_puct=1.0))
    tree.add(solution("abcdefgh", False))
    pairs = [
        labelling._Pair((1,), 1, 0.5, solution("a0z", False), False),
        labelling._Pair((1,), 1, 0.5, solution("a1z", False), False),
        labelling._Pair((2,), 1, 0.5, solution("b0z", False), False),
    ]
    tree.waiting, tree.pool = [], list(pairs)
    tree._select()
    assert tree.pair.rollout.steps[:2] == ("a", "0")
    tree.pair = None
    tree._select()
    assert tree.pair.rollout.steps[:2] == ("b", "0")
    assert (tree.visits[(1,)], tree.visits[(2,)], len(tree.pool)) == (1, 1, 1)


def test_quality_counts_the_tokens_that_were_written_after_the_prefix():
    tree = labelling._Tree(OmegaPRM(k=2, alpha=0.5, beta=0.9, length=2, c_puct=0.125))
    late = labelling._Pair(tuple(b"abcd"), 4, 0.5, solution("abcdyz", False), False)  # two tokens after four
    early = labelling._Pair(tuple(b"a"), 1, 0.5, solution("awxyz", False), False)  # four after one
    assert tree._worth(late, 0.5) == pytest.approx(0.5**0.5 * 0.9)
    assert tree._worth(early, 0.5) == pytest.approx(0.5**0.5 * 0.9**2)
