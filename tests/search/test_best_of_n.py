import numpy as np
import pytest

from qstar.search import choose
from qstar.search.beam import Beam
from qstar.search.best_of_n import BestOfN
from qstar.search.cot_decoding import CoTDecoding
from qstar.search.interface import Candidate
from qstar.search.majority import Majority
from qstar.search.router import Router
from qstar.search.run import search

SAMPLES = [("1", 0.9), ("2", 0.5), ("2", 0.6), (None, 1.0), ("3", 0.8), ("3", 0.1)]


def solve(strategy, samples=SAMPLES, more=None):
    def propose(prefixes, k, key):
        return [[Candidate(sample, 1, True) for sample in samples[:k]] for _ in prefixes]

    value = {"orm": lambda nodes: np.array([node.state[1] for node in nodes])} | (more or {})
    return search(strategy, [None], propose, value, lambda node: node.state[0], (0,))[0]


@pytest.mark.parametrize(
    ("strategy", "answer", "node"),
    [
        (BestOfN(6, "max"), "1", 1),
        (BestOfN(6, "weighted"), "2", 3),  # 0.9, 1.1, 0.9
        (BestOfN(6, "vote", top=3), "1", 1),  # 1, 3, 2: the best one of three that are level
        (BestOfN(6, "vote", top=4), "2", 3),
        (BestOfN(1, "max"), "1", 1),
    ],
)
def test_choices_by_hand(strategy, answer, node):
    solution = solve(strategy)
    assert (solution.answer, solution.chosen.id) == (answer, node)


def test_equal_weights_go_to_the_answer_that_came_first():
    assert solve(BestOfN(2, "weighted"), [("1", 0.5), ("2", 0.5)]).answer == "1"


def test_a_negative_score_cannot_be_a_weight():
    with pytest.raises(ValueError, match=r"-0\.5.*select=max"):
        solve(BestOfN(2), [("1", -0.5), ("2", 0.5)])
    assert solve(BestOfN(2, "max"), [("1", -0.5), ("2", 0.5)]).answer == "2"


@pytest.mark.parametrize("select", choose.SELECTS)
def test_a_choice_among_no_candidates_is_refused(select):
    with pytest.raises(ValueError, match="no candidates to choose from"):
        choose.by_rule(select, None, [])


def test_the_oracle_is_a_scorer_that_changes_nothing_unless_it_comes_first():
    def oracle(nodes):
        return np.array([float(node.state[0] == "3") for node in nodes])

    solution = solve(BestOfN(6), more={"oracle": oracle})
    assert solution.answer == "2"
    assert solution.scores["oracle"][1:].tolist() == [0, 0, 0, 0, 1, 1]

    def propose(prefixes, k, key):
        return [[Candidate(sample, 1, True) for sample in SAMPLES[:k]] for _ in prefixes]

    assert search(BestOfN(6), [None], propose, {"oracle": oracle}, lambda node: node.state[0], (0,)).answers == ("3",)


def test_more_votes_than_samples_are_refused():
    with pytest.raises(ValueError, match=r"search\.top = 3 .*search\.n = 2"):
        BestOfN(2, "vote")


def test_a_strategy_of_whole_solutions_says_how_many_and_makes_do_with_fewer():
    resized = [Majority(n=40).resized(5), CoTDecoding().resized(4), BestOfN(n=16, select="vote", top=3).resized(2)]
    assert resized == [Majority(n=5), CoTDecoding(k=4), BestOfN(n=2, select="vote", top=2)]
    assert [strategy.size for strategy in (*resized, Router(), Beam())] == [5, 4, 2, None, None]
