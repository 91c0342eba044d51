"""Bounds on rounding, derived from what is rounded and not read off a processor.

A rounded operation errs by at most u = eps / 2 of its result, eps the machine epsilon of the type. Compilers choose the
order of sums, fuse multiplications with additions and approximate exp and log as the instruction set suggests, so two
correct programs differ by as many roundings as they make. What they differ by is bounded in two ways:

`rounding`  Short formulas: the number of roundings on the way to the result, each at its worst and all in one
            direction. A sum of n terms counts n (Higham, Accuracy and Stability of Numerical Algorithms, section 4.2).
`forward`   Models, where thousands of roundings in one direction do not happen and would be a useless bound: n of them
            add up to the root of n (Higham and Mary, SIAM J. Sci. Comput. 41, 2019), times the condition of the model.
            tests/test_tolerances.py measures that condition in float64 and shows that mistakes are far above the bound.

A bound of either kind is thousands of times below what a dropped term or a wrong mask changes. Where it is not, because
a difference cancels or a small number is asked for, the test runs in float64 (fixture `x64`, `tiny.EXACT`), where
rounding is 2^-29 of what it is in float32. Bounds on what is drawn are not about rounding: `share` and `spread`.
"""

import math

import jax.numpy as jnp
import numpy as np
import tiny
from scipy import stats

FACTOR = 4
"""On every bound. exp, log, division and roots of vector units err by up to 4 u where an exact rounding errs by u; and
the largest of ten thousand normal errors is four standard deviations from zero."""

ALARM = 1e-6
"""How often a right program would be refused by a bound on what it draws, were seeds and processors drawn anew."""


def eps(dtype="float32") -> float:
    return float(jnp.finfo(dtype).eps)


def rounding(count: int, dtype="float32", size: float = 1.0) -> float:
    """FACTOR * count * eps * size: results after `count` roundings each; two programs are compared, hence eps, not u.

    Relative where nothing cancels, with `size` 1. Absolute where something may: `size` is then the sum of the absolute
    terms, or the largest number on the way. A sum, mean or product of vectors counts its length, a softmax its length.
    """
    return FACTOR * count * eps(dtype) * size


def condition(cfg, scores: float | None = None) -> float:
    """layers * (1 + 2 scores): by how many d the results of a model change if every weight does by d of itself.

    `scores`: the standard deviation of the attention's scores. A query and a key that are wrong by d each move a score
    by 2 d of it, and a probability of the attention by as much; layers add up. If not given, it is that of
    `tiny.weights_of`: weights are 0.3 of a normal number and normed rows have a mean square of 1, so that a query and a
    key have the variance 0.09 width, and scores have it as their standard deviation.
    """
    return cfg.layers * (1 + 2 * (0.09 * cfg.width if scores is None else scores))


def largest(cfg) -> float:
    """The largest log-prob of `tiny.weights_of`: log(vocab) and five standard deviations of a logit, whose variance is
    0.09 width."""
    return 5 * 0.3 * cfg.width**0.5 + math.log(cfg.vocab)


def forward(cfg, keys: int | None = None, size: float | None = None, scores: float | None = None) -> float:
    """FACTOR * u * sqrt(n) * condition * size, absolute: hidden states, logits and log-probs of a model `cfg`.

    n: the longest sum, over the width, the feed-forward, the heads' outputs or the keys (`max_len` of them if not
    given). What a sum computes is exact for weights that are wrong by u sqrt(n) of themselves. `size`: the largest of
    the numbers that are compared, `largest(cfg)` if not given.
    """
    length = max(cfg.width, cfg.ff, cfg.heads * cfg.head_size, cfg.max_len if keys is None else keys)
    size = largest(cfg) if size is None else size
    return FACTOR * eps(cfg.dtype) / 2 * length**0.5 * condition(cfg, scores) * size


def gradient(cfg, tokens: int | None = None, size: float | None = None, scores: float | None = None) -> float:
    """Relative to the largest entry of a weight's gradient: 2 forward passes, whose keys are the tokens summed over.

    Probabilities, and with them the gradient of the logits, are relatively wrong by what log-probs are absolutely; the
    backward pass makes the roundings of the forward pass once more.
    """
    return 2 * forward(cfg, tokens, size, scores)


def logprobs(length: int, size: float, dtype="float32") -> float:
    """FACTOR * u * sqrt(length) * size, absolute: log-probs of the same hidden states or logits, as `forward` with
    condition 1. `length`: of the sums, over the width and over the vocabulary."""
    return FACTOR * eps(dtype) / 2 * length**0.5 * size


EXACT = forward(tiny.EXACT)
"""A forward pass of `tiny.EXACT`, and a loss made of it, in float64: 2.4e-13."""
REWARD = 2 * 3 * EXACT
"""A reward is a difference of log-probs, of up to three tokens each."""
POLICY = 9 * REWARD
"""An advantage times a log-prob of at most 9. Absolute: advantages of both signs cancel."""


def difference(cfg, step: float, slope: float) -> float:
    """(f(step) - f(-step)) / 2 step, absolute, of a policy loss, along a direction as large as the weights are.

    FACTOR (step change)^2 / 6 of the slope is cut off, the next term of the series: likelihoods change by `change` of
    themselves if weights do, by as much as log-probs do absolutely. Values wrong by POLICY are divided by `step`.
    """
    change = condition(cfg) * largest(cfg)
    return FACTOR * (step * change) ** 2 / 6 * max(1.0, abs(slope)) + POLICY / step


def trained(cfg, steps: int, lr: float, update: float) -> float:
    """What metrics lose in steps of Adam whose updates, of size lr, are wrong by `update` of themselves.

    Weights, 0.3 of a normal number, are then wrong by steps * lr * update / 0.3 of themselves, and log-probs by
    condition * largest times that.
    """
    return steps * lr * update / 0.3 * condition(cfg) * largest(cfg)


def share(probability, count: int):
    """How far a share of `count` independent draws may be from its probability (normal, two-sided, `ALARM`)."""
    return stats.norm.isf(ALARM / 2) * (probability * (1 - probability) / count) ** 0.5


def spread(count: int) -> float:
    """How far, as a share of it, a standard deviation of `count` normal numbers may be from the true one."""
    return stats.norm.isf(ALARM / 2) / (2 * (count - 1)) ** 0.5


def mean(values) -> float:
    """How far the mean of independent draws like these may be from their expectation."""
    return stats.norm.isf(ALARM / 2) * float(np.std(values)) / np.size(values) ** 0.5
