"""Solutions chosen by the model's own confidence: the baselines that need no verifier.

The confidence of a solution is the geometric mean of its tokens' probabilities: over all tokens (`mean`, the
length-normalised log-prob), over the last `window` tokens (`tail`), over the worst window (`lowest`), or over the
worst tenth of all windows (`bottom`). The last three are DeepConf's (Fu et al. 2025, arXiv 2508.15260), whose offline
choice keeps the most confident tenth of the samples and lets them vote, weighed by confidence.

Differs from the paper: its confidence of a token is the mean negative log-prob of the k likeliest tokens; here it is
the log-prob of the token that was sampled, which every sampler has.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np

from qstar.search import choose
from qstar.search.interface import Node, Solutions
from qstar.search.sample import sample
from qstar.search.strategy import Strategy
from qstar.search.trees import Trees
from qstar.settings import Count, OneOf, PositiveShare
from qstar.typing import Float

MEASURES = ("mean", "tail", "lowest", "bottom")
SELECTS = ("max", "weighted")
BOTTOM = 0.1  # share of the windows


@dataclass(frozen=True)
class Confidence(Strategy):
    """The most confident solution, or votes weighed by confidence."""

    n: Count = 16  # solutions
    measure: Annotated[str, OneOf(MEASURES)] = "mean"  # measure of a solution's confidence
    window: Count = 2048  # tokens in a window; a shorter solution is one window
    keep: PositiveShare = 1.0  # share of the samples that vote, the most confident ones; DeepConf: 0.1
    select: Annotated[str, OneOf(SELECTS)] = "max"  # how the answer is chosen

    def __call__(self, trees: Trees) -> Solutions:
        samples = sample(trees, range(len(trees.prompts)), self.n)
        for nodes in samples.values():
            trees.value.update((node, confidence(token_logprobs(node), self.measure, self.window)) for node in nodes)
        return trees.solutions(lambda problem: self._choose(trees, samples[problem]))

    def _choose(self, trees: Trees, nodes: Sequence[Node]) -> Node:
        weights = np.array([trees.value[node] for node in nodes])
        kept = np.sort(np.argsort(-weights, kind="stable")[: math.ceil(self.keep * len(nodes))])
        return choose.by_rule(self.select, trees, [nodes[row] for row in kept], weights[kept])


def token_logprobs(node: Node) -> Float[np.ndarray, "T"]:
    """Of a solution's tokens."""
    steps = [step.candidate.logprobs for step in node.path]
    if any(logprobs is None for logprobs in steps):
        raise ValueError(
            f"propose gave no logprobs for problem {node.problem}; confidence expects those of every token"
        )
    return np.concatenate([np.asarray(logprobs, float) for logprobs in steps])


def confidence(logprobs: Float[np.ndarray, "T"], measure: str, window: int) -> float:
    """Geometric mean of probabilities, from 0 to 1; 0 where there is no token."""
    if not len(logprobs):
        return 0.0
    if measure == "mean":
        return math.exp(logprobs.mean())
    width = min(window, len(logprobs))
    means = np.lib.stride_tricks.sliding_window_view(logprobs, width).mean(-1)
    if measure == "tail":
        return math.exp(means[-1])
    share = 0 if measure == "lowest" else BOTTOM
    return math.exp(np.sort(means)[: max(1, math.ceil(share * len(means)))].mean())
