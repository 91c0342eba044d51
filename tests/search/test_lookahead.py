import pytest
import toy
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import search_trees

from qstar.search.beam import Beam
from qstar.search.interface import Budget
from qstar.search.lookahead import Lookahead
from qstar.search.run import search


def run(strategy, one, prompt=("0",), **kwargs):
    return search(strategy, [prompt], one.propose, {"prm": one.value}, one.answer, (0,), **kwargs)[0]


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), shape=st.sampled_from([(4, 2), (3, 1), (2, 2)]), k=st.integers(0, 3))
def test_the_tree_is_that_of_the_recursive_reference(seed, shape, k):
    one = toy.random_toy(seed)
    solution = run(Lookahead(*shape, k), one)
    expected = search_trees.beam(one.children, one.values, ("0",), *shape, 40, k)
    own = [node for node in solution.nodes[1:] if not node.rollout]
    assert [(node.state, solution.value[node.id]) for node in own] == list(expected.items())


@pytest.mark.parametrize("seed", range(10))
def test_without_lookahead_it_is_beam_search(seed):
    one = toy.random_toy(seed, sampled=True)
    zero, beam = run(Lookahead(6, 2, 0), one), run(Beam(6, 2), one)
    assert [node.state for node in zero.nodes] == [node.state for node in beam.nodes]
    assert (zero.chosen.id, zero.cost) == (beam.chosen.id, beam.cost)


def trap():
    """Step a looks better than b, and leads to nothing."""
    children = {("q",): {"a": 0.5, "b": 0.5}, ("q", "a"): {"end": 1.0}, ("q", "b"): {"end": 1.0}}
    values = {("q", "a"): 0.8, ("q", "b"): 0.6, ("q", "a", "end"): 0.1, ("q", "b", "end"): 0.9}
    return toy.Toy(children, values, {("q", "a", "end"): "wrong", ("q", "b", "end"): "right"})


def test_a_step_is_ranked_by_the_score_at_the_end_of_its_rollout():
    assert run(Beam(2, 2), trap(), ("q",)).answer == "wrong"
    assert run(Lookahead(2, 2, 1), trap(), ("q",)).answer == "right"


def test_rollouts_are_greedy_count_in_the_cost_and_have_no_vote():
    one = trap()
    solution = run(Lookahead(2, 2, 1, rounds=1), one, ("q",))
    assert [key for _, _, key in one.calls] == [(0,), None]
    assert (solution.cost.candidates, solution.cost.generated) == (4, 8)
    assert solution.answer is None
    assert solution.chosen.state == ("q", "b")


def test_a_rollout_that_the_budget_ends_is_scored_at_its_end():
    solution = run(Lookahead(2, 2, 1, rounds=1), trap(), ("q",), budget=Budget(candidates=3))
    assert solution.value[1:3].tolist() == [0.1, 0.6]
