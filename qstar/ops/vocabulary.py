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
LARGE = 512
"""Size of a vocabulary from which on a token is drawn with one random number instead of one for each of its rivals:
making 32,000 of them takes a CPU ten times as long as the logits of a narrow model."""
COLD, HOT = 1e-6, 1e12
"""Temperatures between which a quotient of logits that a model computes comes neither near the largest float nor near
`MASKED`, and `MASKED` over them stays far below all others."""
BLOCK = 256  # tokens that `inverted` adds up before it looks at single ones


def forbid(logits: Float[Array, "*rows V"], forbidden: tuple[int, ...]) -> Float[Array, "*rows V"]:
    """Logits under which the forbidden ids have probability zero."""
    return logits.at[..., jnp.array(forbidden, jnp.int32)].set(MASKED) if forbidden else logits


def tempered(logits: Float[Array, "*rows V"], temperature: float) -> Float[Array, "*rows V"]:
    """Logits over a positive temperature, for any float; forbidden ids (`MASKED`) stay forbidden.

    Below `COLD` up to a constant of the row: the likeliest token is at 0 and others are far below it, so that it is
    drawn for certain where the quotients would not be finite. Float32 has no positive number below its smallest one.
    """
    if COLD <= temperature <= HOT:
        return logits / temperature
    if temperature > HOT:
        return jnp.where(logits <= MASKED, MASKED, logits / temperature)
    below = logits - jax.lax.stop_gradient(logits.max(-1, keepdims=True))
    return jnp.maximum(below / max(temperature, float(jnp.finfo(logits.dtype).tiny)), MASKED)


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
        logits = tempered(forbid(head(hidden), forbidden), temperature)
        chosen = jnp.take_along_axis(logits, targets[..., None], -1)[..., 0]
        return chosen - jax.nn.logsumexp(logits, axis=-1)

    size = slice_size(targets.shape[axis], targets.size // targets.shape[axis] * vocab)
    return chunked(slice_logprobs, (hidden, targets), axis, size)


@typed
def inverted(logits: Float[Array, "*rows V"], uniform: Float[Array, "*rows"]) -> Int[Array, "*rows"]:
    """Tokens drawn from softmax(logits) with uniform numbers in [0, 1): the first whose cumulative probability exceeds.

    In two steps, blocks and then the tokens of one. Probabilities are added in the logits' type: in float32 a token's
    own is off by at most about 1e-7 of the whole. One of probability zero is never drawn.
    """
    *rows, vocab = logits.shape
    weights = jnp.exp(logits - logits.max(-1, keepdims=True))
    padding = [(0, 0)] * len(rows) + [(0, -vocab % BLOCK)]
    blocks = jnp.pad(weights, padding).reshape(*rows, -1, BLOCK)
    sums = blocks.sum(-1)
    upto = jnp.cumsum(sums, -1)
    at = uniform * upto[..., -1]
    block, before = _passed(sums, upto, at)
    inside = jnp.take_along_axis(blocks, block[..., None, None], -2)[..., 0, :]
    token, _ = _passed(inside, jnp.cumsum(inside, -1), at - before)
    return block * BLOCK + token


def _passed(weights: Array, upto: Array, at: Array) -> tuple[Array, Array]:
    """The first place [*rows] whose cumulative weight exceeds `at`, and the cumulative weight before it."""
    place = jnp.argmax(upto > at[..., None], axis=-1)
    # Sums rounded in another order may not grow where a weight is zero, or end below what is asked.
    weight = jnp.take_along_axis(weights, place[..., None], -1)[..., 0]
    place = jnp.where(weight > 0, place, jnp.argmax(weights, axis=-1))
    return place, jnp.take_along_axis(upto - weights, place[..., None], -1)[..., 0]


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

    Gumbel-max in small vocabularies: arg-max of logits / temperature + noise; `inverted` in large ones. The noise of an
    anchor is a function of (key, anchor) alone, so that the draw depends neither on the slices nor on the mesh. The
    log-probs are those of the distribution drawn from (of temperature 1 where the choice is greedy). Differs from the
    official code: there the noise is divided by the temperature as well, so its "greedy" thoughts are samples at
    temperature 1.
    """
    batch, samples, anchors, _ = hidden.shape

    def noise(random, slots, dtype, *trailing):
        # The keys are made from the slots here: `chunked` may pad, and must not see keys twice.
        shape = (batch, samples, *trailing)
        return jax.vmap(lambda slot: random(jax.random.fold_in(key, slot), shape, dtype), out_axes=2)(slots)

    def slice_sample(arrays):
        hidden, slots = arrays
        logits = tempered(forbid(head(hidden), forbidden), temperature or 1.0)
        if not temperature:
            tokens = jnp.argmax(logits, axis=-1)
        elif vocab < LARGE:
            tokens = jnp.argmax(logits + noise(jax.random.gumbel, slots[0, 0], logits.dtype, vocab), axis=-1)
        else:
            tokens = inverted(logits, noise(jax.random.uniform, slots[0, 0], logits.dtype))
        chosen = jnp.take_along_axis(logits, tokens[..., None], -1)[..., 0]
        return tokens, chosen - jax.nn.logsumexp(logits, axis=-1)

    size = slice_size(anchors, batch * samples * vocab)
    return chunked(slice_sample, (hidden, jnp.arange(anchors)[None, None]), 2, size)
