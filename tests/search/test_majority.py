import pytest
import toy
from scipy.special import betainc

from qstar.search.interface import Candidate
from qstar.search.majority import Majority, lead
from qstar.search.run import search


def solve(answers, strategy):
    """The answers of each problem are sampled one after another; solutions and the sizes of all calls."""
    calls = []

    def propose(prefixes, k, key):
        calls.append((len(prefixes), k))
        return [
            [Candidate(answers[prefix.problem][prefix.draws * k + row], 1, True) for row in range(k)]
            for prefix in prefixes
        ]

    return search(strategy, range(len(answers)), propose, {}, lambda node: node.state, (0,)), calls


def test_the_answer_of_most_wins_and_silence_abstains():
    (solution,), _ = solve([[None, "1", None, "2", "2", None]], Majority(6))
    assert solution.answer == "2"


def test_of_equal_counts_the_answer_that_came_first_wins():
    (solution,), _ = solve([["3", "1", "1", "3"]], Majority(4))
    assert solution.answer == "3"
    assert solution.chosen.id == 1


def test_where_no_sample_has_an_answer_there_is_none():
    (solution,), _ = solve([[None, None]], Majority(2))
    assert solution.answer is None
    assert solution.chosen.finished


def test_sampling_ends_where_the_leader_is_ahead():
    """Four votes for one answer: 1 - I_0.5(5, 1) = 0.96875."""
    solutions, calls = solve([["1"] * 12, ["1", "2"] * 6], Majority(12, stop=0.95))
    assert calls == [(2, 4), (1, 4), (1, 4)]
    assert [solution.cost.candidates for solution in solutions] == [4, 12]


@pytest.mark.parametrize("votes", [(0, 0), (4, 0), (5, 3), (20, 11)])
def test_the_lead_is_the_incomplete_beta_function(votes):
    first, second = votes
    assert lead(first, second) == pytest.approx(1 - betainc(first + 1, second + 1, 0.5), abs=1e-12)


def test_the_policy_s_favourite_wins_over_the_right_answer():
    one = toy.lock(sampled=True)
    solution = search(Majority(400), [("lock",)], one.propose, {}, one.answer, (0,))[0]
    assert solution.answer == "0000"
    assert "1201" in solution.answers


def test_a_stop_below_one_half_is_refused():
    with pytest.raises(ValueError, match=r"search\.stop = 0\.2"):
        Majority(stop=0.2)
