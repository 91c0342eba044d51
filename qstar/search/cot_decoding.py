"""CoT-decoding (Wang and Zhou 2024, arXiv 2402.10200): reasoning without a prompt that asks for it.

The k likeliest first tokens are continued greedily. Of each path, delta is the mean over the tokens of its answer of
p(likeliest) - p(second likeliest): paths that reason are surer of their answer. The path of the largest delta is taken,
or, with `aggregate`, the answer whose deltas add up to most. Default of the paper: k = 10.

`propose` gives delta as the margin of the step that finishes a path: the search does not see tokens.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from qstar.search import choose
from qstar.search.interface import Node, Solutions
from qstar.search.sample import sample
from qstar.search.strategy import Strategy
from qstar.search.trees import Trees
from qstar.settings import Count


@dataclass(frozen=True)
class CoTDecoding(Strategy):
    """Greedy continuations of the k likeliest first tokens; the one whose answer has the largest margin."""

    k: Count = 10  # first tokens
    aggregate: bool = False  # sum deltas over equal answers, as in the paper's second table

    @property
    def branching(self) -> int:
        return self.k

    @property
    def size(self) -> int:
        return self.k

    def resized(self, size: int) -> "CoTDecoding":
        return dataclasses.replace(self, k=size)

    def __call__(self, trees: Trees) -> Solutions:
        paths = sample(trees, range(len(trees.prompts)), self.k, greedy=True)
        for nodes in paths.values():
            trees.value.update((node, delta(trees, node)) for node in nodes)
        rule = "weighted" if self.aggregate else "max"
        return trees.solutions(
            lambda problem: choose.by_rule(rule, trees, paths[problem], values(trees, paths[problem]))
        )


def values(trees: Trees, nodes: Sequence[Node]) -> np.ndarray:
    return np.array([trees.value[node] for node in nodes])


def delta(trees: Trees, node: Node) -> float:
    """Of a path; 0 where it has no answer."""
    if trees.answer_of(node) is None:
        return 0.0
    margin = node.candidate.margin
    if margin is None or not 0 <= margin <= 1:
        raise ValueError(
            f"propose: margin = {margin} of node {node.id} of problem {node.problem}, which has an answer; "
            "CoT-decoding expects a difference of probabilities, from 0 to 1"
        )
    return float(margin)
