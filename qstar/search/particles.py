"""Particle filtering (Puri et al. 2025, arXiv 2502.01618): solutions that are resampled by their score at every step.

N particles take one step each. The weight of a particle is the softmax over all of logit(score); N are drawn from them
with replacement, so that good prefixes are continued several times and bad ones with a small probability. Finished
particles stay in the population. In the end the particle of the highest weight is taken. Scores are probabilities.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np

from qstar.search import choose
from qstar.search.interface import Key, Node, Solutions
from qstar.search.strategy import Strategy
from qstar.search.trees import Trees
from qstar.settings import Count, OneOf, Positive
from qstar.typing import Float

EDGE = 1e-7
"""Scores nearer to 0 or 1 count as this near, as in its_hub: their logits are finite."""


@dataclass(frozen=True)
class ParticleFilter(Strategy):
    """Particle filtering."""

    n: Count = 16  # particles
    rounds: Count = 40  # maximal number of steps in a solution
    temperature: Positive = 1.0  # of the softmax over logits
    select: Annotated[str, OneOf(choose.SELECTS)] = "max"  # choice among the last particles, without copies

    guided: ClassVar[bool] = True
    stepwise: ClassVar[bool] = True

    def __call__(self, trees: Trees) -> Solutions:
        populations = [[prompt] * self.n for prompt in trees.prompts]
        live = list(range(len(trees.prompts)))
        for step in range(self.rounds):
            particles = [node for problem in live for node in populations[problem]]
            moved = iter(trees.complete(particles, steps=1))
            populations_after = {problem: [next(moved) for _ in populations[problem]] for problem in live}
            self._weigh(trees, populations_after)
            for problem in list(live):
                before, after = populations[problem], populations_after[problem]
                populations[problem] = after
                if all(node.finished for node in after) or after == before:
                    live.remove(problem)
                elif step + 1 < self.rounds:
                    populations[problem] = self._resampled(trees, after, (*trees.key, problem, step))
            if not live:
                break
        return trees.solutions(
            lambda problem: choose.by_rule(self.select, trees, sorted(set(populations[problem]), key=lambda n: n.id))
        )

    def _weigh(self, trees: Trees, populations: Mapping[int, Sequence[Node]]) -> None:
        nodes = list(dict.fromkeys(node for population in populations.values() for node in population))
        trees.value.update(zip(nodes, logits(trees.guide, trees.score(nodes)), strict=True))

    def _resampled(self, trees: Trees, nodes: Sequence[Node], key: Key) -> list[Node]:
        weights = np.array([trees.value[node] for node in nodes]) / self.temperature
        shares = np.exp(weights - weights.max())
        rows = np.random.default_rng(np.random.SeedSequence(key)).choice(
            len(nodes), len(nodes), p=shares / shares.sum()
        )
        return [nodes[row] for row in rows]


def logits(name: str, scores: Float[np.ndarray, "N"]) -> Float[np.ndarray, "N"]:
    """log(p / (1 - p)) of probabilities."""
    wrong = scores[(scores < 0) | (scores > 1)]
    if len(wrong):
        raise ValueError(f"scorer {name}: {wrong[0]:g}; particle filtering expects probabilities, from 0 to 1")
    scores = np.clip(scores, EDGE, 1 - EDGE)
    return np.log(scores) - np.log1p(-scores)
