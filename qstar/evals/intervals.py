"""95 % intervals of a mean and of a share."""

import math
from collections.abc import Sequence

import numpy as np

from qstar.typing import Float, typed

Z = 1.959963984540054  # the 97.5 % point of the standard normal distribution


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


@typed
def bootstrap(values: Float[np.ndarray, "n"], seed: int, resamples: int = 2000) -> tuple[float, float]:
    """Percentile bootstrap of the mean: 2.5 % and 97.5 % points over `resamples` draws with replacement."""
    if values.size == 0:
        raise ValueError("bootstrap of no values: at least one is needed")
    rng = np.random.default_rng(seed)
    means = [values[rng.integers(values.size, size=values.size)].mean() for _ in range(resamples)]
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


@typed
def bootstrap_ratio(
    numerators: Float[np.ndarray, "n"], denominators: Float[np.ndarray, "n"], seed: int, resamples: int = 2000
) -> tuple[float, float]:
    """Percentile bootstrap of sum(numerators) / sum(denominators), the pairs drawn together."""
    if numerators.size == 0:
        raise ValueError("bootstrap of no values: at least one is needed")
    rng = np.random.default_rng(seed)
    drawn = (rng.integers(numerators.size, size=numerators.size) for _ in range(resamples))
    low, high = np.percentile([numerators[i].sum() / denominators[i].sum() for i in drawn], [2.5, 97.5])
    return float(low), float(high)
