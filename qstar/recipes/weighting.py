"""What a graded sample weighs in training: the dial between policy gradient and maximum likelihood.

K samples of one question, of which a share pi is right, r = 1 for a right one and 0 for a wrong one. A sample weighs

    (r - b) * w(pi) / K        pg: w = 1        deviation: w = 1 / sqrt(pi (1 - pi))        ml: w = 1 / pi

Without a baseline (b = 0) only right samples weigh anything: pg keeps all of them, ml spreads a weight of one over the
right ones of a question, since E[grad log p | right] is the gradient of log pi. With it (b = pi) wrong ones weigh as
much below zero; deviation is the advantage of GRPO (Shao et al. 2024), ml that of maximum-likelihood reinforcement
learning, (r - pi) / pi. Questions whose samples are all wrong weigh nothing either way, and, with a baseline, those
all right neither.
"""

import math
from collections.abc import Sequence

KINDS = ("pg", "deviation", "ml")


def weights(right: Sequence[bool], kind: str, baseline: bool) -> list[float]:
    """Of each sample of one question.

    Raises ValueError for an unknown kind and for no samples.
    """
    if kind not in KINDS:
        raise ValueError(f"weighting = {kind!r}: choose one of {', '.join(KINDS)}")
    if not right:
        raise ValueError("a question without samples has no weights")
    share = sum(right) / len(right)
    if share in (0.0, 1.0) and (baseline or share == 0.0):
        return [0.0] * len(right)
    # All right: no spread to divide by, and no baseline that would make it matter.
    scale = {"pg": 1.0, "deviation": 1 / (math.sqrt(share * (1 - share)) or 1.0), "ml": 1 / share}[kind]
    return [(reward - share * baseline) * scale / len(right) for reward in right]
