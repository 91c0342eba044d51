"""The solution of a problem, chosen among several: by its score, by votes, or by votes that weigh.

Votes are counted by answer, so that equal answers add up however they are written. A candidate without an answer
abstains. Where answers are level, the one that comes first among the candidates wins.
"""

from collections.abc import Sequence

import numpy as np

from qstar.search.interface import Node
from qstar.search.trees import Trees
from qstar.typing import Float

SELECTS = ("max", "weighted", "vote", "majority")
AGGREGATIONS = ("last", "min", "product", "mean")
"""Of the scores of a solution's steps, to that of the solution."""


def by_rule(
    select: str, trees: Trees, candidates: Sequence[Node], weights: Float[np.ndarray, "N"] | None = None, top: int = 3
) -> Node:
    """One of the candidates, whose order breaks ties: of those with an answer, else of those that are finished.

    Args:
        select: max, the highest weight; weighted, the answer whose weights add up to most (Snell et al. 2024); vote,
            the answer of most among the `top` highest weights (Cobbe et al. 2021, section 4.2); majority, the answer
            of most (Wang et al. 2022).
        weights: one for each candidate; the guide's scores by default. Majority takes none.
    """
    rows = _eligible(trees, candidates)
    nodes = [candidates[row] for row in rows]
    if select == "majority":
        return heaviest(trees, nodes, np.ones(len(nodes)))
    weights = trees.score(nodes) if weights is None else np.asarray(weights)[rows]
    if select == "max":
        return nodes[int(np.argmax(weights))]
    if select == "vote":
        best = np.argsort(-weights, kind="stable")[:top]
        return heaviest(trees, [nodes[row] for row in best], np.ones(len(best)))
    return heaviest(trees, nodes, weights)


def _eligible(trees: Trees, candidates: Sequence[Node]) -> list[int]:
    if not candidates:
        raise ValueError("no candidates to choose from: expected at least one")
    answered = [row for row, node in enumerate(candidates) if trees.answer_of(node) is not None]
    finished = [row for row, node in enumerate(candidates) if node.finished]
    return answered or finished or list(range(len(candidates)))


def heaviest(trees: Trees, nodes: Sequence[Node], weights: Float[np.ndarray, "N"]) -> Node:
    """Of the answer whose weights add up to most, the node of most weight; None counts as an answer here.

    Raises:
        ValueError: for a negative weight, which would count against its answer.
    """
    if (weights < 0).any():
        raise ValueError(
            f"a vote weighed by {weights.min():g}: expected scores of at least 0; choose select=max, or another scorer"
        )
    totals: dict[str | None, float] = {}
    for node, weight in zip(nodes, weights, strict=True):
        totals[trees.answer_of(node)] = totals.get(trees.answer_of(node), 0.0) + weight
    winner = max(totals, key=totals.__getitem__)
    rows = [row for row, node in enumerate(nodes) if trees.answer_of(node) == winner]
    return nodes[max(rows, key=lambda row: weights[row])]
