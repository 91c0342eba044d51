"""Fine-tuning on samples that weigh by their advantage over the mean of their question: wrong ones are pushed away.

The advantages are those of GRPO (Shao et al. 2024) without GRPO: the weights are fixed when an iteration samples, with
no ratio, no clip, no divergence, and several steps on each. `weighting` has the other scales.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from qstar.recipes import kept as keeping
from qstar.recipes.kept import Graded, Kept
from qstar.recipes.recipe import Growth, Hint, Optimizer, Recipe, Schedule, Weighting
from qstar.settings import Count, NonNegative, Whole


@dataclass(frozen=True)
class AdvantageSFT(Recipe):
    """Fine-tuning on samples weighed by their advantage, wrong ones below zero; nothing restarts."""

    made_by: ClassVar[dict[str, object]] = {"baseline": True}

    iterations: Count = 50
    problems: Whole = 64
    samples: Count = 8
    temperature: NonNegative = 1.0
    few_shot: bool = False
    hint: Hint = "never"
    weighting: Weighting = "deviation"
    baseline: bool = True
    restart: bool = False
    optimizer: Optimizer = "carried"
    schedule: Schedule = "run"
    steps: Count = 8
    growth: Growth = 1.0

    def select(self, samples: Sequence[Graded], iteration: int, seed: int) -> list[Kept]:
        """Weights are not scaled: they vanish where there is nothing left to learn."""
        return keeping.weighed(self.of_questions(samples, iteration, seed))

    def of_question(self, group: Sequence[Graded]) -> list[Kept]:
        return keeping.right(group, self.weighting, baseline=True) + keeping.rationalized(group)
