"""Attention of text and of thoughts.

Text attends causally within its document, and texts that continue one prompt to it and to themselves. A column of a
thought attends to two sets of keys under one softmax: the text up to and including its anchor, and the earlier columns
of its own thought. The first is an A x S problem shared by all samples and columns (they are folded into the query
axes, so the text's keys are read once); the second is C x E, tiny. Large scores are made for a slice of the anchors at
a time, and again in the backward pass.
"""

import jax
import jax.numpy as jnp

from qstar.ops.chunk import chunked, slice_size
from qstar.typing import Array, Bool, Float, Int, typed

KERNELS = ("einsum", "xla", "cudnn")
"""What computes `causal`: products of our own, or `jax.nn.dot_product_attention` by XLA, or by cuDNN's fused kernel."""
MASKED = -1e30  # finite: a fully masked row gives a uniform softmax instead of NaN


@typed
def text_mask(segment: Int[Array, "B S"]) -> Bool[Array, "B S S"]:
    """True where query s may see key u: u <= s and both in the same document."""
    size = segment.shape[1]
    causal = jnp.tril(jnp.ones((1, size, size), bool))
    return causal & (segment[:, :, None] == segment[:, None, :])


@typed
def anchor_mask(segment: Int[Array, "B S"], anchors: Int[Array, "B A"]) -> Bool[Array, "B A S"]:
    """True where the thought at anchor a may see text key u: the rows of `text_mask` at the anchors."""
    upto = jnp.arange(segment.shape[1])[None, None, :] <= anchors[:, :, None]
    return upto & (jnp.take_along_axis(segment, anchors, 1)[:, :, None] == segment[:, None, :])


@typed
def continued_mask(segment: Int[Array, "B P"], size: int) -> Bool[Array, "B T U"]:
    """True where token t of a text of `size` tokens may see key u of its prompt, which is padded, and of itself."""
    own = jnp.tril(jnp.ones((size, size), bool))
    prompt = jnp.broadcast_to((segment > 0)[:, None], (len(segment), size, segment.shape[1]))
    return jnp.concatenate([prompt, jnp.broadcast_to(own, (len(segment), size, size))], -1)


@typed
def within(query: Int[Array, "*rows Q"], key: Int[Array, "*rows U"], window: int) -> Bool[Array, "*rows Q U"]:
    """True where a key is fewer than `window` positions before the query: a sliding window, but for causality."""
    return query[..., :, None] - key[..., None, :] < window


def _scores(equation: str, query: Array, key: Array, mask: Array, scalar: float | None) -> Array:
    """Dot products / sqrt(scalar) in float32 (or better), masked. `mask` has the scores' rank, with axes of size 1."""
    dtype = jnp.promote_types(query.dtype, jnp.float32)
    scores = jnp.einsum(equation, query, key, preferred_element_type=dtype) * (scalar or query.shape[-1]) ** -0.5
    return jnp.where(mask, scores, MASKED)


@typed
def causal(
    query: Float[Array, "B S H K"],
    key: Float[Array, "B U G K"],
    value: Float[Array, "B U G K"],
    mask: Bool[Array, "B S U"],
    scalar: float | None = None,
    kernel: str = "einsum",
) -> Float[Array, "B S H K"]:
    """Grouped-query attention of a text to itself, or to what comes before it as well.

    Scores are divided by sqrt(`scalar`), None: by sqrt(K).

    Raises ValueError for the kernel `cudnn` where there is no NVIDIA GPU.
    """
    batch, size, heads, width = query.shape
    if kernel != "einsum":
        if kernel == "cudnn" and jax.default_backend() != "gpu":
            raise ValueError(
                f"model.attention = 'cudnn' on {jax.default_backend()}: it needs an NVIDIA GPU; leave it out here"
            )
        scale = (scalar or width) ** -0.5
        return jax.nn.dot_product_attention(query, key, value, mask=mask[:, None], scale=scale, implementation=kernel)
    groups = key.shape[2]
    query_BSGJK = query.reshape(batch, size, groups, heads // groups, width)
    scores_BGJSU = _scores("bsgjk,bugk->bgjsu", query_BSGJK, key, mask[:, None, None], scalar)
    weights = jax.nn.softmax(scores_BGJSU, axis=-1).astype(value.dtype)
    return jnp.einsum("bgjsu,bugk->bsgjk", weights, value).reshape(query.shape)


@typed
def continued(
    query: Float[Array, "B W H K"],
    key: Float[Array, "B W G K"],
    value: Float[Array, "B W G K"],
    prompt_mask: Bool[Array, "B P P"],
    mask: Bool[Array, "B T U"],
    scalar: float | None = None,
    kernel: str = "einsum",
) -> Float[Array, "B W H K"]:
    """Attention in rows of a prompt and R texts after it, side by side (W = P + R T): of the prompt to itself, and of
    each text to the prompt and itself (U = P + T). `scalar` and `kernel`: as in `causal`.

    The prompt's keys are laid beside those of every text, which takes less than a text's scores.
    """
    rows, width = query.shape[0], prompt_mask.shape[1]
    size = mask.shape[1]
    samples = (query.shape[1] - width) // size if size else 0
    prompt = causal(query[:, :width], key[:, :width], value[:, :width], prompt_mask, scalar, kernel)
    if not samples:
        return prompt

    def apart(x: Array) -> Array:
        return x[:, width:].reshape(rows * samples, size, *x.shape[2:])

    def beside(x: Array) -> Array:
        return jnp.concatenate([jnp.repeat(x[:, :width], samples, 0), apart(x)], 1)

    texts = causal(apart(query), beside(key), beside(value), jnp.repeat(mask, samples, 0), scalar, kernel)
    return jnp.concatenate([prompt, texts.reshape(rows, samples * size, *query.shape[2:])], 1)


@typed
def columns(
    query: Float[Array, "B R A C H K"],
    text_key: Float[Array, "B U G K"],
    text_value: Float[Array, "B U G K"],
    text_mask: Bool[Array, "B A #C U"],
    own_key: Float[Array, "B R A E G K"],
    own_value: Float[Array, "B R A E G K"],
    own_mask: Bool[Array, "C E"],
    scalar: float | None = None,
) -> Float[Array, "B R A C H K"]:
    """Attention of thought columns to the text before their anchor and to their own thought, in one softmax.

    Columns of a thought see the same text, unless a window moves with them. `scalar`: as in `causal`.
    """
    rows, samples, anchors, cols, heads, _ = query.shape

    def some(of_anchors):
        query, mask, *own = of_anchors
        return _columns(query, text_key, text_value, mask[:, 0], *own, own_mask, scalar)

    arrays = (query, text_mask[:, None], own_key, own_value)
    size = slice_size(anchors, rows * samples * cols * heads * text_key.shape[1])
    return some(arrays) if size >= anchors else chunked(some, arrays, 2, size)


def _columns(
    query: Array,
    text_key: Array,
    text_value: Array,
    text_mask: Array,
    own_key: Array,
    own_value: Array,
    own_mask: Array,
    scalar: float | None,
) -> Array:
    batch, samples, anchors, cols, heads, width = query.shape
    groups = own_key.shape[4]
    query = query.reshape(batch, samples, anchors, cols, groups, heads // groups, width)
    text = _scores("bracgjk,bugk->bgracju", query, text_key, text_mask[:, None, None, :, :, None, :], scalar)
    own = _scores("bracgjk,braegk->bgracje", query, own_key, own_mask[None, None, None, None, :, None, :], scalar)
    top = jax.lax.stop_gradient(jnp.maximum(text.max(-1, keepdims=True), own.max(-1, keepdims=True)))
    text, own = jnp.exp(text - top), jnp.exp(own - top)
    total = text.sum(-1, keepdims=True) + own.sum(-1, keepdims=True)
    mixed = jnp.einsum("bgracju,bugk->bracgjk", (text / total).astype(text_value.dtype), text_value)
    mixed += jnp.einsum("bgracje,braegk->bracgjk", (own / total).astype(own_value.dtype), own_value)
    return mixed.reshape(batch, samples, anchors, cols, heads, width)


@typed
def cached(
    query: Float[Array, "B R H K"],
    text_key: Float[Array, "B G K U"],
    text_value: Float[Array, "B G U K"],
    text_mask: Bool[Array, "B #R U"],
    own_key: Float[Array, "B R G K E"],
    own_value: Float[Array, "B R G E K"],
    own_mask: Bool[Array, "#B #R E"],
    scalar: float | None = None,
) -> Float[Array, "B R H K"]:
    """Attention of one new token a row to its prompt, which R rows share, and to what the row wrote, in one softmax.

    The arithmetic is that of `columns`. The layouts are those that a batched matrix product takes as they are: with any
    other, XLA on CPU copies all keys for every new token. `scalar`: as in `causal`.
    """
    batch, samples, heads, width = query.shape
    groups = own_key.shape[2]
    dtype = jnp.promote_types(query.dtype, jnp.float32)
    query_BRGJK = query.reshape(batch, samples, groups, heads // groups, width)
    query_BGRK = jnp.einsum("brgjk->bgrjk", query_BRGJK).reshape(batch, groups, -1, width)
    scale = (scalar or width) ** -0.5
    text = jnp.matmul(query_BGRK, text_key, preferred_element_type=dtype) * scale
    text = text.reshape(batch, groups, samples, heads // groups, -1)
    text = jnp.where(text_mask[:, None, :, None], text, MASKED)
    own = jnp.matmul(query_BRGJK, own_key, preferred_element_type=dtype) * scale
    own = jnp.where(own_mask[:, :, None, None], own, MASKED)
    text_top = jnp.einsum("bgrj->brgj", text.max(-1))
    top = jnp.maximum(text_top, own.max(-1))
    text = jnp.exp(text - jnp.einsum("brgj->bgrj", top)[..., None])
    own = jnp.exp(own - top[..., None])
    total = jnp.einsum("bgrj->brgj", text.sum(-1)) + own.sum(-1)
    text = (text / jnp.einsum("brgj->bgrj", total)[..., None]).astype(text_value.dtype)
    mixed = jnp.matmul(text.reshape(batch, groups, -1, text.shape[-1]), text_value)
    mixed = jnp.einsum("bgrjk->brgjk", mixed.reshape(batch, groups, samples, -1, width))
    mixed += jnp.matmul((own / total[..., None]).astype(own_value.dtype), own_value)
    return mixed.reshape(batch, samples, heads, width)
