"""95 % intervals of a mean and of a share, of one run or over several bases and seeds."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from qstar.typing import Float, typed

Z = 1.959963984540054  # the 97.5 % point of the standard normal distribution
DRAWN = 2**20  # values drawn at once


def wilson(successes: int, n: int) -> tuple[float, float]:
    """Wilson's score interval of a share (Wilson, 1927): sensible at 0, at n and for small n, unlike the normal one."""
    if not 0 <= successes <= n or n == 0:
        raise ValueError(f"{successes} successes of {n}: expected 0 <= successes <= n and n > 0")
    share = successes / n
    centre = (share + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z / (1 + Z**2 / n) * np.sqrt(share * (1 - share) / n + Z**2 / (4 * n**2))
    return max(float(centre - half), 0.0), min(float(centre + half), 1.0)


def student(values: Sequence[float]) -> tuple[float, float]:
    """Mean, and half width of its interval by Student's t (a mean over seeds); the latter is nan for a single value."""
    from scipy import special  # here: half a second to import

    if not values:
        raise ValueError("the mean of no values: at least one is needed")
    mean, n = math.fsum(values) / len(values), len(values)
    if n == 1:
        return mean, math.nan
    variance = math.fsum((value - mean) ** 2 for value in values) / (n - 1)
    return mean, float(special.stdtrit(n - 1, 0.975)) * math.sqrt(variance / n)


@dataclass(frozen=True)
class Across:
    """A mean over runs, its interval, and what differed between the runs."""

    mean: float
    low: float  # nan, as `high`, where one run has no interval
    high: float
    varied: str
    share: bool  # it is one of questions that were answered right, say

    def written(self, sign: str = "", form: str = "") -> str:
        """`0.973 [0.949, 0.988]` of a share, `0.101 ± 0.002` of another mean; without an interval where there is none.

        `sign="+"` writes the sign of positive means too; `form` is that of the numbers, three places by default.
        """
        form = form or ("z.3f" if abs(self.mean) < 100 else ".2g")
        mean = f"{self.mean:{sign}{form}}"
        if math.isnan(self.low):
            return mean
        if self.share:
            return f"{mean} [{self.low:{form}}, {self.high:{form}}]"
        return f"{mean} ± {(self.high - self.low) / 2:{form}}"


def across(values: Mapping[tuple[int, int], float], questions: int = 0) -> Across:
    """The mean of what runs ended with, by (base, seed): of base means, so that every base weighs the same.

    What varies is the base where there are several (their means vary by their seeds as well), else the seed. With
    `questions` the values are shares of that many questions each, the same ones in every run, and the interval is
    `share_across`'s, or for a single run Wilson's. Else it is Student's t over bases or seeds, and nan for one run.
    """
    if not values:
        raise ValueError("the mean of no values: at least one is needed")
    by_base: dict[int, list[float]] = {}
    for (base, _), value in sorted(values.items()):
        by_base.setdefault(base, []).append(value)
    means = [math.fsum(runs) / len(runs) for runs in by_base.values()]
    units = means if len(by_base) > 1 else next(iter(by_base.values()))
    varied = _varied(by_base, questions)
    if questions and len(units) > 1:
        return Across(math.fsum(units) / len(units), *share_across(units, questions), varied, True)
    if questions:
        return Across(units[0], *wilson(round(units[0] * questions), questions), varied, True)
    mean, half = student(units)
    return Across(mean, mean - half, mean + half, varied, False)


def _varied(by_base: Mapping[int, Sequence[float]], questions: int) -> str:
    seeds = sorted({len(runs) for runs in by_base.values()})
    if len(by_base) > 1:
        count = str(seeds[0]) if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
        return f"{len(by_base)} bases, {count} seed{'s' * (seeds[-1] > 1)} of each"
    if seeds[0] > 1:
        return f"{seeds[0]} seeds of one base"
    return f"{questions} questions to one run" if questions else "one run"


def share_across(shares: Sequence[float], questions: int) -> tuple[float, float]:
    """Interval of the mean of shares of several runs, which holds at 0 and at 1, where runs do not differ.

    Clopper and Pearson's (1934) for the number of questions that the mean is worth, as Korn and Graubard (1998, Survey
    Methodology 24:193) take it for clustered data: p (1 - p) over the variance of the mean between runs, at most all
    questions of all runs, times (z / t)^2 with the t of as many degrees of freedom as there are runs less one. Away
    from the bounds, where runs differ, it is about Student's t. Where all agree, Student's t has no width; this one is
    as wide as so few runs, and the questions of one of them, allow.
    """
    from scipy import special  # here: half a second to import

    count, mean = len(shares), math.fsum(shares) / len(shares)
    if count < 2 or questions < 1 or not all(0 <= share <= 1 for share in shares):
        raise ValueError(f"shares {list(shares)} of {questions} questions: at least two, each from 0 to 1, are needed")
    variance = math.fsum((share - mean) ** 2 for share in shares) / (count - 1) / count
    worth = min(mean * (1 - mean) / variance, count * questions) if variance else count * questions
    worth *= (Z / float(special.stdtrit(count - 1, 0.975))) ** 2
    worth = worth if variance else min(worth, questions)  # they are the same ones in every run
    right = mean * worth
    low = float(special.betaincinv(right, worth - right + 1, 0.025)) if mean > 0 else 0.0
    high = float(special.betaincinv(right + 1, worth - right, 0.975)) if mean < 1 else 1.0
    return low, high


def difference(first: tuple[float, float, float], second: tuple[float, float, float]) -> tuple[float, float]:
    """Interval of second - first, each a figure with its interval (value, low, high), of samples of their own.

    Of shares with Wilson's intervals it is Newcombe's (1998, Statistics in Medicine 17:873, method 10); Zou and Donner
    (2008, Statistics in Medicine 27:1693) have it for other figures. Of two answers to the same questions, which agree
    more often than chance, it is wider than a paired interval.
    """
    (a, a_low, a_high), (b, b_low, b_high) = first, second
    return b - a - math.hypot(b - b_low, a_high - a), b - a + math.hypot(b_high - b, a - a_low)


def draws(count: int, size: int) -> Iterator[tuple[int, int]]:
    """Shapes of arrays that hold `count` draws of `size` values, a row each, with `DRAWN` values at most in one.

    A generator fills them as it would one row after the other.
    """
    rows = max(1, DRAWN // max(1, size))
    for first in range(0, count, rows):
        yield min(rows, count - first), size


@typed
def bootstrap(values: Float[np.ndarray, "n"], seed: int, resamples: int = 2000) -> tuple[float, float]:
    """Percentile bootstrap of the mean: 2.5 % and 97.5 % points over `resamples` draws; nan for a single value."""
    if values.size == 0:
        raise ValueError("bootstrap of no values: at least one is needed")
    if values.size == 1:
        return math.nan, math.nan
    rng = np.random.default_rng(seed)
    means = [values[rng.integers(values.size, size=shape)].mean(1) for shape in draws(resamples, values.size)]
    low, high = np.percentile(np.concatenate(means), [2.5, 97.5])
    return float(low), float(high)


@typed
def bootstrap_ratio(
    numerators: Float[np.ndarray, "n"], denominators: Float[np.ndarray, "n"], seed: int, resamples: int = 2000
) -> tuple[float, float]:
    """Percentile bootstrap of sum(numerators) / sum(denominators), the pairs drawn together; nan for a single pair."""
    if numerators.size == 0:
        raise ValueError("bootstrap of no values: at least one is needed")
    if numerators.size == 1:
        return math.nan, math.nan
    rng = np.random.default_rng(seed)
    drawn = (rng.integers(numerators.size, size=shape) for shape in draws(resamples, numerators.size))
    ratios = [numerators[i].sum(1) / denominators[i].sum(1) for i in drawn]
    low, high = np.percentile(np.concatenate(ratios), [2.5, 97.5])
    return float(low), float(high)
