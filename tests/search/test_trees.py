"""What holds for every strategy: budgets, accounts, determinism, independence of problems, and refusals."""

import dataclasses

import numpy as np
import pytest
import toy
from hypothesis import given, settings
from hypothesis import strategies as st

from qstar.search.beam import Beam
from qstar.search.best_of_n import BestOfN
from qstar.search.confidence import Confidence
from qstar.search.cot_decoding import CoTDecoding
from qstar.search.dvts import DVTS
from qstar.search.interface import Budget, Candidate
from qstar.search.lookahead import Lookahead
from qstar.search.majority import Majority
from qstar.search.mcts import MCTS
from qstar.search.particles import ParticleFilter
from qstar.search.revise import Revise
from qstar.search.router import Router
from qstar.search.run import search

STRATEGIES = [
    Majority(4),
    Majority(8, stop=0.9, batch=2),
    BestOfN(4),
    Beam(4, 2),
    DVTS(4, 2),
    Lookahead(4, 2, 2),
    ParticleFilter(4),
    MCTS(6, 3),
    MCTS(6, 3, rule="puct", evaluate="rollouts", terminal="agreement", batch=3, select="majority"),
    Revise(2, 3),
    CoTDecoding(3),
    Confidence(4),
    Router(2, edges=(0.4, 0.7), sizes=(6, 4, 2)),
]
NAMED = {"ids": lambda strategy: type(strategy).__name__}


def run(strategy, one, problems=1, key=(7,), **kwargs):
    value = {"prm": one.value, "oracle": lambda nodes: np.array([float(one.answer(node) == "a") for node in nodes])}
    prompts = [(f"{problem}",) for problem in range(problems)]
    return search(strategy, prompts, one.propose, value, one.answer, key, **kwargs)


@pytest.mark.parametrize("strategy", STRATEGIES, **NAMED)
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), slack=st.integers(0, 12), spare=st.integers(0, 5))
def test_budgets_are_never_exceeded_and_accounts_add_up(strategy, seed, slack, spare):
    one = toy.random_toy(seed, problems=2, sampled=True)
    limit = strategy.branching + slack
    budgets = [Budget(candidates=limit), Budget(tokens=2 * limit + spare % 2, step_tokens=2)]
    for solution in run(strategy, one, 2, budget=budgets[spare % 2]):
        own = [node for node in solution.nodes if node.parent is not None]
        assert solution.cost.candidates == len(own) <= limit
        assert solution.cost.generated == sum(node.candidate.tokens for node in own) == 2 * len(own)
        assert solution.chosen in solution.nodes
        useful = {step for node in solution.finished for step in node.path}
        assert solution.cost.discarded == solution.cost.generated - 2 * len(useful)


@pytest.mark.parametrize("strategy", STRATEGIES, **NAMED)
def test_a_search_is_a_function_of_its_key(strategy):
    def states(key):
        solutions = run(strategy, toy.random_toy(3, problems=3, sampled=True), 3, key)
        return [[node.state for node in solution.nodes] for solution in solutions], solutions.answers, solutions.cost

    assert states((7,)) == states((7,))
    if not isinstance(strategy, CoTDecoding):
        assert any(states((7,))[0] != states((seed,))[0] for seed in range(8, 11))


@pytest.mark.parametrize("strategy", STRATEGIES, **NAMED)
def test_a_problem_does_not_see_the_others_of_its_batch(strategy):
    one = toy.random_toy(11, problems=4, sampled=True)
    alone, together = run(strategy, one, 1)[0], run(strategy, one, 4)[0]
    assert [node.state for node in alone.nodes] == [node.state for node in together.nodes]
    assert (alone.chosen.id, alone.answer, alone.cost) == (together.chosen.id, together.answer, together.cost)


def test_equal_prompts_are_sampled_independently():
    one = toy.lock(sampled=True)
    first, second = search(Majority(8), [("lock",)] * 2, one.propose, {}, one.answer, (0,))
    assert [node.state for node in first.nodes] != [node.state for node in second.nodes]


@pytest.mark.parametrize("strategy", STRATEGIES, **NAMED)
def test_every_candidate_is_kept_with_its_parent_and_scores(strategy):
    one = toy.random_toy(2, problems=2, sampled=True)
    for solution in run(strategy, one, 2):
        for at, node in enumerate(solution.nodes):
            assert node.id == at
            assert node.parent is None or solution.nodes[node.parent.id] is node.parent
            asked = np.isfinite(solution.scores["oracle"][at])
            assert asked == node.finished
        assert solution.answers == tuple(one.answers.get(node.state) for node in solution.nodes)


@pytest.mark.parametrize("strategy", STRATEGIES, **NAMED)
def test_a_budget_below_the_first_round_is_refused_before_any_proposal(strategy):
    one = toy.random_toy(0)
    small = strategy.branching - 1
    with pytest.raises(ValueError, match=rf"budget\.candidates = {small}.* {strategy.branching}"):
        run(strategy, one, budget=Budget(candidates=small))
    with pytest.raises(ValueError, match=rf"budget\.tokens = {2 * small}.* {2 * strategy.branching}"):
        run(strategy, one, budget=Budget(tokens=2 * small, step_tokens=2))
    assert one.calls == []


@pytest.mark.parametrize("strategy", [one for one in STRATEGIES if one.guided], **NAMED)
def test_a_missing_scorer_is_refused_before_any_proposal(strategy):
    one = toy.random_toy(0)
    with pytest.raises(ValueError, match="value is empty"):
        search(strategy, [("0",)], one.propose, {}, one.answer, (0,))
    assert one.calls == []


def test_scored_tokens_are_those_from_the_prompt_to_each_node():
    """Two steps of two tokens: four of the first step, twice two and two of the second."""
    one = toy.Toy({("0",): {"a": 0.5, "b": 0.5}, ("0", "a"): {"x": 1.0}, ("0", "b"): {"x": 1.0}}, {}, {})
    one.values = dict.fromkeys([("0", "a"), ("0", "b"), ("0", "a", "x"), ("0", "b", "x")], 0.5)
    one.answers = {("0", "a", "x"): "a", ("0", "b", "x"): "b"}
    cost = search(Beam(2, 1), [("0",)], one.propose, {"prm": one.value}, one.answer, (0,)).cost
    assert dataclasses.astuple(cost) == (4, 8, 0, 2 + 2 + 4 + 4, 2, 2)


@pytest.mark.parametrize(
    ("scores", "said"),
    [
        (np.array([0.5, np.nan]), "scorer prm: nan for node 2 of problem 0"),
        (np.array([0.5, np.inf]), "scorer prm: inf for node 2 of problem 0"),
        (np.array([0.5]), r"scorer prm: scores of shape \(1,\); expected \(2,\)"),
        (np.ones((2, 1)), r"scorer prm: scores of shape \(2, 1\); expected \(2,\)"),
    ],
)
def test_scores_of_a_wrong_shape_or_that_are_not_finite_are_refused(scores, said):
    one = toy.lock()
    with pytest.raises(ValueError, match=said):
        search(Beam(2, 2), [("lock",)], one.propose, {"prm": lambda nodes: scores}, one.answer, (0,))


@pytest.mark.parametrize(
    ("proposed", "said"),
    [
        ([[]], "node 0 of problem 0: 0 candidates; expected from 1 to 2"),
        ([[Candidate("a", 1, True)] * 3], "node 0 of problem 0: 3 candidates; expected from 1 to 2"),
        ([], "for 0 prefixes; it was asked for 1"),
        ([[Candidate("a", 9, True)]], "9 tokens.*budget.step_tokens = 4"),
        ([[Candidate("a", 2, True, logprobs=np.zeros(3))]], r"shape \(3,\) for a step of 2 tokens"),
    ],
)
def test_proposals_that_break_the_contract_are_refused(proposed, said):
    budget = Budget(tokens=100, step_tokens=4)
    with pytest.raises(ValueError, match=said):
        search(Majority(2), ["q"], lambda *_: proposed, {}, lambda node: "1", (0,), budget)


def test_no_problems_and_tokens_without_a_step_limit_are_refused():
    with pytest.raises(ValueError, match="prompts is empty"):
        search(Majority(2), [], lambda *_: [], {}, lambda node: "1", (0,))
    with pytest.raises(ValueError, match=r"budget\.tokens = 9 needs budget\.step_tokens"):
        Budget(tokens=9)
