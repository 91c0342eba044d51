"""Sequential revisions (Snell et al. 2024, section 6): a chain of attempts, each of which sees the ones before it.

n = chains x length solutions: `chains` first attempts in parallel, each followed by `length` - 1 revisions whose prompt
shows the last 4 attempts of the chain. `propose` is to read them from its prefix's `attempts`. The model is trained for
it, on wrong attempts and then a right one (`data/revisions.py`). About 38 % of right answers were revised to wrong ones
in the paper, so the solution is chosen over whole chains: `hierarchical` takes the answer of each chain whose scores
add up to most, and among those solutions again; `weighted` does so once over all; `majority` needs no scorer.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from qstar.search import choose
from qstar.search.interface import Node, Solutions
from qstar.search.sample import STEPS, sample
from qstar.search.strategy import Strategy
from qstar.search.trees import Trees
from qstar.settings import Count, OneOf

SELECTS = ("hierarchical", "weighted", "majority")


@dataclass(frozen=True)
class Revise(Strategy):
    """Chains of attempts, each of which sees those before it."""

    chains: Count = 4  # in parallel; the paper varies chains : length at equal n
    length: Count = 4  # attempts of a chain
    context: Count = 4  # earlier attempts that are shown
    select: Annotated[str, OneOf(SELECTS)] = "hierarchical"  # how the answer is chosen

    @property
    def guided(self) -> bool:
        return self.select != "majority"

    @property
    def branching(self) -> int:
        return self.chains

    @property
    def shown(self) -> int:
        return min(self.context, self.length - 1)

    @property
    def size(self) -> None:
        """Fewer solutions are shorter chains or fewer of them: no one number says which."""
        return None

    def __call__(self, trees: Trees) -> Solutions:
        firsts = sample(trees, range(len(trees.prompts)), self.chains)
        chains = {problem: [[node] for node in nodes] for problem, nodes in firsts.items()}
        for _ in range(self.length - 1):
            live = [chain for some in chains.values() for chain in some if chain[-1].finished]
            starts = [trees.restart(chain[-1].problem, chain[-self.context :]) for chain in live]
            for chain, start, end in zip(live, starts, trees.complete(starts, steps=STEPS), strict=True):
                if end is not start:
                    chain.append(end)
        if self.select != "majority":
            ends = [node for some in chains.values() for chain in some for node in chain]
            trees.value.update(zip(ends, trees.score(ends), strict=True))
        return trees.solutions(lambda problem: self._choose(trees, chains[problem]))

    def _choose(self, trees: Trees, chains: Sequence[Sequence[Node]]) -> Node:
        if self.select == "hierarchical":
            best = [choose.by_rule("weighted", trees, chain) for chain in chains]
            return choose.by_rule("weighted", trees, best)
        return choose.by_rule(self.select, trees, [node for chain in chains for node in chain])
