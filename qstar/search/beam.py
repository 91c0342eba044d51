"""Beam search over steps, with a process verifier (Snell et al. 2024, section 5.2).

Sample N first steps; score them, keep the best N/M, sample M next steps from each; and so on, for at most 40 rounds.
The answer is chosen among the finished ones by best-of-N weighted. With M = 1 nothing is ever dropped, which is
best-of-N; with M = N each step is the best of N.

Differs from the released code: search-and-learn takes finished beams out of the pool and fills it up with copies, so
that the budget grows, and runs the last round to the end; here what is unfinished after `rounds` has no vote.
"""

from dataclasses import dataclass
from typing import Annotated

from qstar.search import choose, steps
from qstar.search.interface import Solutions
from qstar.search.trees import Trees
from qstar.settings import Count, OneOf


@dataclass(frozen=True)
class Beam(steps.Rounds):
    """The paper's settings: m = 4, and m = the square root of n."""

    n: Count = 16  # candidates of a round
    m: Count = 4  # next steps of each candidate that is kept
    rounds: Count = 40  # maximal number of steps in a solution
    select: Annotated[str, OneOf(choose.SELECTS)] = "weighted"  # how the answer is chosen among finished candidates

    def __call__(self, trees: Trees) -> Solutions:
        return steps.search(trees, self, steps.judged_by_score)
