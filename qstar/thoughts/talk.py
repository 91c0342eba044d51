"""Phase 2 of Quiet-STaR: what the thoughts did, in one differentiable pass.

All columns of all thoughts (start, T tokens, end, N - 1 true tokens) go through the model at once, teacher-forced.
The thought's own columns give the log-prob of its tokens (for REINFORCE); the last N give the prediction of the N true
tokens after the thought, which the mixing head blends with the base prediction of the same tokens. Because sampling is
detached, phase 1 + phase 2 has exactly the gradient of the official code's pass per token. Vocabulary work runs in
slices that are recomputed in the backward pass. Quiet-STaR, Algorithm 1; mixing: section 4.3.
"""

import jax.numpy as jnp

from qstar.models.thinker import Thinker
from qstar.ops import attention, vocabulary
from qstar.structs import Context, Talk, Text
from qstar.thoughts import anchors as where
from qstar.typing import Array, Float, Int, typed

MIXES = ("hidden", "logprobs")


@typed
def thought_columns(
    thinker: Thinker, context: Context, inner: Float[Array, "B R A T D"], lookahead: int
) -> Float[Array, "B R A C D"]:
    """Hidden states of all columns, C = T + 1 + N, for any inner tokens (given as embeddings)."""
    batch, anchors = context.batch, context.anchors
    position = jnp.take_along_axis(batch.position, anchors, 1)
    mask = attention.anchor_mask(batch.segment, anchors)
    index = where.target_index(batch, anchors, lookahead)[:, :, : lookahead - 1]
    true = thinker.lm.embed(where.gather(batch.tokens, index))[:, None]
    true = jnp.broadcast_to(true, (*inner.shape[:3], *true.shape[3:]))
    return thinker.lm.columns(thinker.columns_input(inner, true), position, context.text, mask)


@typed
def base_hidden(text: Text, anchors: Int[Array, "B A"], lookahead: int) -> Float[Array, "B A N D"]:
    """Base hidden states that predict the N tokens after each anchor."""
    index = jnp.minimum(anchors[:, :, None] + jnp.arange(lookahead)[None, None], text.hidden.shape[1] - 1)
    return where.gather(text.hidden, index)


@typed
def mix_hidden(
    base: Float[Array, "*rows D"], thought: Float[Array, "*rows D"], weight: Float[Array, "*rows"]
) -> Float[Array, "*rows D"]:
    """(1 - w) base + w thought. The output layer is linear, so this mixes logits: a normalised geometric mean."""
    weight = weight[..., None].astype(base.dtype)
    return (1 - weight) * base + weight * thought


@typed
def talk(
    thinker: Thinker,
    context: Context,
    inner: Float[Array, "B R A T D"],
    tokens: Int[Array, "B R A T"] | None,
    *,
    lookahead: int,
    mix: str = "logprobs",
    temperature: float = 1.0,
) -> Talk:
    """Score thoughts given as embeddings `inner`.

    `tokens` are their ids, or None for pauses and other fillers, whose `Talk.thought` is zero. `temperature` divides
    the logits of the thought's log-probs only (the REINFORCE temperature).
    """
    lm, vocab = thinker.lm, thinker.lm.cfg.vocab
    text, batch, anchors = context.text, context.batch, context.anchors
    length = inner.shape[3]
    hidden = thought_columns(thinker, context, inner, lookahead)
    after = hidden[:, :, :, length + 1 :]
    base = jnp.broadcast_to(base_hidden(text, anchors, lookahead)[:, None], after.shape)
    weight = thinker.share(base, after)

    text_logprobs = lm.next_logprobs(text, batch.tokens)
    index = where.target_index(batch, anchors, lookahead)
    targets = jnp.broadcast_to(where.gather(batch.tokens, index)[:, None], weight.shape)
    base_logprobs = where.gather(text_logprobs, jnp.maximum(index - 1, 0))
    unchanged = None
    if mix == "hidden":
        blend = mix_hidden(base, after, weight)
        mixed, unchanged = vocabulary.logprobs(lm.logits, blend, targets, 2, vocab), (blend == base).all(-1)
    else:
        thinking = vocabulary.logprobs(lm.logits, after, targets, 2, vocab)
        mixed = (1 - weight) * base_logprobs[:, None] + weight * thinking
    if tokens is None:
        thought = jnp.zeros(inner.shape[:4], mixed.dtype)
    else:
        inside = hidden[:, :, :, :length]
        thought = vocabulary.logprobs(lm.logits, inside, tokens, 2, vocab, temperature, thinker.forbidden)
    counts = where.target_counts(batch, anchors, lookahead)
    helpful = thinker.helpful(base[:, :, :, 0], after[:, :, :, 0])
    return Talk(text_logprobs, base_logprobs, mixed, thought, weight, counts, unchanged=unchanged, helpful=helpful)
