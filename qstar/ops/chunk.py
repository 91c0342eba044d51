"""Run a function over slices of one axis, one after another, so that its large intermediates never exist whole.

Used for everything of vocabulary size. Gradients recompute each slice, so the backward pass keeps no logits either.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from qstar.typing import PyTree

BUDGET_BYTES = 64 * 2**20  # of float32 logits per slice: past the caches of a CPU, small beside any model
ON_GPU = 16  # times that on a GPU, where every slice is a round of launches,
OF_MEMORY = 64  # up to this part of its memory


def budget() -> int:
    """Bytes of float32 values per slice on the devices that run."""
    if jax.default_backend() != "gpu":
        return BUDGET_BYTES
    memory = (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit", 0)
    return max(BUDGET_BYTES, min(ON_GPU * BUDGET_BYTES, memory // OF_MEMORY))


def slice_size(length: int, elements: int) -> int:
    """Slice length along an axis of `length` whose every entry costs `elements` float32 values; equal slices."""
    slices = -(-length * elements * 4 // budget())
    return max(1, -(-length // max(1, slices)))


def chunked(fn: Callable[[PyTree], PyTree], arrays: PyTree, axis: int, size: int) -> PyTree:
    """`fn(arrays)` computed on slices of `size` entries along `axis` of every input and output leaf.

    Exact for functions that treat the axis entry by entry. The last slice is padded by repeating the last entry.
    """
    length = jax.tree.leaves(arrays)[0].shape[axis]
    body = jax.checkpoint(fn)
    if size >= length:
        return body(arrays)
    count = -(-length // size)

    def split(x):
        pad = [(0, 0)] * x.ndim
        pad[axis] = (0, count * size - length)
        x = jnp.pad(x, pad, mode="edge")
        return jnp.moveaxis(x.reshape(*x.shape[:axis], count, size, *x.shape[axis + 1 :]), axis, 0)

    def join(x):
        x = jnp.moveaxis(x, 0, axis)
        x = x.reshape(*x.shape[:axis], count * size, *x.shape[axis + 2 :])
        return jax.lax.slice_in_dim(x, 0, length, axis=axis)

    return jax.tree.map(join, jax.lax.map(body, jax.tree.map(split, arrays)))
