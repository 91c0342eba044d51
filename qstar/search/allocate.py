"""How many solutions questions of each difficulty should get: a table for `search/router.py`, fitted on some questions.

Difficulty is an estimate in bins of equal numbers of questions. Of all tables the one of the highest accuracy is taken
whose mean cost stays within a budget; of equal ones the cheapest.
"""

import bisect
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

ESTIMATES = ("score", "agreement", "likelihood")
MOST = 200_000  # tables that are tried


@dataclass(frozen=True)
class Tried:
    """A question whose solutions were all sampled: what it is worth, and costs, with each number of them."""

    estimate: float  # of how easy it is, from the first few
    right: Sequence[float]  # with each size; 1 or 0, or a mean
    cost: Sequence[float]  # with each size


@dataclass(frozen=True)
class Table:
    edges: tuple[float, ...]  # of the bins, ascending
    choices: tuple[int, ...]  # for each bin, the index of the size

    def choice(self, estimate: float) -> int:
        return self.choices[bisect.bisect_right(self.edges, estimate)]


def fitted(questions: Sequence[Tried], bins: int, budget: float) -> Table:
    """The best table of at most so many bins whose mean cost is at most `budget`.

    Raises ValueError where not even the cheapest table is, for no questions, and for too many tables to try.
    """
    if not questions:
        raise ValueError("a table is fitted on no questions: expected at least one")
    estimates = np.sort([question.estimate for question in questions])
    cuts = [estimates[len(estimates) * i // bins] for i in range(1, bins)]
    edges = tuple(float(edge) for edge in sorted(set(cuts)) if edge > estimates[0])
    members: list[list[Tried]] = [[] for _ in range(len(edges) + 1)]
    for question in questions:
        members[bisect.bisect_right(edges, question.estimate)].append(question)
    sizes = len(questions[0].right)
    if sizes ** len(members) > MOST:
        raise ValueError(f"{sizes} sizes in {len(members)} bins: expected at most {MOST} tables, take fewer of either")
    right, cost = (
        np.array([np.sum([getattr(question, name) for question in group], axis=0) for group in members])
        for name in ("right", "cost")
    )
    places = np.arange(len(members))
    best: tuple[float, float, tuple[int, ...]] | None = None
    for choices in itertools.product(range(sizes), repeat=len(members)):
        worth, spent = right[places, choices].sum(), cost[places, choices].sum() / len(questions)
        if spent <= budget and (best is None or (worth, -spent) > best[:2]):
            best = (float(worth), -float(spent), choices)
    if best is None:
        least = cost.min(axis=1).sum() / len(questions)
        raise ValueError(f"budget = {budget:g} a question: the cheapest table costs {least:g}")
    return Table(edges, best[2])


def uniform(questions: Sequence[Tried], size: int) -> float:
    """Mean cost where every question gets the same: the size of this index."""
    return float(np.mean([question.cost[size] for question in questions]))


def two_fold(questions: Sequence[Tried], bins: int, size: int) -> list[tuple[float, float]]:
    """Accuracy and cost of every question under the table that was fitted on the other half, in the order given.

    Args:
        size: index of the size that, given to every question, costs what a table may cost.
    """
    tables = [fitted(half, bins, uniform(half, size)) for half in (questions[0::2], questions[1::2])]
    chosen = [(question, tables[1 - i % 2].choice(question.estimate)) for i, question in enumerate(questions)]
    return [(float(question.right[choice]), float(question.cost[choice])) for question, choice in chosen]
