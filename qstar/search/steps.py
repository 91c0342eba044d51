"""Rounds of proposing steps, ranking them and keeping some: what beam search, DVTS and lookahead have in common.

The candidates of a problem compete within groups. A group that keeps w of its candidates has them continued by M steps
each. A finished candidate among those kept holds its place and is not continued, so that the number of candidates
never grows; every finished candidate, kept or not, takes part in the choice at the end. Of equal values the candidate
that was proposed first is kept.
"""

from collections.abc import Callable, Sequence
from typing import ClassVar

import numpy as np

from qstar.search import choose
from qstar.search.interface import Node, Solutions
from qstar.search.strategy import Strategy
from qstar.search.trees import Trees
from qstar.typing import Float


class Rounds(Strategy):
    """A strategy of such rounds: n candidates in each, m next steps of every candidate that is kept."""

    m: int
    rounds: int
    select: str
    guided: ClassVar[bool] = True
    stepwise: ClassVar[bool] = True

    def __post_init__(self):
        super().__post_init__()
        if self.n % self.m:
            raise ValueError(
                f"search.n = {self.n} is not divisible by search.m = {self.m}: n / m candidates of a round are kept"
            )


Judge = Callable[[Trees, Sequence[Node]], Float[np.ndarray, "N"]]
"""The numbers by which nodes are ranked."""


def judged_by_score(trees: Trees, nodes: Sequence[Node]) -> Float[np.ndarray, "N"]:
    return trees.score(nodes)


def search(trees: Trees, strategy: Rounds, judge: Judge, groups: int = 1) -> Solutions:
    """n candidates a round in so many groups, each of which keeps n / m / groups and continues those by m steps."""
    n, m, rounds = strategy.n, strategy.m, strategy.rounds
    width = n // m // groups
    firsts = trees.extend(trees.prompts, n)
    size = n // groups
    pools = [children[start : start + size] for children in firsts for start in range(0, len(children), size)]
    for round_number in range(1, rounds + 1):
        new = [node for pool in pools for node in pool if node not in trees.value]
        trees.value.update(zip(new, judge(trees, new), strict=True))
        pools = [_best(trees, pool, width) for pool in pools]
        live = [node for pool in pools for node in pool if not node.finished]
        if not live or round_number == rounds:
            break
        live.sort(key=lambda node: -trees.value[node])  # the budget goes to the best first
        children = dict(zip(live, trees.extend(live, m), strict=True))
        if not any(children.values()):
            break
        pools = [[new for node in pool for new in children.get(node) or [node]] for pool in pools]
    return trees.solutions(
        lambda problem: _chosen(strategy.select, trees, [pool for pool in pools if pool[0].problem == problem])
    )


def _best(trees: Trees, pool: Sequence[Node], width: int) -> list[Node]:
    return sorted(pool, key=lambda node: (-trees.value[node], node.id))[:width]


def _chosen(select: str, trees: Trees, pools: Sequence[Sequence[Node]]) -> Node:
    """Among all finished candidates of a problem; the best of the last round where there is none."""
    last = [node for pool in pools for node in pool]
    ranked = [node for node in trees.nodes[last[0].problem] if node in trees.value]
    finished = [node for node in ranked if node.finished]
    return choose.by_rule(select, trees, finished) if finished else max(last, key=lambda node: trees.value[node])
