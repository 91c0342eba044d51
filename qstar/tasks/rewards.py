"""What a generated text earns: terms that add up, each shown by itself.

grade     by the task's grader: a right answer, a wrong one, none that can be read, cut off before the end
length    taken off where the answer is right: a shorter right answer earns more, a short wrong one does not
overlong  DAPO's soft punishment (Yu et al. 2025, equation 13): falls from 0 to -1 over the last tokens before the
          limit, and is -1 where a text was cut off
steps     partial credit: for the share of steps that are right, where the task knows
scorer    by a reward model, for a text or for each of its steps
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np

from qstar import settings
from qstar.settings import NonNegative, OneOf, Positive, Real, Whole
from qstar.tasks.grading.grade import Verdict
from qstar.typing import Float

SHAPES = ("last", "mean", "min", "sum", "softmin", "difference")
"""What the scores of a text's steps become."""


@dataclass(frozen=True)
class Rewards:
    """How much each term earns; ReFT's are right=1 wrong=0.1."""

    right: Real = 1.0  # the declared answer is right
    wrong: Real = 0.0  # an answer is declared, can be read and is wrong
    nothing: Real = 0.0  # no answer that can be read
    unfinished: Real = 0.0  # the text was cut off at the most tokens that may be generated
    length: NonNegative = 0.0  # taken off for each token of a right text, as a share of the most tokens
    overlong: Whole = 0  # tokens before the most, over which DAPO's punishment falls to -1; 0: none
    steps: Real = 0.0  # for the share of steps that are right, of tasks that know (arithmetic, countdown, cups)
    scorer: str = ""  # a run of method=prm or method=orm, or a classifier, whose scores are added; empty: none
    scorer_coef: Real = 1.0  # of these scores
    # Of the scores of steps: the last, the mean or the least one, earned with the text; or earned with each step, its
    # score (sum), its share of their soft minimum (softmin), or how far it is from the one before (difference).
    scorer_as: Annotated[str, OneOf(SHAPES)] = "last"
    softmin: Positive = 0.1  # temperature of the soft minimum

    def __post_init__(self):
        settings.check(self, "data.rewards")

    def terms(
        self, verdict: Verdict, finished: bool, tokens: int, most: int, right_steps: float = 0.0
    ) -> dict[str, float]:
        """What a text of `tokens` tokens earns, of the `most` that may be generated; but for what a scorer adds.

        Args:
            right_steps: share of its steps that are right.
        """
        terms = {"grade": self._grade(verdict, finished)}
        if self.length:
            terms["length"] = -self.length * tokens / most if finished and verdict.correct else 0.0
        if self.overlong:
            over = max(tokens - (most - self.overlong), 0) / self.overlong
            terms["overlong"] = -1.0 if not finished else -min(over, 1.0)
        if self.steps:
            terms["steps"] = self.steps * right_steps
        return terms

    def shaped(self, scores: Float[np.ndarray, "N"] | Sequence[float]) -> Float[np.ndarray, "N"]:
        """What each of the N steps of a text earns by its score.

        The soft minimum is PURE's (Cheng et al. 2025): step i earns s_i exp(-s_i / t) / sum_j exp(-s_j / t).
        Differences start from 0, so that they add up to the last score.
        """
        scores = np.asarray(scores, np.float64)
        if self.scorer_as == "sum":
            earned = scores
        elif self.scorer_as == "difference":
            earned = np.diff(scores, prepend=0.0)
        elif self.scorer_as == "softmin":
            weight = np.exp((scores.min() - scores) / self.softmin)
            earned = scores * weight / weight.sum()
        else:
            earned = np.zeros_like(scores)
            earned[-1] = {"last": scores[-1], "mean": scores.mean(), "min": scores.min()}[self.scorer_as]
        return self.scorer_coef * earned

    def _grade(self, verdict: Verdict, finished: bool) -> float:
        if not finished:
            return self.unfinished
        if verdict.correct:
            return self.right
        return self.wrong if verdict.reason == "wrong" else self.nothing
