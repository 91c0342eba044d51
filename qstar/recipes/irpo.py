"""IRPO: iterative reasoning preference optimisation (Pang et al. 2024).

Every iteration samples N rationales of a question, pairs right ones with wrong ones, and trains the model on the pairs
by DPO with the NLL of the right ones. The reference, and what training starts from, is the model that was sampled:
the next iteration samples what came out. Questions with right samples alone, or wrong ones alone, have no pairs.

Differs from the paper: one temperature for all iterations, where the paper goes from 0.8 to 1.3 (GSM8K, ARC) or to 1.0
(MATH) in the later ones, so that there are still wrong samples.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from qstar.methods.dpo import DPO
from qstar.recipes import kept as keeping
from qstar.recipes.kept import Graded, Preferred
from qstar.recipes.recipe import Growth, Hint, Objective, Recipe, Training
from qstar.settings import Count, NonNegative

COMPARES = {
    "target": "own",
    "human": False,
    "keep": "right",
    "hint": "never",
    "cap": 0,
    "weighting": "pg",
    "baseline": False,
    "control_variate": False,
    "mean_over": "tokens",
    "prompts_count": False,
}
"""Settings of other recipes at values that mean nothing to pairs."""


@dataclass(frozen=True)
class IRPO(Recipe):
    """Iterative reasoning preference optimisation: right samples against wrong ones of the same question."""

    made_by: ClassVar[dict[str, object]] = {"objective": "dpo"}

    iterations: Count = 4
    samples: Count = 30
    temperature: NonNegative = 0.8
    few_shot: bool = False
    hint: Hint = "never"
    restart: bool = False
    growth: Growth = 1.0
    objective: Objective = "dpo"

    def __post_init__(self):
        super().__post_init__()
        if self.objective != "dpo":
            return
        others = {name: getattr(self, name) for name in COMPARES if getattr(self, name) != COMPARES[name]}
        if self.memory == "newest":
            others["memory"] = self.memory
        if others:
            given = " ".join(f"improve.{name}={value}" for name, value in others.items())
            raise ValueError(
                f"improve.objective=dpo trains on pairs of right and wrong samples, and {given} would change nothing: "
                "leave that out, or choose improve.objective=sft"
            )

    def select(self, samples: Sequence[Graded], iteration: int, seed: int) -> list[Preferred]:
        """`pairs` of each question that has samples of both kinds, of this iteration or of all so far."""
        remembered = samples if self.memory == "all" else keeping.of_iteration(samples, iteration)
        groups = keeping.by_question(remembered)
        return [pair for group in groups for pair in keeping.preferred(group, self.pairs, self.unique)]

    def train(self, iteration: int) -> Training:
        training = super().train(iteration)
        if iteration == 0:
            return training
        return dataclasses.replace(training, method=DPO(beta=self.beta, nll_weight=self.nll_weight))
