"""STaR: bootstrapping reasoning with reasoning (Zelikman et al. 2022, Algorithm 1).

An iteration samples one rationale a question, by greedy decoding. Questions that came out wrong are sampled again with
the answer shown (rationalization). The base, not the model of the iteration before, is trained on all rationales that
led to the right answer, a fifth more steps each time; the trained model is sampled next.
"""

from dataclasses import dataclass

from qstar.recipes.recipe import Growth, Hint, Recipe
from qstar.settings import Count, Whole


@dataclass(frozen=True)
class STaR(Recipe):
    """STaR: rationales that led to the right answer, failures again with the answer shown, from the base every time."""

    iterations: Count = 16
    problems: Whole = 10_000
    hint: Hint = "failures"
    restart: bool = True
    growth: Growth = 1.2
