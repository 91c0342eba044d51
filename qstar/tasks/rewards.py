"""What a generated text earns: terms that add up, each shown by itself.

grade     by the task's grader: a right answer, a wrong one, none that can be read, cut off before the end
length    taken off where the answer is right: a shorter right answer earns more, a short wrong one does not
overlong  DAPO's soft punishment (Yu et al. 2025, equation 13): falls from 0 to -1 over the last tokens before the
          limit, and is -1 where a text was cut off
"""

from dataclasses import dataclass

from qstar import settings
from qstar.settings import NonNegative, Real, Whole
from qstar.tasks.grading.grade import Verdict


@dataclass(frozen=True)
class Rewards:
    """How much each term earns; ReFT's are right=1 wrong=0.1."""

    right: Real = 1.0  # the declared answer is right
    wrong: Real = 0.0  # an answer is declared, can be read and is wrong
    nothing: Real = 0.0  # no answer that can be read
    unfinished: Real = 0.0  # the text was cut off at the most tokens that may be generated
    length: NonNegative = 0.0  # taken off for each token of a right text, as a share of the most tokens
    overlong: Whole = 0  # tokens before the most, over which DAPO's punishment falls to -1; 0: none

    def __post_init__(self):
        settings.check(self, "data.rewards")

    def terms(self, verdict: Verdict, finished: bool, tokens: int, most: int) -> dict[str, float]:
        """What a text of `tokens` tokens earns, of the `most` that may be generated."""
        terms = {"grade": self._grade(verdict, finished)}
        if self.length:
            terms["length"] = -self.length * tokens / most if finished and verdict.correct else 0.0
        if self.overlong:
            over = max(tokens - (most - self.overlong), 0) / self.overlong
            terms["overlong"] = -1.0 if not finished else -min(over, 1.0)
        return terms

    def _grade(self, verdict: Verdict, finished: bool) -> float:
        if not finished:
            return self.unfinished
        if verdict.correct:
            return self.right
        return self.wrong if verdict.reason == "wrong" else self.nothing
