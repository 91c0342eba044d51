"""Reductions that count only what a mask marks True. Losses use nothing else."""

import jax.numpy as jnp

from qstar.typing import Array, Bool, Float, typed


@typed
def mean(values: Float[Array, "*shape"], where: Bool[Array, "*shape"]) -> Float[Array, ""]:
    """Mean of the marked entries; 0, with zero gradient, when none is marked."""
    total = jnp.sum(jnp.where(where, values, 0))
    return total / jnp.maximum(jnp.sum(where), 1).astype(values.dtype)


@typed
def total(values: Float[Array, "*shape N"], where: Bool[Array, "*shape N"]) -> Float[Array, "*shape"]:
    """Sum of the marked entries along the last axis."""
    return jnp.sum(jnp.where(where, values, 0), axis=-1)
