"""TRICE (Phan et al. 2023): Markov-chain Monte Carlo over rationales, given the answers.

Every question has a chain. An iteration samples a rationale for it; where that is right the chain moves to it, and else
it stays: acceptance of an independence sampler whose target is the posterior given the answer. A chain begins with a
hinted rationale. The gradient of a question's log-likelihood is the score of its chain's rationale. Its control variate
is the newest free sample, whose score has mean zero, times the share of right ones among the other questions.

Differs from the paper: eight steps on the samples of an iteration, of which the first alone is on those of the weights
it moves (steps=1: all).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from qstar.recipes import kept as keeping
from qstar.recipes.kept import Graded, Kept
from qstar.recipes.recipe import (
    Count,
    Growth,
    Hint,
    MeanOver,
    Memory,
    NonNegative,
    Optimizer,
    Recipe,
    Schedule,
    Whole,
)


@dataclass(frozen=True)
class TRICE(Recipe):
    """TRICE: a chain of right rationales for every question, less its control variate; nothing restarts."""

    made_by: ClassVar[dict[str, object]] = {"memory": "newest"}

    iterations: Count = 50
    problems: Whole = 256
    temperature: NonNegative = 1.0
    few_shot: bool = False
    hint: Hint = "missing"  # only where a question has no chain yet
    memory: Memory = "newest"
    control_variate: bool = True
    mean_over: MeanOver = "questions"
    restart: bool = False
    optimizer: Optimizer = "carried"
    schedule: Schedule = "run"
    steps: Count = 8
    growth: Growth = 1.0

    def select(self, samples: Sequence[Graded], iteration: int, seed: int) -> list[Kept]:
        """The chains of the questions asked now, less their control variates.

        The control variate makes weights vanish where nothing is left to learn: they are not scaled then.
        """
        chain = {sample.problem: sample for sample in samples if sample.correct and sample.stored}
        newest = {sample.problem: sample for sample in keeping.of_iteration(samples, iteration) if not sample.hinted}
        right = sum(sample.correct for sample in newest.values())
        terms = []
        for problem, sample in newest.items():
            if problem not in chain:
                continue
            terms.append(keeping.kept(chain[problem], 1.0))
            others = (right - sample.correct) / max(len(newest) - 1, 1)
            if self.control_variate and sample.stored and others:
                terms.append(keeping.kept(sample, -others))
        terms = keeping.merged(terms)
        return keeping.weighed(terms) if self.control_variate else keeping.averaged(terms)
