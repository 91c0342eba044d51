"""ReST-EM (Singh et al. 2023): expectation-maximization for reinforced self-training.

E step: 32 samples a question of the newest model, right ones are kept, at most ten of each question, so that easy
questions do not take over. M step: every iteration starts from the base and trains on them. A few iterations.
"""

from dataclasses import dataclass

from qstar.recipes.recipe import Growth, Hint, Recipe
from qstar.settings import Count, NonNegative, Whole


@dataclass(frozen=True)
class ReSTEM(Recipe):
    """ReST-EM: many samples, at most ten right ones of a question, from the base every time."""

    iterations: Count = 3
    samples: Count = 32
    temperature: NonNegative = 0.7
    top_k: Whole = 40
    few_shot: bool = False
    hint: Hint = "never"
    cap: Whole = 10
    growth: Growth = 1.0
