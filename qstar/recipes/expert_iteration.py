"""Expert iteration: the model is its own expert as long as an answer can be checked.

An iteration adds its right samples to those of all iterations so far, equal ones once, and continues training from the
previous weights.
"""

from dataclasses import dataclass

from qstar.recipes.recipe import Growth, Hint, Memory, Recipe
from qstar.settings import Count, NonNegative


@dataclass(frozen=True)
class ExpertIteration(Recipe):
    """Expert iteration: right samples of all iterations so far, training on from the weights before."""

    iterations: Count = 4
    samples: Count = 4
    temperature: NonNegative = 1.0
    few_shot: bool = False
    hint: Hint = "never"
    memory: Memory = "all"
    unique: bool = True
    restart: bool = False
    growth: Growth = 1.0
