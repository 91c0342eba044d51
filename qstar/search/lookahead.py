"""Lookahead search (Snell et al. 2024, section 5.2): beam search that ranks a step by what comes of it.

A candidate's value is the score at the end of k more steps at temperature 0. The rollout is thrown away; it costs as
much as a candidate, so that N of them cost N (k + 1). The paper's k are 1 and 3; with k = 0 it is beam search.

Differs from the released code: the beam search of search-and-learn generates rollouts and scores steps without them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np

from qstar.search import choose, steps
from qstar.search.interface import Node, Solutions
from qstar.search.trees import Trees
from qstar.settings import Count, OneOf, Whole
from qstar.typing import Float


@dataclass(frozen=True)
class Lookahead(steps.Rounds):
    """Beam search that ranks a step by the score after a greedy rollout."""

    n: Count = 16  # candidates of a round
    m: Count = 4  # next steps of each candidate that is kept
    k: Whole = 1  # steps of a rollout
    rounds: Count = 40  # maximal number of steps in a solution
    select: Annotated[str, OneOf(choose.SELECTS)] = "weighted"  # how the answer is chosen among finished candidates

    def __call__(self, trees: Trees) -> Solutions:
        return steps.search(trees, self, self._judge)

    def _judge(self, trees: Trees, nodes: Sequence[Node]) -> Float[np.ndarray, "N"]:
        """Where the budget ends a rollout early, the score is that of its last step."""
        return trees.score(trees.complete(nodes, steps=self.k, sampled=False, rollout=True))
