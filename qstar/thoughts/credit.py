"""What each thought earned, and the policy gradient that follows from it."""

import jax
import jax.numpy as jnp

from qstar.ops import masked
from qstar.structs import Credit, Talk
from qstar.typing import Array, Bool, Float, typed

BASELINES = ("mean", "leave_one_out", "base")


@typed
def credit(talk: Talk, counts: Bool[Array, "B A N"], baseline: str, clamp: bool) -> Credit:
    """Reward of a thought: sum over the N true tokens of log p_mixed - log p_base (nats).

    advantage = reward - baseline over the R thoughts of the same anchor: `mean` of all R (Quiet-STaR), `leave_one_out`
    of the other R - 1 (unbiased; R/(R-1) times the former), or `base`: the prediction without a thought is the
    baseline, so the reward itself. `clamp` keeps only thoughts better than the baseline. Gradients stop here.
    """
    gain = jax.lax.stop_gradient(talk.mixed - talk.base[:, None])
    reward = masked.total(gain, jnp.broadcast_to(counts[:, None], gain.shape))
    advantage = reward
    if baseline != "base":
        advantage = reward - reward.mean(axis=1, keepdims=True)
    if baseline == "leave_one_out":
        advantage = advantage * (reward.shape[1] / (reward.shape[1] - 1))
    return Credit(reward, jnp.maximum(advantage, 0) if clamp else advantage)


@typed
def reinforce(
    logprobs: Float[Array, "B R A T"], advantage: Float[Array, "B R A"], where: Bool[Array, "B A"]
) -> Float[Array, ""]:
    """Policy-gradient loss: - mean over thoughts of advantage * mean over tokens of log p(token).

    Its gradient is that of the expected reward (REINFORCE, Williams 1992) divided by the thought length.
    """
    per_thought = -jax.lax.stop_gradient(advantage) * logprobs.mean(axis=-1)
    return masked.mean(per_thought, jnp.broadcast_to(where[:, None], per_thought.shape))
