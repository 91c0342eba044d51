import pytest
import toy
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import search_trees

from qstar.search.beam import Beam
from qstar.search.best_of_n import BestOfN
from qstar.search.run import search


def run(strategy, one, prompt=("lock",), **kwargs):
    return search(strategy, [prompt], one.propose, {"prm": one.value}, one.answer, (0,), **kwargs)[0]


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), shape=st.sampled_from([(4, 2), (3, 1), (2, 2), (6, 3)]), rounds=st.integers(1, 5))
def test_the_tree_is_that_of_the_recursive_reference(seed, shape, rounds):
    one = toy.random_toy(seed)
    solution = run(Beam(*shape, rounds), one, ("0",))
    expected = search_trees.beam(one.children, one.values, ("0",), *shape, rounds)
    assert [(node.state, solution.value[node.id]) for node in solution.nodes[1:]] == list(expected.items())


def test_with_m_equal_to_n_each_step_is_the_best_of_n():
    """The prompt's candidates and the choice among them are best-of-N's, where solutions are one step long."""
    for seed in range(20):
        one = toy.random_toy(seed, depth=1, sampled=True)
        beam, best = run(Beam(4, 4, select="max"), one, ("0",)), run(BestOfN(4, "max"), one, ("0",))
        assert [node.state for node in beam.nodes] == [node.state for node in best.nodes]
        assert beam.chosen.id == best.chosen.id


def test_with_m_equal_to_n_one_candidate_of_a_round_is_continued():
    one = toy.lock()
    solution = run(Beam(3, 3), one)
    assert [len(prefixes) for prefixes, _, _ in one.calls] == [1, 1, 1, 1]
    assert solution.answer == "1201"


def test_with_m_of_one_it_is_best_of_n():
    for seed in range(20):
        one = toy.random_toy(seed, depth=2, sampled=True)
        beam, best = run(Beam(6, 1), one, ("0",)), run(BestOfN(6), one, ("0",))
        assert sorted(node.state for node in beam.finished) == sorted(node.state for node in best.finished)
        assert beam.cost.generated == best.cost.generated


def test_the_known_optimum_is_reached_where_the_policy_rarely_goes():
    solution = run(Beam(6, 3), toy.lock())
    assert solution.answer == "1201"
    assert [node.state[-1] for node in solution.chosen.path] == list("1201")


def test_a_round_is_one_call_for_all_problems():
    one = toy.random_toy(3, problems=5)
    search(Beam(4, 2), [(f"{i}",) for i in range(5)], one.propose, {"prm": one.value}, one.answer, (0,))
    assert len(one.calls) <= 4
    assert {prefix.problem for prefix in one.calls[0][0]} == {0, 1, 2, 3, 4}
    assert len(one.scored) == len(one.calls)


def test_what_is_not_finished_after_the_rounds_has_no_vote():
    solution = run(Beam(6, 3, rounds=2), toy.lock())
    assert solution.answer is None
    assert solution.chosen.depth == 2
    assert solution.chosen.state == ("lock", "1", "2")


def test_n_that_m_does_not_divide_is_refused():
    with pytest.raises(ValueError, match=r"search\.n = 6 .*search\.m = 4"):
        Beam(6, 4)
