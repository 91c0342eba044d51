"""Where the model thinks, and which true tokens judge the thought."""

import math

import jax
import jax.numpy as jnp

from qstar.structs import Batch
from qstar.typing import Array, Bool, Int, Key, typed


@typed
def choose(batch: Batch, fraction: float, key: Key) -> Int[Array, "B A"]:
    """All positions, or a random subset of each row, in order; A = ceil(fraction * S)."""
    rows, size = batch.tokens.shape
    if fraction >= 1.0:
        return jnp.broadcast_to(jnp.arange(size)[None], (rows, size))
    order = jnp.argsort(jax.random.uniform(key, (rows, size)), axis=1)
    return jnp.sort(order[:, : how_many(fraction, size)], axis=1)


def how_many(fraction: float, size: int) -> int:
    """How many of `size` positions that is."""
    return size if fraction >= 1.0 else max(1, math.ceil(fraction * size))


@typed
def draw(batch: Batch, count: int, key: Key) -> Int[Array, "B A"]:
    """`count` positions of each row, in order, drawn among those with a token to predict; 0 takes all positions.

    Rows with fewer than `count` of them have others as well, which `target_counts` leaves out.
    """
    if not 0 < count < batch.tokens.shape[1]:
        return choose(batch, 1.0, key)
    everywhere = choose(batch, 1.0, key)
    late = (~target_counts(batch, everywhere, 1)[:, :, 0]).astype(jnp.float32)
    order = jnp.argsort(jax.random.uniform(key, batch.tokens.shape) + late, axis=1)
    return jnp.sort(order[:, :count], axis=1)


@typed
def target_index(batch: Batch, anchors: Int[Array, "B A"], lookahead: int) -> Int[Array, "B A N"]:
    """Position of the n-th token after each anchor, clipped to the window; see `target_counts`."""
    after = anchors[:, :, None] + 1 + jnp.arange(lookahead)[None, None]
    return jnp.minimum(after, batch.tokens.shape[1] - 1)


@typed
def target_counts(batch: Batch, anchors: Int[Array, "B A"], lookahead: int) -> Bool[Array, "B A N"]:
    """True where that token exists, counts, and belongs to the anchor's document."""
    index = target_index(batch, anchors, lookahead)
    inside = anchors[:, :, None] + 1 + jnp.arange(lookahead)[None, None] < batch.tokens.shape[1]
    document = jnp.take_along_axis(batch.segment, anchors, 1)
    return (
        inside
        & gather(batch.mask, index)
        & (gather(batch.segment, index) == document[:, :, None])
        & (document[:, :, None] > 0)
    )


@typed
def gather(values: Array, index: Int[Array, "B A N"]) -> Array:
    """values [B S ...] at index [B A N] -> [B A N ...]."""
    return jax.vmap(lambda row, at: row[at])(values, index)


@typed
def next_counts(batch: Batch) -> Bool[Array, "B J"]:
    """True where the next token is a target of the ordinary language-model loss."""
    same = batch.segment[:, 1:] == batch.segment[:, :-1]
    return batch.mask[:, 1:] & same & (batch.segment[:, 1:] > 0)
