"""Rotary position embeddings (Su et al. 2021), in the half-split layout of Hugging Face, and their stretching.

A pair of channels turns by position times a frequency of its own. Models made for long texts turn the slow pairs
slower than they were trained with: `linear` divides every frequency, `llama3` those whose wavelength is beyond the
length of the first training, with a ramp in between (Llama 3.1, section 3.4.3 and its reference code).
"""

import math
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np

from qstar import settings
from qstar.settings import Count, Positive
from qstar.typing import Array, Float, Int, typed


@dataclass(frozen=True)
class Scaling:
    """Frequencies divided by `factor`: all of them, or, with the other three, only slow ones (llama3).

    A pair that turns fewer than `low` times within `original_len` positions is slowed by the whole factor, one that
    turns more than `high` times not at all; between them the factor fades.
    """

    factor: Positive
    low: Positive | None = None
    high: Positive | None = None
    original_len: Count | None = None

    def __post_init__(self):
        settings.check(self, "model.rope_scaling")
        given = [value is not None for value in (self.low, self.high, self.original_len)]
        if any(given) and not all(given):
            raise ValueError("model.rope_scaling: low, high and original_len come together (llama3), or not at all")
        if all(given) and self.low >= self.high:
            raise ValueError(f"model.rope_scaling: low = {self.low}, high = {self.high}: expected 0 < low < high")


def frequencies(size: int, theta: float, scaling: Scaling | None, dtype: jnp.dtype) -> np.ndarray:
    """Radians per position of the size / 2 pairs of a head."""
    half = size // 2
    # Rounded before the division, as the models' makers do: another last bit moves the logits of SmolLM2 by 1e-4.
    plain = 1 / (theta ** (np.arange(half) / half)).astype(dtype)
    if scaling is None:
        return plain
    if scaling.original_len is None:
        return plain / scaling.factor
    turns = scaling.original_len / (2 * math.pi / plain)
    keep = np.clip((turns - scaling.low) / (scaling.high - scaling.low), 0, 1)
    return (1 - keep) * plain / scaling.factor + keep * plain


@typed
def rotate(
    x: Float[Array, "*rows H K"], position: Int[Array, "*rows"], frequency: Float[Array | np.ndarray, "_"]
) -> Float[Array, "*rows H K"]:
    """Turn the pairs (x[k], x[k + K/2]) of every head by position * frequency[k]."""
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    angle = jnp.einsum("...,k->...k", position.astype(dtype), frequency)[..., None, :]
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    first, second = jnp.split(x.astype(dtype), 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x.dtype)
