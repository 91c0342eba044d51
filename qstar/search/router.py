"""Compute-optimal allocation (Snell et al. 2024, section 3): a question gets as many solutions as it looks to need.

A few solutions of every question come first. Their scores, or how far they agree, tell how difficult it is; a table
says how many solutions a question of each difficulty gets in all, those first ones included, so that estimating costs
nothing beyond them. The table is fitted on other questions (`search/allocate.py`).

With estimate=likelihood the first solution is the likeliest one, and how sure the model was of it tells: an easy
question ends there (size 1), with no sample and no score. Differs from the paper, which samples for every question.
"""

import bisect
import dataclasses
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np

from qstar.search import choose
from qstar.search.allocate import ESTIMATES
from qstar.search.confidence import confidence, token_logprobs
from qstar.search.interface import Node, Solutions
from qstar.search.sample import sample
from qstar.search.strategy import Strategy
from qstar.search.trees import Trees
from qstar.settings import Count, OneOf, Real

SELECTS = ("max", "weighted", "vote", "majority")


@dataclass(frozen=True)
class Router(Strategy):
    """A table of bins: estimates below edges[0] get sizes[0] solutions, those from edges[0] on sizes[1], ..."""

    probe: Count = 2  # solutions of every question, from which its difficulty is estimated
    # of these solutions: the mean of their scores, the share that has the answer of most, or, of the likeliest
    # solution alone, the geometric mean of its tokens' probabilities
    estimate: Annotated[str, OneOf(ESTIMATES)] = "score"
    edges: tuple[Real, ...] = ()  # of the bins, ascending
    sizes: tuple[Count, ...] = (16,)  # solutions in all of a question in each bin: one more than there are edges
    select: Annotated[str, OneOf(SELECTS)] = "weighted"  # how the answer is chosen
    top: Count = 3  # of select=vote

    def __post_init__(self):
        for name in ("edges", "sizes"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        super().__post_init__()
        if len(self.sizes) != len(self.edges) + 1 or list(self.edges) != sorted(set(self.edges)):
            raise ValueError(
                f"search.edges = {list(self.edges)} and search.sizes = {list(self.sizes)}: expected ascending edges, "
                "and one size more than there are edges"
            )
        if self.estimate == "likelihood" and self.probe != 1:
            raise ValueError(
                f"search.probe = {self.probe} with search.estimate=likelihood, which is that of the one likeliest "
                "solution: give search.probe=1"
            )
        if min(self.sizes) < self.probe:
            raise ValueError(
                f"search.sizes = {list(self.sizes)}: search.probe = {self.probe} solutions come first, expected no less"
            )

    @property
    def guided(self) -> bool:
        return self.estimate == "score" or self.select != "majority"

    @property
    def branching(self) -> int:
        return self.probe

    @property
    def size(self) -> None:
        """Each question has its own."""
        return None

    def resized(self, size: int) -> "Router":
        """The same for every question."""
        return dataclasses.replace(self, edges=(), sizes=(size,))

    def __call__(self, trees: Trees) -> Solutions:
        problems = range(len(trees.prompts))
        likeliest = self.estimate == "likelihood"
        samples = sample(trees, problems, self.probe, greedy=likeliest)
        if not likeliest:
            self._score(trees, samples.values())
        more: dict[int, list[int]] = {}
        for problem in problems:
            size = self.sizes[bisect.bisect_right(self.edges, self._estimate(trees, samples[problem]))]
            more.setdefault(size - self.probe, []).append(problem)
        for count, group in sorted(more.items()):
            if count:
                new = sample(trees, group, count)
                firsts = [samples[problem] for problem in group] if likeliest else []
                self._score(trees, [*firsts, *new.values()])
                for problem, nodes in new.items():
                    samples[problem] += nodes
        return trees.solutions(lambda problem: self._choose(trees, samples[problem]))

    def _choose(self, trees: Trees, nodes: Sequence[Node]) -> Node:
        if len(nodes) == 1:  # which nothing may have scored
            return nodes[0]
        return choose.by_rule(self.select, trees, nodes, top=self.top)

    def _score(self, trees: Trees, groups: Iterable[Sequence[Node]]) -> None:
        if self.guided:
            ends = [node for nodes in groups for node in nodes]
            trees.value.update(zip(ends, trees.score(ends), strict=True))

    def _estimate(self, trees: Trees, nodes: Sequence[Node]) -> float:
        if not nodes:
            return 0.0
        if self.estimate == "likelihood":
            return confidence(token_logprobs(nodes[0]), "mean", 1)
        if self.estimate == "score":
            return float(np.mean([trees.value[node] for node in nodes]))
        return agreement([trees.answer_of(node) for node in nodes])


def agreement(answers: Sequence[str | None]) -> float:
    """The share that has the answer of most; what has no answer agrees with nothing."""
    counts = Counter(answer for answer in answers if answer is not None)
    return max(counts.values(), default=0) / len(answers)
