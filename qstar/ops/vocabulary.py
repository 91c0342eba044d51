"""Softmax work over the vocabulary: log-probs of given tokens and sampling, without keeping logits.

Both take a function from hidden states to logits and run it on slices of the position axis (`ops.chunk`).
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from qstar.ops.attention import MASKED
from qstar.ops.chunk import chunked, slice_size
from qstar.typing import Array, Float, Int, Key, typed

Head = Callable[[Array], Array]  # [*rows D] -> [*rows V]


def forbid(logits: Float[Array, "*rows V"], forbidden: tuple[int, ...]) -> Float[Array, "*rows V"]:
    """Logits under which the forbidden ids have probability zero."""
    return logits.at[..., jnp.array(forbidden, jnp.int32)].set(MASKED) if forbidden else logits


@typed
def logprobs(
    head: Head,
    hidden: Float[Array, "*rows D"],
    targets: Int[Array, "*rows"],
    axis: int,
    vocab: int,
    temperature: float = 1.0,
    forbidden: tuple[int, ...] = (),
) -> Float[Array, "*rows"]:
    """log softmax(logits / temperature) at the targets; `axis` is the axis of `targets` to slice along."""

    def slice_logprobs(arrays):
        hidden, targets = arrays
        logits = forbid(head(hidden), forbidden) / temperature
        chosen = jnp.take_along_axis(logits, targets[..., None], -1)[..., 0]
        return chosen - jax.nn.logsumexp(logits, axis=-1)

    size = slice_size(targets.shape[axis], targets.size // targets.shape[axis] * vocab)
    return chunked(slice_logprobs, (hidden, targets), axis, size)


@typed
def sample(
    head: Head,
    hidden: Float[Array, "B R A D"],
    key: Key,
    vocab: int,
    temperature: float = 1.0,
    forbidden: tuple[int, ...] = (),
) -> tuple[Int[Array, "B R A"], Float[Array, "B R A"]]:
    """Tokens drawn from softmax(logits / temperature), arg-max where the temperature is 0, and their log-probs.

    Gumbel-max: arg-max of logits / temperature + noise, the noise of an anchor being a function of (key, anchor) alone,
    so that the draw depends neither on the slices nor on the mesh. The log-probs are those of the distribution drawn
    from (of temperature 1 where the choice is greedy). Differs from the official code: there the noise is divided by
    the temperature as well, so its "greedy" thoughts are samples at temperature 1.
    """
    batch, samples, anchors, _ = hidden.shape

    def noise(slots, dtype):
        # The keys are made from the slots here: `chunked` may pad, and must not see keys twice.
        shape = (batch, samples, vocab)
        return jax.vmap(lambda slot: jax.random.gumbel(jax.random.fold_in(key, slot), shape, dtype), out_axes=2)(slots)

    def slice_sample(arrays):
        hidden, slots = arrays
        logits = forbid(head(hidden), forbidden) / (temperature or 1.0)
        noisy = logits
        if temperature:
            noisy = logits + noise(slots[0, 0], logits.dtype)
        tokens = jnp.argmax(noisy, axis=-1)
        chosen = jnp.take_along_axis(logits, tokens[..., None], -1)[..., 0]
        return tokens, chosen - jax.nn.logsumexp(logits, axis=-1)

    size = slice_size(anchors, batch * samples * vocab)
    return chunked(slice_sample, (hidden, jnp.arange(anchors)[None, None]), 2, size)
