"""What is between start and end: one mechanism, four fillings.

`sampled` thoughts are the method. The others are its controls, with the same columns and the same compute: `pause`, one
learned embedding repeated (Goyal et al. 2023); `dots`, a fixed token repeated (Pfau et al. 2024); `shuffled`, sampled
thoughts dealt to other positions at random. If a control does as well, it was the compute and not the thought.
"""

import jax
import jax.numpy as jnp
from flax import struct

from qstar.models.thinker import Thinker
from qstar.structs import Context
from qstar.thoughts.draw import sample
from qstar.typing import Array, Float, Int, Key, typed

FILLS = ("sampled", "pause", "dots", "shuffled")


@struct.dataclass
class Inner:
    """Inner columns of thoughts: their embeddings, and their ids where they are tokens."""

    embedding: Float[Array, "B R A T D"]
    tokens: Int[Array, "B R A T"] | None  # None for pauses
    logprobs: Float[Array, "B R A T"] | None = None  # under the distribution they were sampled from; None for others


@typed
def fill(
    kind: str,
    thinker: Thinker,
    context: Context,
    key: Key,
    *,
    thought_len: int,
    num_thoughts: int,
    temperature: float = 1.0,
) -> Inner:
    """The inner columns of R thoughts of T tokens per anchor."""
    rows, count = context.anchors.shape
    shape = (rows, num_thoughts, count, thought_len)
    if kind == "pause":
        pause = thinker.lm.scaled(thinker.pause[...].astype(thinker.lm.dtype))
        return Inner(jnp.broadcast_to(pause, (*shape, thinker.lm.cfg.width)), None)
    if kind == "dots":
        tokens, logprobs = jnp.full(shape, thinker.cfg.tokens.dot), None
    else:
        deal, draw = jax.random.split(key)
        sizes = {"thought_len": thought_len, "num_thoughts": num_thoughts}
        thoughts = sample(thinker, context, draw, **sizes, temperature=temperature)
        tokens, logprobs = thoughts.tokens, thoughts.logprobs
        if kind == "shuffled":
            tokens = jnp.moveaxis(tokens, 1, 2).reshape(-1, num_thoughts, thought_len)
            tokens = jax.random.permutation(deal, tokens).reshape(rows, count, num_thoughts, thought_len)
            tokens, logprobs = jnp.moveaxis(tokens, 2, 1), None
    return Inner(thinker.lm.embed(tokens), tokens, logprobs)
