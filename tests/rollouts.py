"""Literal rollouts of the tiny model, and their tokens as lists."""

import jax
import jax.numpy as jnp
import numpy as np

from qstar.ops import rows
from qstar.structs import Rollouts

REWARDS = [1.0, 0.0, 0.0, 1.0, 0.5, 0.5]
PROMPTS = [[3, 7]] * 3 + [[5, 2, 10]] * 3
TEXTS = [[1, 9, 4, 6], [5, 2], [8, 8, 1, 2, 12], [6, 1], [4, 4, 11, 1, 3], [1, 6]]
LONGEST = 5


def batch(rewards=REWARDS, samples=3, live=None, past=0.25, behaviour=-1.0, beside=3):
    """Six texts of two questions, of two to five sampled tokens after prompts of two or three; `beside` in a row."""
    ends = np.array([len(text) - 1 for text in TEXTS])
    reward = np.zeros((6, LONGEST))
    reward[np.arange(6), ends] = rewards
    text = rows.padded(TEXTS, LONGEST)
    wide = jnp.float64 if jnp.zeros(0).dtype == jnp.float64 else jnp.float32
    in_rows = lambda values: jnp.asarray(values).reshape(-1, beside, *np.shape(values)[1:])  # noqa: E731
    return Rollouts(
        prompt=jax.tree.map(jnp.asarray, rows.padded(PROMPTS[::beside], 3)),
        tokens=in_rows(text.tokens),
        mask=in_rows(text.mask),
        behaviour=in_rows(jnp.full((6, LONGEST), behaviour, wide)),
        reward=in_rows(jnp.asarray(reward, wide)),
        rewards={"grade": in_rows(jnp.asarray(rewards, wide))},
        right=in_rows(jnp.asarray(rewards) > 0.5),
        live=in_rows(np.ones(6, bool) if live is None else np.array(live, bool)),
        past=in_rows(jnp.full(6, past, wide)),
        samples=samples,
    )


def alone():
    """The same texts, each after its prompt in a row of its own: what the model is asked elsewhere."""
    together = rows.padded([prompt + text for prompt, text in zip(PROMPTS, TEXTS, strict=True)], 8)
    return jax.tree.map(jnp.asarray, together)


def sampled(values):
    """Of values [6 J] for the token after each place of `alone`: those of the sampled tokens, a list a text."""
    lists = []
    for prompt, text, row in zip(PROMPTS, TEXTS, np.asarray(values), strict=True):
        lists.append(row[len(prompt) - 1 : len(prompt) - 1 + len(text)].tolist())
    return lists


def by_text(values):
    """Values [B R T] of the sampled tokens, a list a text."""
    texts = np.asarray(values).reshape(6, LONGEST)
    return [row[: len(text)].tolist() for row, text in zip(texts, TEXTS, strict=True)]
