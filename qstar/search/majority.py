"""Self-consistency (Wang et al. 2022, arXiv 2203.11171): sample solutions, take the answer of most.

Answers are grouped by what `answer` makes of them. Of answers with equally many votes the one that was sampled first
wins; samples without an answer abstain. With `stop`, sampling ends where the answer of most is unlikely to change
(Aggarwal et al. 2023, arXiv 2305.11860, the Beta criterion). Default of the paper: n = 40.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from qstar.search import choose
from qstar.search.interface import Node, Solutions
from qstar.search.sample import sample
from qstar.search.strategy import Strategy
from qstar.search.trees import Trees
from qstar.settings import Count, Share


@dataclass(frozen=True)
class Majority(Strategy):
    """Self-consistency.

    Differs from the paper on adaptive consistency: votes are looked at after every `batch` samples, not after each.
    """

    n: Count = 40  # solutions
    stop: Share = 0.0  # sampling ends when the leader is ahead with this probability (0.95); 0: never
    batch: Count = 4  # samples between two checks of the votes, with `stop`

    def __post_init__(self):
        super().__post_init__()
        if self.stop and self.stop < 0.5:
            raise ValueError(f"search.stop = {self.stop}: expected 0, or a probability of at least 0.5")

    @property
    def branching(self) -> int:
        return min(self.batch, self.n) if self.stop else self.n

    def __call__(self, trees: Trees) -> Solutions:
        votes: list[list[Node]] = [[] for _ in trees.prompts]
        live = list(range(len(trees.prompts)))
        for start in range(0, self.n, self.branching):
            samples = sample(trees, live, min(self.branching, self.n - start))
            for problem, nodes in samples.items():
                votes[problem] += nodes
            live = [problem for problem in live if samples[problem] and not self._decided(trees, votes[problem])]
            if not live:
                break
        return trees.solutions(lambda problem: choose.by_rule("majority", trees, votes[problem]))

    def _decided(self, trees: Trees, nodes: Sequence[Node]) -> bool:
        if not self.stop:
            return False
        counts = Counter(answer for answer in map(trees.answer_of, nodes) if answer is not None)
        first, second, *_ = [*sorted(counts.values(), reverse=True), 0, 0]
        return lead(first, second) > self.stop


def lead(first: int, second: int) -> float:
    """Probability that the first of two answers is the likelier one, given their votes, from a uniform prior.

    1 - I_0.5(first + 1, second + 1), with the regularised incomplete Beta function, which for integers is a binomial
    tail: the share of the 2^m outcomes of m = first + second + 1 fair coins with at most `first` heads.
    """
    coins = first + second + 1
    return sum(math.comb(coins, heads) for heads in range(first + 1)) / 2**coins
