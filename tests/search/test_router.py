"""More solutions for questions that look difficult, by a table that was fitted on others."""

import numpy as np
import pytest

from qstar.search import allocate
from qstar.search.allocate import Table, Tried, fitted, two_fold
from qstar.search.interface import Candidate
from qstar.search.router import Router, agreement
from qstar.search.run import search


def solved(strategy, samples):
    """`samples`: of each problem, answers and scores in the order in which they are drawn."""
    drawn = [0] * len(samples)

    def propose(prefixes, k, key):
        steps = []
        for prefix in prefixes:
            start, drawn[prefix.problem] = drawn[prefix.problem], drawn[prefix.problem] + k
            steps.append([Candidate(sample, 1, True) for sample in samples[prefix.problem][start : start + k]])
        return steps

    value = {"orm": lambda nodes: np.array([node.state[1] for node in nodes])}
    return search(strategy, [None] * len(samples), propose, value, lambda node: node.state[0], (0,))


EASY = [("1", 0.9), ("1", 0.8), ("2", 0.9), ("2", 0.9)]
HARD = [("1", 0.2), ("2", 0.3), ("3", 0.9), ("3", 0.1)]


@pytest.mark.parametrize("estimate", ["score", "agreement"])
def test_a_question_that_looks_easy_gets_no_more_solutions(estimate):
    solutions = solved(Router(2, estimate, edges=(0.8,), sizes=(4, 2)), [EASY, HARD])
    assert solutions.answers == ("1", "3")
    assert [solution.cost.candidates for solution in solutions] == [2, 4]


def test_votes_alone_need_no_scorer():
    router = Router(2, "agreement", edges=(0.8,), sizes=(4, 2), select="majority")
    assert not router.guided
    solutions = solved(router, [EASY, HARD])
    assert solutions.answers == ("1", "3")


def first_the_likeliest(strategy, likeliest, samples):
    """`likeliest`: of each problem, an answer and the log-probs of its tokens. Answers, and nodes that were scored."""
    scored = []

    def propose(prefixes, k, key):
        if key is None:
            return [
                [Candidate((likeliest[one.problem][0], 0.5), 2, True, None, likeliest[one.problem][1])]
                for one in prefixes
            ]
        return [[Candidate(sample, 1, True) for sample in samples[one.problem][:k]] for one in prefixes]

    def value(nodes):
        scored.extend(node.state for node in nodes)
        return np.array([node.state[1] for node in nodes])

    found = search(strategy, [None] * len(samples), propose, {"orm": value}, lambda node: node.state[0], (0,))
    return found, scored


def test_a_question_whose_likeliest_solution_is_sure_gets_no_sample_and_no_score():
    sure, unsure = np.log([0.9, 0.4]), np.log([0.9, 0.3])  # geometric means of 0.6 and 0.52
    router = Router(1, "likelihood", edges=(0.55,), sizes=(4, 1))
    found, scored = first_the_likeliest(router, [("7", sure), ("8", unsure)], [EASY, HARD])
    assert found.answers == ("7", "3")
    assert [solution.cost.candidates for solution in found] == [1, 4]
    assert scored == [("8", 0.5), *HARD[:3]]
    same = first_the_likeliest(router.resized(1), [("7", sure), ("8", unsure)], [EASY, HARD])
    assert (same[0].answers, same[1]) == (("7", "8"), [])


def test_agreement_is_the_share_of_the_most_frequent_answer():
    assert [agreement(answers) for answers in (["1", "1", "2", None], [None, None], ["3"])] == [0.5, 0.0, 1.0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"edges": (0.5,)}, r"search\.edges = \[0.5\]"),
        ({"edges": (0.5, 0.2), "sizes": (4, 4, 4)}, "ascending"),
        ({"probe": 8, "sizes": (4,)}, r"search\.probe = 8"),
        ({"estimate": "likelihood", "sizes": (4,)}, r"search\.probe = 2 with .* give search\.probe=1"),
    ],
)
def test_tables_that_do_not_fit_together_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Router(**settings)


# --- fitting ------------------------------------------------------------------------------------------------------

# Difficult questions are right with the third size alone, easy ones with any.
QUESTIONS = [Tried(0.1, (0, 0, 1), (1, 2, 8)), Tried(0.9, (1, 1, 1), (1, 2, 8))] * 4


def test_the_budget_goes_to_the_questions_that_need_it():
    table = fitted(QUESTIONS, bins=2, budget=4.5)
    assert (table.edges, table.choices) == ((0.9,), (2, 0))
    assert fitted(QUESTIONS, bins=2, budget=2).choices == (0, 0)
    assert fitted(QUESTIONS, bins=2, budget=100).choices == (2, 0)  # the cheapest of equal tables


def test_a_table_is_the_best_of_all():
    rng = np.random.default_rng(0)
    questions = [Tried(rng.random(), rng.integers(2, size=3), np.sort(rng.random(3))) for _ in range(30)]
    table = fitted(questions, bins=3, budget=0.5)
    spent = lambda choices: [q.cost[Table(table.edges, choices).choice(q.estimate)] for q in questions]  # noqa: E731
    worth = lambda choices: sum(q.right[Table(table.edges, choices).choice(q.estimate)] for q in questions)  # noqa: E731
    every = [(a, b, c) for a in range(3) for b in range(3) for c in range(3)]
    assert worth(table.choices) == max(worth(choices) for choices in every if np.mean(spent(choices)) <= 0.5)


def test_two_folds_measure_on_questions_that_the_table_has_not_seen():
    # The halves disagree: what is fitted on one is wrong on the other.
    odd, even = Tried(0.5, (1, 0), (1, 1)), Tried(0.5, (0, 1), (1, 1))
    assert [right for right, _ in two_fold([even, odd] * 3, bins=1, size=0)] == [0.0] * 6


def test_what_cannot_be_fitted_is_refused(monkeypatch):
    with pytest.raises(ValueError, match="the cheapest table costs 1"):
        fitted(QUESTIONS, bins=2, budget=0.5)
    with pytest.raises(ValueError, match="no questions"):
        fitted([], bins=2, budget=1)
    monkeypatch.setattr(allocate, "MOST", 8)
    with pytest.raises(ValueError, match="3 sizes in 2 bins"):
        fitted(QUESTIONS, bins=2, budget=2)
