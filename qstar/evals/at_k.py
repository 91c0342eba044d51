"""What k of N samples of a question are worth, over all subsets of them: unbiased, where one subset is a draw.

pass@k      the probability that one of k samples is right (Chen et al. 2021, equation 1)
Verifier@k  the probability that the best of k samples by a score is right (Hosseini et al. 2024, equation 4)
"""

import math
from collections.abc import Sequence
from math import comb


def pass_at(right: Sequence[bool], k: int) -> float:
    """Raises ValueError for k beyond the samples there are."""
    n, c = len(right), sum(map(bool, right))
    _check(n, k)
    return 1 - comb(n - c, k) / comb(n, k)


def verifier_at(scores: Sequence[float], right: Sequence[bool], k: int) -> float:
    """Of samples with equal scores every one is as likely to be taken.

    Raises ValueError as `pass_at`, and for a score that is NaN.
    """
    n = len(right)
    _check(n, k)
    unknown = [number for number, score in enumerate(scores) if math.isnan(score)]
    if unknown:
        raise ValueError(f"the score of sample {unknown[0]} is NaN, which ranks nowhere: expected numbers")
    pairs = sorted(zip(scores, right, strict=True), key=lambda pair: -pair[0])
    value, above = 0.0, 0
    while above < n:
        level = [is_right for score, is_right in pairs[above:] if score == pairs[above][0]]
        # The best of k is of this level: none of those above is drawn, and one of these is.
        chance = (comb(n - above, k) - comb(n - above - len(level), k)) / comb(n, k)
        value += chance * sum(level) / len(level)
        above += len(level)
    return value


def _check(n: int, k: int) -> None:
    if not 1 <= k <= n:
        raise ValueError(f"k = {k} of {n} samples: expected from 1 to {n}")
