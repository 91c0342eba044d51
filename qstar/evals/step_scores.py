"""How good the scores of a process verifier are where the truth is known: calibration, Brier score, first errors.

A score is read as the probability that a step is right.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from qstar.typing import Bool, Float, typed

BINS = 15


@dataclass(frozen=True)
class Bin:
    """Of the scores in an interval."""

    low: float
    high: float
    count: int
    score: float  # mean; nan where there is none
    right: float  # share of steps that are right; nan where there is none


@typed
def reliability(scores: Float[np.ndarray, "N"], right: Bool[np.ndarray, "N"], bins: int = BINS) -> list[Bin]:
    """Bins of equal width from 0 to 1; a score on a border is in the upper one, 1 in the last.

    Raises ValueError for scores outside [0, 1], and for none.
    """
    outside = ~((scores >= 0) & (scores <= 1))
    if not scores.size or outside.any():
        raise ValueError(f"{scores.size} scores, {scores[outside][:3]} among them: expected one or more in [0, 1]")
    place = np.minimum((scores * bins).astype(int), bins - 1)
    filled = []
    for number in range(bins):
        mine = place == number
        score, share = (float(of[mine].mean()) if mine.any() else float("nan") for of in (scores, right))
        filled.append(Bin(number / bins, (number + 1) / bins, int(mine.sum()), score, share))
    return filled


@typed
def ece(scores: Float[np.ndarray, "N"], right: Bool[np.ndarray, "N"], bins: int = BINS) -> float:
    """Expected calibration error: the mean over steps of |score - share of right steps| of their bin.

    Naeini et al. 2015; Guo et al. 2017, equation 3, with 15 bins.
    """
    parts = [cell.count * abs(cell.score - cell.right) for cell in reliability(scores, right, bins) if cell.count]
    return sum(parts) / scores.size


@typed
def brier(scores: Float[np.ndarray, "N"], right: Bool[np.ndarray, "N"]) -> float:
    """Mean squared difference of score and truth (Brier 1950)."""
    return float(np.mean((scores - right) ** 2))


def first_error(right: Sequence[bool]) -> int:
    """Index of the first wrong step; -1 where there is none."""
    return next((number for number, step in enumerate(right) if not step), -1)


@dataclass(frozen=True)
class FirstErrors:
    """How often the first wrong step of a solution is named."""

    wrong: float  # share of the solutions with a wrong step whose first one is named; nan without any
    right: float  # share of the solutions without a wrong step in which none is named; nan without any

    @property
    def f1(self) -> float:
        """Harmonic mean of both (Zheng et al. 2024, ProcessBench, section 4.1)."""
        return 2 * self.wrong * self.right / (self.wrong + self.right) if self.wrong + self.right else 0.0


def first_errors(judged: Sequence[Sequence[bool]], truth: Sequence[Sequence[bool]]) -> FirstErrors:
    """Of solutions whose steps are judged right or wrong.

    Raises ValueError where a solution has not as many judgements as steps.
    """
    named = []
    for number, (mine, steps) in enumerate(zip(judged, truth, strict=True)):
        if len(mine) != len(steps):
            raise ValueError(f"solution {number} has {len(steps)} steps and {len(mine)} judgements: expected as many")
        named.append((first_error(steps) >= 0, first_error(mine) == first_error(steps)))
    shares = [
        float(np.mean([hit for wrong, hit in named if wrong == kind])) if any(wrong == kind for wrong, _ in named)
        else float("nan")
        for kind in (True, False)
    ]  # fmt: skip
    return FirstErrors(*shares)
