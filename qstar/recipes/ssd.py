"""Self-distillation without a filter: all that the model writes is trained on. The control of every claim.

What self-training gains without looking at the grades is not due to them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from qstar.recipes import kept as keeping
from qstar.recipes.kept import Graded, Kept
from qstar.recipes.recipe import Hint, Keep, Recipe
from qstar.settings import Count, NonNegative, Whole


@dataclass(frozen=True)
class SSD(Recipe):
    """Self-distillation without a filter: all that the model writes is trained on."""

    made_by: ClassVar[dict[str, object]] = {"keep": "all"}

    iterations: Count = 16
    problems: Whole = 10_000
    temperature: NonNegative = 1.0
    hint: Hint = "never"
    keep: Keep = "all"

    def of_question(self, group: Sequence[Graded]) -> list[Kept]:
        return [keeping.kept(sample, 1.0) for sample in group if sample.stored]
