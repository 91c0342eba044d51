"""Phase 1 of Quiet-STaR: all thoughts at once, one token a pass.

The text is read once. Then every anchor of every row grows R thoughts in parallel: pass t feeds the t-th column of all
of them, which sees the text up to its anchor and the earlier columns of its own thought (a cache of fixed size), never
another thought. No gradient flows here: the model learns through phase 2 (`talk`), which scores these tokens again.
Quiet-STaR, Algorithm 1 and section 4.2.
"""

import jax
import jax.numpy as jnp

from qstar.models.thinker import Thinker
from qstar.ops import attention, vocabulary
from qstar.structs import Context, Thoughts
from qstar.typing import Key, typed


@typed
def sample(
    thinker: Thinker, context: Context, key: Key, *, thought_len: int, num_thoughts: int, temperature: float = 1.0
) -> Thoughts:
    """R = num_thoughts thoughts of T = thought_len tokens per anchor; temperature 0 takes the likeliest token.

    The model's forbidden ids (the delimiters, where they have ids) are never sampled.
    """
    lm, anchors = thinker.lm, context.anchors
    text = jax.lax.stop_gradient(context.text)
    rows, count = anchors.shape
    if thought_len == 0:
        empty = (rows, num_thoughts, count, 0)
        return Thoughts(jnp.zeros(empty, int), jnp.zeros(empty, jnp.promote_types(lm.dtype, jnp.float32)))
    position = jnp.take_along_axis(context.batch.position, anchors, 1)
    mask = attention.anchor_mask(context.batch.segment, anchors)
    shape = (rows, num_thoughts, count, 1, lm.cfg.width)
    start = jnp.broadcast_to(thinker.start_embedding[None, None, None, None], shape)

    def one_token(carry, step):
        x, own = carry
        index, key = step
        hidden, own = lm.column(x, index, position, text, mask, own)
        settings = (lm.cfg.vocab, temperature, thinker.forbidden)
        tokens, logprobs = vocabulary.sample(lm.logits, hidden[:, :, :, 0], key, *settings)
        return (lm.embed(tokens)[:, :, :, None], own), (tokens, logprobs)

    first = (start, lm.own_keys(rows, num_thoughts, count, thought_len))
    steps = (jnp.arange(thought_len), jax.random.split(key, thought_len))
    _, (tokens, logprobs) = jax.lax.scan(one_token, first, steps)
    return jax.lax.stop_gradient(Thoughts(jnp.moveaxis(tokens, 0, 3), jnp.moveaxis(logprobs, 0, 3)))
