"""Policy gradients on sampled tokens: ratios, clipped surrogates, estimates of the KL, how losses of tokens add up.

Rows are sampled texts; the mask is True at the tokens that were sampled.
"""

import jax
import jax.numpy as jnp

from qstar.ops import masked
from qstar.structs import Term
from qstar.typing import Array, Bool, Float, typed

RATIOS = ("token", "sequence")
AGGREGATIONS = ("sequence_mean_token_mean", "token_mean", "sequence_sum_over_constant")
KL_ESTIMATES = ("k1", "k2", "k3")
MOST = 20.0  # log of the largest ratio: keeps exp finite


@typed
def ratio(
    logprobs: Float[Array, "*rows T"], old: Float[Array, "*rows T"], mask: Bool[Array, "*rows T"], kind: str
) -> Float[Array, "*rows T"]:
    """pi(token) / pi_old(token), 1 where masked; differentiable in `logprobs`.

    `token`: of every token by itself (PPO, GRPO). `sequence`: the geometric mean of those of the text, at every token
    of it (GSPO, Zheng et al. 2025, equation 7); each token carries an equal part of the gradient.
    """
    if kind not in RATIOS:
        raise ValueError(f"ratio = {kind!r}: expected one of {', '.join(RATIOS)}")
    log_ratio = jnp.where(mask, logprobs - jax.lax.stop_gradient(old), 0)
    if kind == "sequence":
        count = jnp.maximum(mask.sum(-1, keepdims=True), 1)
        log_ratio = jnp.where(mask, log_ratio.sum(-1, keepdims=True) / count, 0)
    return jnp.exp(jnp.minimum(log_ratio, MOST))


@typed
def clipped_surrogate(
    ratio: Float[Array, "*rows T"],
    advantage: Float[Array, "*rows T"],
    low: float | None,
    high: float | None,
    dual: float | None = None,
) -> Float[Array, "*rows T"]:
    """-min(ratio A, clip(ratio, 1 - low, 1 + high) A) (Schulman et al. 2017, equation 7): to be minimised.

    `low` and `high` None: not clipped. DAPO clips further up than down (0.2, 0.28). `dual` c > 1 bounds the loss of a
    negative advantage at -c A (Ye et al. 2020).
    """
    surrogate = ratio * advantage
    if low is not None or high is not None:
        bounds = (None if low is None else 1 - low, None if high is None else 1 + high)
        surrogate = jnp.minimum(surrogate, jnp.clip(ratio, *bounds) * advantage)
    if dual is not None:
        surrogate = jnp.where(advantage < 0, jnp.maximum(surrogate, dual * advantage), surrogate)
    return -surrogate


@typed
def kl(logprobs: Float[Array, "*shape"], reference: Float[Array, "*shape"], estimate: str) -> Float[Array, "*shape"]:
    """Estimates of KL(pi | reference) from tokens of pi, nats; r = log pi - log reference (Schulman 2020).

    k1 = r, unbiased, of either sign. k2 = r^2 / 2, biased. k3 = exp(-r) - 1 + r, unbiased, never negative.

    Added to a loss and differentiated their expectations are: k1, nothing at all (it belongs into the reward, where the
    policy gradient of -k1 is that of -KL); k2, the gradient of KL(pi | reference); k3, that of KL(reference | pi).
    """
    if estimate not in KL_ESTIMATES:
        raise ValueError(f"kl = {estimate!r}: expected one of {', '.join(KL_ESTIMATES)}")
    r = logprobs - reference
    if estimate == "k1":
        return r
    if estimate == "k2":
        return r**2 / 2
    return jnp.expm1(jnp.minimum(-r, MOST)) + r


@typed
def aggregated(
    values: Float[Array, "*rows T"],
    mask: Bool[Array, "*rows T"],
    aggregation: str,
    constant: float = 1.0,
    weight: float = 1.0,
    name: str = "",
) -> Term:
    """The loss of a batch out of those of its tokens, as a sum and a count that add over micro-batches.

    sequence_mean_token_mean    mean over texts of the mean over their tokens (GRPO as published): tokens of long texts
                                weigh less
    token_mean                  mean over all tokens of the batch (DAPO)
    sequence_sum_over_constant  mean over texts of their sums over `constant`, such as the longest text that may be
                                written (Dr. GRPO): every token weighs the same in every batch

    Texts without a token count nowhere.
    """
    if aggregation not in AGGREGATIONS:
        raise ValueError(f"aggregation = {aggregation!r}: expected one of {', '.join(AGGREGATIONS)}")
    if aggregation == "token_mean":
        return Term.of(values, mask, weight, name)
    lengths = mask.sum(-1)
    divisor = jnp.maximum(lengths, 1) if aggregation == "sequence_mean_token_mean" else constant
    return Term.of(masked.total(values, mask) / divisor, lengths > 0, weight, name)
