import dataclasses

import numpy as np
import pytest
import toy
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import search_trees

from qstar.search.interface import Budget, Candidate
from qstar.search.mcts import MCTS
from qstar.search.run import search


def run(strategy, one, prompt=("0",), value=None, **kwargs):
    value = {"prm": one.value} if value is None else value
    return search(strategy, [prompt], one.propose, value, one.answer, (0,), **kwargs)[0]


def statistics(solution):
    visited = [node for node in solution.nodes if solution.visits[node.id]]
    return {node.state: (int(solution.visits[node.id]), float(solution.value[node.id])) for node in visited}


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    n=st.integers(1, 25),
    k=st.integers(1, 3),
    depth=st.integers(2, 5),
    rule=st.sampled_from(["uct", "puct"]),
    evaluate=st.sampled_from(["scorer", "rollouts"]),
)
def test_the_tree_is_that_of_the_recursive_reference(seed, n, k, depth, rule, evaluate):
    one = toy.random_toy(seed)
    solution = run(MCTS(n, k, depth, rule, evaluate=evaluate), one)
    tree = search_trees.Tree(one.children, one.values, k=k, depth=depth, rule=rule, rolled=evaluate == "rollouts")
    for _ in range(n):
        tree.simulate(("0",))
    found = statistics(solution)
    assert {path: visits for path, (visits, _) in found.items()} == tree.visits
    for path, (visits, mean) in found.items():
        assert mean == tree.totals[path] / visits


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    n=st.integers(1, 30),
    batch=st.integers(1, 5),
    rule=st.sampled_from(["uct", "puct"]),
    evaluate=st.sampled_from(["scorer", "rollouts", "both"]),
)
def test_visit_counts_add_up(seed, n, batch, rule, evaluate):
    """Those of the prompt's children to n; those of any other node's children to its own but the first."""
    one = toy.random_toy(seed, sampled=True)
    solution = run(MCTS(n, 3, rule=rule, evaluate=evaluate, batch=batch), one)
    below = np.zeros(len(solution.nodes), int)
    for node in solution.nodes[1:]:
        below[node.parent.id] += solution.visits[node.id]
    assert solution.visits[0] == below[0] == n
    for node in solution.nodes[1:]:
        assert below[node.id] in ((0,) if node.finished else (0, solution.visits[node.id] - 1))
        assert not (node.rollout and solution.visits[node.id])


@pytest.mark.parametrize("rule", ["uct", "puct"])
@pytest.mark.parametrize("evaluate", ["scorer", "rollouts"])
def test_one_simulation_is_the_greedy_walk_by_score(rule, evaluate):
    for seed in range(20):
        one = toy.random_toy(seed)
        walk = ("0",)
        while walk in one.children:
            walk = max(search_trees.steps(one.children, walk, 3), key=one.values.get)
        assert run(MCTS(1, 3, rule=rule, evaluate=evaluate), one).chosen.state == walk


def test_more_simulations_leave_a_trap_that_greedy_walks_into():
    children = {("q",): {"a": 0.5, "b": 0.5}, ("q", "a"): {"x": 1.0}, ("q", "b"): {"x": 1.0}}
    values = {("q", "a"): 0.8, ("q", "b"): 0.6, ("q", "a", "x"): 0.1, ("q", "b", "x"): 0.9}
    one = toy.Toy(children, values, {("q", "a", "x"): "wrong", ("q", "b", "x"): "right"})
    assert run(MCTS(1, 2), one, ("q",)).answer == "wrong"
    assert run(MCTS(16, 2, c=0.5), one, ("q",)).answer == "right"


def test_the_known_optimum_is_reached():
    assert run(MCTS(40, 3, c=0.5), toy.lock(), ("lock",)).answer == "1201"


def test_uct_and_puct_by_hand():
    """Three simulations of two children of values 0.5 and 0.4."""
    one = toy.Toy(
        {("q",): {"a": 0.2, "b": 0.8}}, {("q", "a"): 0.5, ("q", "b"): 0.4}, {("q", "a"): "a", ("q", "b"): "b"}
    )
    # UCT: a, then b, which was never visited, then a, whose bonus is b's.
    assert run(MCTS(3, 2), one, ("q",)).visits.tolist() == [3, 2, 1]
    # PUCT: a; then of priors 1/3 and 2/3: a 0.5 + 1.25 / 3 / 2 = 0.71, b 0.4 + 1.25 * 2 / 3 = 1.23; then
    # a 0.5 + 1.77 / 6 = 0.79, b 0.4 + 1.77 / 3 = 0.99.
    assert run(MCTS(3, 2, rule="puct"), one, ("q",)).visits.tolist() == [3, 1, 2]


def test_the_bonus_of_uct_is_that_of_all_visits_before():
    """Values 1 and 0: the second child is visited again where 2 sqrt(ln N) (1 - 1 / sqrt(N - 1)) > 1, from N = 5 on."""
    one = toy.Toy(
        {("q",): {"a": 0.5, "b": 0.5}}, {("q", "a"): 1.0, ("q", "b"): 0.0}, {("q", "a"): "a", ("q", "b"): "b"}
    )
    assert run(MCTS(5, 2), one, ("q",)).visits.tolist() == [5, 4, 1]
    assert run(MCTS(6, 2), one, ("q",)).visits.tolist() == [6, 4, 2]


def test_agreement_needs_no_scorer_and_is_the_share_of_equal_answers():
    """Of ends that are reached in the order a, b, c, two agree."""
    children = {("q",): dict.fromkeys("abc", 1 / 3)}
    answers = {("q", "a"): "4", ("q", "b"): "5", ("q", "c"): "4"}
    cfg = MCTS(3, 3, evaluate="rollouts", terminal="agreement")
    solution = run(cfg, toy.Toy(children, {}, answers), ("q",), value={})
    assert solution.value[1:] == pytest.approx([2 / 3, 1 / 3, 2 / 3])
    assert run(dataclasses.replace(cfg, select="majority"), toy.Toy(children, {}, answers), ("q",), {}).answer == "4"


def test_both_is_the_mean_of_score_and_rollout():
    children = {("q",): {"a": 1.0}, ("q", "a"): {"x": 1.0}}
    one = toy.Toy(children, {("q", "a"): 0.5, ("q", "a", "x"): 1.0}, {("q", "a", "x"): "1"})
    assert run(MCTS(1, 1, evaluate="both"), one, ("q",)).value[1] == 0.75


def test_a_batch_of_simulations_shares_its_calls():
    calls = {}
    for batch in (1, 4):
        one = toy.lock()
        run(MCTS(24, 3, evaluate="rollouts", batch=batch), one, ("lock",))
        calls[batch] = len(one.calls)
    assert calls[4] <= calls[1] / 2


def test_equal_steps_are_one_child_and_count_in_the_cost():
    def propose(prefixes, k, key):
        return [[Candidate((*prefix.state, "x"), 1, True, "x") for _ in range(k)] for prefix in prefixes]

    solution = search(
        MCTS(2, 4), [("q",)], propose, {"prm": lambda nodes: np.ones(len(nodes))}, lambda node: "1", (0,)
    )[0]
    assert solution.visits.tolist() == [2, 2, 0, 0, 0]
    assert solution.cost.candidates == 4


def test_noise_at_the_prompt_changes_priors_by_the_key():
    one = toy.random_toy(1, depth=1)
    cfg = MCTS(12, 3, rule="puct", root_noise=1.0, dirichlet=0.3)
    visits = {
        tuple(search(cfg, [("0",)], one.propose, {"prm": one.value}, one.answer, (seed,))[0].visits)
        for seed in range(9)
    }
    assert len(visits) > 1


def test_a_budget_that_ends_leaves_the_best_finished_solution():
    solution = run(MCTS(40, 3), toy.lock(), ("lock",), budget=Budget(candidates=10))
    assert solution.cost.candidates == 9
    assert solution.answer is None
    assert solution.visits[0] < 40
