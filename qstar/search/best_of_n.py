"""Best-of-N: sample N solutions, score them, choose (Cobbe et al. 2021; Lightman et al. 2023; Snell et al. 2024).

`max` takes the solution of the highest score; `weighted`, Snell's, the answer whose scores add up to most; `vote`,
Cobbe's, the answer of most among the `top` solutions (3 to 5 of 100 were best). Solutions alone are scored, so an
outcome verifier and a process verifier that gives its last step's score serve alike.
"""

import dataclasses
from dataclasses import dataclass
from typing import Annotated, ClassVar

from qstar.search import choose
from qstar.search.interface import Solutions
from qstar.search.sample import sample
from qstar.search.strategy import Strategy
from qstar.search.trees import Trees
from qstar.settings import Count, OneOf

SELECTS = ("max", "weighted", "vote")


@dataclass(frozen=True)
class BestOfN(Strategy):
    """The best of n solutions by the scorer, or votes weighed by it."""

    n: Count = 16  # solutions
    select: Annotated[str, OneOf(SELECTS)] = "weighted"  # how the answer is chosen
    top: Count = 3  # highest-scoring solutions that vote, with select=vote

    guided: ClassVar[bool] = True

    def __post_init__(self):
        super().__post_init__()
        if self.select == "vote" and self.top > self.n:
            raise ValueError(f"search.top = {self.top} of search.n = {self.n}: expected at most n")

    def resized(self, size: int) -> "BestOfN":
        return dataclasses.replace(self, n=size, top=min(self.top, size))

    def __call__(self, trees: Trees) -> Solutions:
        samples = sample(trees, range(len(trees.prompts)), self.n)
        ends = [node for nodes in samples.values() for node in nodes]
        trees.value.update(zip(ends, trees.score(ends), strict=True))
        return trees.solutions(lambda problem: choose.by_rule(self.select, trees, samples[problem], top=self.top))
