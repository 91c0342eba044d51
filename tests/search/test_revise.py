import numpy as np
import pytest

from qstar.search.interface import Budget, Candidate
from qstar.search.revise import Revise
from qstar.search.run import search


def solve(strategy, table, problems=1, **kwargs):
    """table[chain][attempt] is (answer, score). A solution is one step, and sees the attempts before it."""
    seen = []

    def propose(prefixes, k, key):
        firsts = [(chain, 0) for chain in range(k)]
        seen.append([tuple(node.state[:2] for node in prefix.prompt.attempts) for prefix in prefixes])
        rows = [[(p.attempts[-1].state[0], p.attempts[-1].state[1] + 1)] if p.attempts else firsts for p in prefixes]
        return [[Candidate((*at, *table[at[0]][at[1]]), 1, True) for at in row] for row in rows]

    def value(nodes):
        return np.array([node.state[3] for node in nodes])

    solutions = search(strategy, ["q"] * problems, propose, {"orm": value}, lambda node: node.state[2], (0,), **kwargs)
    return solutions, seen


TABLE = [
    [("1", 0.3), ("1", 0.3), ("2", 0.5)],
    [("2", 0.4), ("3", 0.45), ("2", 0.1)],
    [("3", 0.9), ("2", 0.2), ("1", 0.1)],
]


@pytest.mark.parametrize(
    ("select", "answer"),
    # Chains choose 1 (0.6), 2 (0.5), 3 (0.9) by nodes of 0.3, 0.4 and 0.9. Over all: 1 0.7, 2 1.2, 3 1.35.
    [("hierarchical", "3"), ("weighted", "3"), ("majority", "2")],
)
def test_choices_by_hand(select, answer):
    (solution,), _ = solve(Revise(3, 3, select=select), TABLE)
    assert solution.answer == answer


def test_hierarchical_and_flat_choices_differ():
    """Chains choose 1, 1 and 2 (0.6 over 0.55), which are 1.0 against 0.6; over all 2 has most."""
    table = [[("1", 0.5), ("2", 0.45)], [("1", 0.5), ("2", 0.45)], [("2", 0.6), ("1", 0.1)]]
    assert solve(Revise(3, 2), table)[0].answers == ("1",)
    assert solve(Revise(3, 2, select="weighted"), table)[0].answers == ("2",)


def test_a_revision_sees_the_last_attempts_of_its_chain():
    chain = [[("1", 0.5)] * 5]
    _, seen = solve(Revise(1, 5, context=2), chain)
    assert seen == [[()], [((0, 0),)], [((0, 0), (0, 1))], [((0, 1), (0, 2))], [((0, 2), (0, 3))]]


def test_chains_of_all_problems_are_revised_in_one_call():
    solutions, seen = solve(Revise(3, 3), TABLE, problems=2)
    assert [len(attempts) for attempts in seen] == [2, 6, 6]
    assert [solution.cost.candidates for solution in solutions] == [9, 9]


def test_a_chain_that_the_budget_ends_is_chosen_from_as_it_is():
    (solution,), _ = solve(Revise(3, 3), TABLE, budget=Budget(candidates=4))
    assert solution.cost.candidates == 4
    assert len(solution.finished) == 4
