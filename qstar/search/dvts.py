"""Diverse verifier tree search (Beeching et al. 2024, search-and-learn): N/M beams of width one that do not compete.

The N first steps are split into N/M subtrees of M. Each subtree keeps its best candidate and samples M next steps from
it, until that candidate is finished. All M siblings of a last step stay candidates for the choice at the end.

Differs from the released code: an unfinished subtree is dropped after `rounds`, not run to its end, and the rank is the
last step's score without lookahead, as its default is.
"""

from dataclasses import dataclass
from typing import Annotated

from qstar.search import choose, steps
from qstar.search.interface import Solutions
from qstar.search.trees import Trees
from qstar.settings import Count, OneOf


@dataclass(frozen=True)
class DVTS(steps.Rounds):
    """Diverse verifier tree search: n / m beams of width one."""

    n: Count = 16  # candidates of a round
    m: Count = 4  # next steps of a subtree's best candidate
    rounds: Count = 40  # maximal number of steps in a solution
    select: Annotated[str, OneOf(choose.SELECTS)] = "weighted"  # how the answer is chosen among finished candidates

    def __call__(self, trees: Trees) -> Solutions:
        return steps.search(trees, self, steps.judged_by_score, groups=self.n // self.m)
