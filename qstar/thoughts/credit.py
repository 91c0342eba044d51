"""What each thought earned, and the policy gradient that follows from it."""

import math

import jax
import jax.numpy as jnp

from qstar.ops import masked
from qstar.structs import Credit, Talk, Term
from qstar.typing import Array, Bool, Float, typed

BASELINES = ("mean", "log_mean", "leave_one_out", "base")
MOST = 20.0  # log of the largest importance weight: keeps exp finite, and is out of reach of tokens that were sampled


@typed
def credit(talk: Talk, counts: Bool[Array, "B A N"], baseline: str, clamp: bool) -> Credit:
    """Reward of a thought: sum over the N true tokens of log p_mixed - log p_base (nats).

    advantage = reward - baseline over the R thoughts of the same anchor: `mean` of all R (the released code);
    `log_mean`, log of the mean of the likelihoods of the N tokens (log p-bar of Quiet-STaR's Algorithm 1; never below
    `mean`); `leave_one_out`, mean of the other R - 1 (unbiased; the advantage is R/(R-1) times that of `mean`); or
    `base`: the prediction without a thought is the baseline, so the reward itself. `clamp` keeps only thoughts better
    than the baseline. Gradients stop here.
    """
    gain = jax.lax.stop_gradient(talk.mixed - talk.base[:, None])
    if talk.unchanged is not None:
        # Both log-probs come from the same hidden state, but in products of other shapes, which round differently: at
        # the first step that would be the whole reward, and beta may be 1e6.
        gain = jnp.where(talk.unchanged, 0, gain)
    reward = masked.total(gain, jnp.broadcast_to(counts[:, None], gain.shape))
    advantage = reward
    if baseline == "log_mean":
        # The likelihood without a thought cancels: log mean exp of the rewards is the baseline of the rewards.
        count = math.log(reward.shape[1])
        advantage = reward - (jax.nn.logsumexp(reward, axis=1, keepdims=True) - count)
    elif baseline != "base":
        advantage = reward - reward.mean(axis=1, keepdims=True)
    if baseline == "leave_one_out":
        advantage = advantage * (reward.shape[1] / (reward.shape[1] - 1))
    if baseline != "base":
        # The mean of equal numbers is rounded, and need not be that number.
        advantage = jnp.where((reward == reward[:, :1]).all(axis=1, keepdims=True), 0, advantage)
    return Credit(reward, jnp.maximum(advantage, 0) if clamp else advantage)


@typed
def importance(logprobs: Float[Array, "B R A T"], behaviour: Float[Array, "B R A T"]) -> Float[Array, "B R A T"]:
    """Weights p(token) / q(token) of tokens drawn from q (`behaviour`) and reinforced under p. Gradients stop here.

    One weight a token, not the product over a thought, which would be the exact one for thoughts of p: of thoughts of
    eight tokens drawn at temperature 1 and weighed at 3, on the bundled model, products leave an effective sample size
    of 3 % and single weights 21 %. What is left out is the distribution of what comes before and after the token: it
    remains that of the thoughts as they are sampled (off-policy policy gradient, Degris et al. 2012). Exact for
    thoughts of one token.
    """
    return jnp.exp(jnp.minimum(jax.lax.stop_gradient(logprobs - behaviour), MOST))


@typed
def reinforce(
    logprobs: Float[Array, "B R A T"],
    advantage: Float[Array, "B R A"],
    where: Bool[Array, "B A"],
    weights: Float[Array, "B R A T"] | None = None,
) -> Term:
    """Policy-gradient loss: - mean over thoughts of advantage * mean over tokens of log p(token).

    Its gradient is that of the expected reward (REINFORCE, Williams 1992) divided by the thought length. `weights`
    multiply each token's log p.
    """
    weighted = logprobs if weights is None else jax.lax.stop_gradient(weights) * logprobs
    per_thought = -jax.lax.stop_gradient(advantage) * weighted.mean(axis=-1)
    return Term.of(per_thought, jnp.broadcast_to(where[:, None], per_thought.shape))
