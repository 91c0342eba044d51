"""What a sampled text earned, spread over its tokens and compared with others: returns, advantages, group baselines.

Everything here is a constant of the step: callers stop gradients.
"""

import jax
import jax.numpy as jnp

from qstar.typing import Array, Bool, Float, typed

SPREADS = ("none", "population", "sample")


@typed
def discounted(reward: Float[Array, "*rows T"], mask: Bool[Array, "*rows T"], gamma: float) -> Float[Array, "*rows T"]:
    """Sum of the rewards of a token and of those after it, each later one times gamma more; 0 where masked."""
    return _backwards(jnp.where(mask, reward, 0), mask, gamma)


@typed
def gae(
    reward: Float[Array, "*rows T"],
    value: Float[Array, "*rows T"],
    mask: Bool[Array, "*rows T"],
    gamma: float,
    lam: float,
) -> Float[Array, "*rows T"]:
    """Generalised advantage estimates (Schulman et al. 2016, equation 16); 0 where masked.

    delta_t = r_t + gamma V_(t+1) - V_t and A_t = delta_t + gamma lam A_(t+1), over the tokens that the mask marks,
    which are consecutive; after the last of them the value is 0. Values of masked tokens do not count.
    """
    value = jnp.where(mask, value, 0)
    following = jnp.append(value[..., 1:], jnp.zeros_like(value[..., :1]), axis=-1)
    return _backwards(jnp.where(mask, reward + gamma * following - value, 0), mask, gamma * lam)


def _backwards(values: Float[Array, "*rows T"], mask: Bool[Array, "*rows T"], decay: float) -> Float[Array, "*rows T"]:
    def step(later: Array, now: tuple[Array, Array]) -> tuple[Array, Array]:
        value, counts = now
        total = jnp.where(counts, value + decay * later, 0)
        return total, total

    tokens = (jnp.moveaxis(values, -1, 0), jnp.moveaxis(mask, -1, 0))
    _, totals = jax.lax.scan(step, jnp.zeros_like(values[..., 0]), tokens, reverse=True)
    return jnp.moveaxis(totals, 0, -1)


@typed
def whitened(
    values: Float[Array, "*shape"], mask: Bool[Array, "*shape"], epsilon: float = 1e-8
) -> Float[Array, "*shape"]:
    """With mean 0 and variance 1 over all marked entries of the batch; 0 where masked.

    The variance is that of the population (divided by their number). PPO whitens its advantages once a batch.
    """
    count = jnp.maximum(mask.sum(), 1)
    mean = jnp.where(mask, values, 0).sum() / count
    centred = jnp.where(mask, values - mean, 0)
    return centred * jax.lax.rsqrt((centred**2).sum() / count + epsilon)


@typed
def group_advantage(
    reward: Float[Array, "Q R"], leave_one_out: bool = False, spread: str = "none", epsilon: float = 1e-4
) -> Float[Array, "Q R"]:
    """Rewards of R samples of a question against the mean of all R, or of the other R - 1 (`leave_one_out`, RLOO).

    Leaving one out is R / (R - 1) times the difference to the mean of all. `spread` divides by the standard deviation
    of the group, plus epsilon: `population` divides the squares by R, `sample` by R - 1, as torch's `std` does (at one
    right of eight the right one gets 2.646 and 2.475). Equal rewards of a question give exactly 0.

    Raises ValueError for one sample a question, which has nothing to be compared with, and for an unknown spread.
    """
    samples = reward.shape[1]
    if samples < 2:
        raise ValueError("expected two or more samples of a question for a group baseline, got 1")
    if spread not in SPREADS:
        raise ValueError(f"spread = {spread!r}: expected one of {', '.join(SPREADS)}")
    centred = reward - reward.mean(axis=1, keepdims=True)
    if leave_one_out:
        centred = centred * (samples / (samples - 1))
    if spread != "none":
        centred = centred / (reward.std(axis=1, keepdims=True, ddof=int(spread == "sample")) + epsilon)
    # The mean of equal numbers is rounded, and need not be that number.
    return jnp.where((reward == reward[:, :1]).all(axis=1, keepdims=True), 0, centred)
