"""Literal rollouts of the tiny model, and their tokens as lists."""

import jax.numpy as jnp
import numpy as np
import tiny

from qstar.structs import Rollouts
from qstar.thoughts.anchors import next_counts

REWARDS = [1.0, 0.0, 0.0, 1.0, 0.5, 0.5]


def batch(rewards=REWARDS, samples=3, live=None, past=0.25, behaviour=-1.0):
    """Six texts of two questions, of two to five sampled tokens after prompts of two or three; the last is padded."""
    text = tiny.batch(
        tokens=[
            [3, 7, 1, 9, 4, 6, 0, 0],
            [3, 7, 5, 2, 0, 0, 0, 0],
            [3, 7, 8, 8, 1, 2, 12, 0],
            [5, 2, 10, 6, 1, 0, 0, 0],
            [5, 2, 10, 4, 4, 11, 1, 3],
            [5, 2, 10, 1, 6, 0, 0, 0],
        ],
        segment=[[1] * n + [0] * (8 - n) for n in (6, 4, 7, 5, 8, 5)],
        mask=[[0] * p + [1] * (n - p) + [0] * (8 - n) for p, n in ((2, 6), (2, 4), (2, 7), (3, 5), (3, 8), (3, 5))],
    )
    ends = np.array([5, 3, 6, 4, 7, 4])
    reward = np.zeros((6, 8))
    reward[np.arange(6), ends] = rewards
    wide = jnp.float64 if jnp.zeros(0).dtype == jnp.float64 else jnp.float32
    return Rollouts(
        **{name: getattr(text, name) for name in ("tokens", "mask", "segment", "position")},
        behaviour=jnp.full((6, 8), behaviour, wide),
        reward=jnp.asarray(reward, wide),
        rewards={"grade": jnp.asarray(rewards, wide)},
        right=jnp.asarray(rewards) > 0.5,
        live=jnp.asarray(np.ones(6, bool) if live is None else np.array(live, bool)),
        past=jnp.full(6, past, wide),
        samples=samples,
    )


def sampled(values, rollouts):
    """Values [B J] of the sampled tokens, a list a row."""
    counts = np.asarray(next_counts(rollouts))
    return [np.asarray(row)[where].tolist() for row, where in zip(values, counts, strict=True)]
