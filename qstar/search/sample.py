"""Independent solutions of a problem: what votes and best-of-N choose from."""

from collections.abc import Sequence

from qstar.search.interface import Node
from qstar.search.trees import Trees

STEPS = 1000
"""Steps of a solution, where nothing else limits them: `propose` that never finishes is stopped."""


def sample(trees: Trees, problems: Sequence[int], n: int, *, greedy: bool = False) -> dict[int, list[Node]]:
    """n solutions of each problem, in order of their first steps; unfinished where the budget ended.

    Args:
        greedy: they begin with the n likeliest first tokens, and go on with the likeliest ones.
    """
    firsts = trees.extend([trees.prompts[problem] for problem in problems], n, sampled=not greedy)
    ends = iter(trees.complete([node for nodes in firsts for node in nodes], steps=STEPS, sampled=not greedy))
    return {problem: [next(ends) for _ in nodes] for problem, nodes in zip(problems, firsts, strict=True)}
