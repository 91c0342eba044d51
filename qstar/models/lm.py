"""The language model: a decoder-only transformer of the Llama, Mistral, Qwen and Gemma families.

RMSNorm before each sub-layer, rotary positions, grouped-query attention, a gated feed-forward, tied or untied output
embedding; what a family has besides is an option of `LMConfig`. One block of code serves three kinds of rows, which
differ in what they attend to: text, the columns of thoughts, and one column at a time while a thought is being sampled.
Weights are float32; matrix products run in the compute type.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx, struct

from qstar import settings
from qstar.models.definition import Definition, fan_in, param, stacked
from qstar.models.lora import Adapted
from qstar.ops import attention, rotary, vocabulary
from qstar.ops.attention import KERNELS
from qstar.ops.rotary import Scaling
from qstar.settings import Count, OneOf, Positive, Real
from qstar.sharding import shard
from qstar.structs import Batch, Text
from qstar.typing import Array, Bool, Float, Int, typed

DTYPES = ("float32", "bfloat16", "float64")
REMATS = ("full", "minimal", "none")
SHALLOW = 8
COMPUTED = ("dtype", "remat", "attention")  # fields that say how a model is computed, and not what it is
_REMAT_OF = {True: "full", False: "none", "True": "full", "False": "none"}  # as configurations used to say it
ACTIVATIONS = {"silu": jax.nn.silu, "gelu_tanh": functools.partial(jax.nn.gelu, approximate=True)}


def remat_of(given: str | bool) -> str:
    """The name of what the backward pass computes again, in configurations of every version."""
    return _REMAT_OF.get(given, given)


@dataclass(frozen=True)
class LMConfig:
    """Shape of a language model.

    `dtype` is the type of the matrix products; norms, softmax and losses are float32 or better. `remat` is what the
    backward pass computes again instead of finding it kept: `full`, every layer from its input, the least memory and a
    third more work; `minimal`, all but the products with weights: attention, norms, activations; `none`, nothing.
    `attention` is what computes the text's attention to itself, see `ops.attention.KERNELS`. The options at the end are
    off in Llama; `models/formats/families.py` says which family has which.
    """

    vocab: Count
    width: Count
    layers: Count
    heads: Count
    kv_heads: Count
    head_size: Count
    ff: Count
    max_len: Count = 2048
    rope_theta: Positive = 10000.0
    norm_eps: Positive = 1e-5
    tied: bool = True
    dtype: Annotated[str, OneOf(DTYPES)] = "float32"
    remat: Annotated[str, OneOf(REMATS)] = "full"
    attention: Annotated[str, OneOf(KERNELS)] = "einsum"
    rope_scaling: Scaling | None = None  # slower rotary frequencies, for texts longer than those of the first training
    window: Count | None = None  # a token sees the last `window` positions, its own included; None: all
    global_layers: tuple[int, ...] = ()  # layers that see everything although there is a window
    local_rope_theta: Positive | None = None  # of the layers with a window, unscaled; None: as the others
    qkv_bias: bool = False
    qk_norm: bool = False  # norms over every head of queries and keys, before they are rotated
    post_norms: bool = False  # norms after each sub-layer too, before it is added
    norm_offset: Real = 0.0  # norms multiply by offset + weight
    activation: Annotated[str, OneOf(ACTIVATIONS)] = "silu"  # of the gate: silu or gelu_tanh
    embed_scale: Positive = 1.0  # multiplies embeddings on their way in, not the tied output layer
    query_scalar: Positive | None = None  # scores are divided by its square root; None: head_size

    def __post_init__(self):
        if isinstance(self.rope_scaling, dict):  # as JSON has it
            object.__setattr__(self, "rope_scaling", Scaling(**self.rope_scaling))
        if not isinstance(self.rope_scaling, Scaling | None):
            raise ValueError(f"model.rope_scaling = {self.rope_scaling!r}: expected an object with a factor, or null")
        object.__setattr__(self, "global_layers", tuple(sorted(set(self.global_layers))))
        object.__setattr__(self, "remat", remat_of(self.remat))
        settings.check(self, "model")
        if self.heads % self.kv_heads:
            raise ValueError(f"model.heads = {self.heads} is not a multiple of model.kv_heads = {self.kv_heads}")
        if self.head_size % 2:
            raise ValueError(f"model.head_size = {self.head_size}: rotary embeddings need an even size")
        if self.attention == "cudnn" and self.dtype != "bfloat16":
            raise ValueError(
                f"model.attention = 'cudnn' with model.dtype = {self.dtype!r}: its kernel needs model.dtype=bfloat16"
            )
        self._check_window()

    def _check_window(self) -> None:
        if self.window is None:
            if self.global_layers or self.local_rope_theta is not None:
                raise ValueError(
                    f"model.global_layers = {self.global_layers}, model.local_rope_theta = {self.local_rope_theta}: "
                    "both tell layers with a window from the others; give model.window too"
                )
            return
        if not set(self.global_layers) < set(range(self.layers)):
            raise ValueError(
                f"model.global_layers = {self.global_layers}: expected some, not all, of the layers 0 to "
                f"{self.layers - 1}; leave model.window out where every layer sees everything"
            )

    @property
    def windowed(self) -> tuple[bool, ...]:
        """For every layer: does the window limit what it sees?"""
        return tuple(self.window is not None and layer not in self.global_layers for layer in range(self.layers))

    @property
    def unrolled(self) -> bool:
        """Is every layer written out in the program, instead of one in a loop?

        What a loop keeps for its backward pass is copied into stacks and out of them again: of a model of two layers on
        a CPU a fifth of the step and of its memory. Not where little is kept, and not for many layers, which would take
        long to compile.
        """
        return self.remat == "none" and self.layers <= SHALLOW

    def frequencies(self, windowed: bool, dtype: jnp.dtype) -> np.ndarray:
        """Rotary frequencies of the layers with a window, or of those without."""
        if windowed and self.local_rope_theta is not None:
            return rotary.frequencies(self.head_size, self.local_rope_theta, None, dtype)
        return rotary.frequencies(self.head_size, self.rope_theta, self.rope_scaling, dtype)


@struct.dataclass
class OwnKeys:
    """Keys and values of a thought's own columns, filled from the left."""

    key: Float[Array, "L B R A E G K"]
    value: Float[Array, "L B R A E G K"]


class Norm(nnx.Module):
    """RMSNorm over the last axis: of the model's width, or of the channels of a head."""

    def __init__(self, cfg: LMConfig, rngs: nnx.Rngs, head: bool = False):
        init = nnx.initializers.constant(1 - cfg.norm_offset)
        self.scale = param(rngs, init, (cfg.head_size if head else cfg.width,), (None if head else "embed",))
        self.eps = cfg.norm_eps
        self.offset = cfg.norm_offset

    def __call__(self, x: Array) -> Array:
        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        wide = wide * jax.lax.rsqrt(jnp.mean(wide**2, axis=-1, keepdims=True) + self.eps)
        # Widened first: 1 + w of a weight in bfloat16 would be rounded to it.
        scale = self.scale[...].astype(wide.dtype) + self.offset if self.offset else self.scale[...]
        return (wide * scale.reshape((1,) * (x.ndim - 1) + (-1,))).astype(x.dtype)


class Block(nnx.Module):
    def __init__(self, cfg: LMConfig, rngs: nnx.Rngs):
        d, h, g, k, f = cfg.width, cfg.heads, cfg.kv_heads, cfg.head_size, cfg.ff
        self.attention_norm = Norm(cfg, rngs)
        self.query = param(rngs, fan_in(d), (d, h, k), ("embed", "heads", None))
        self.key = param(rngs, fan_in(d), (d, g, k), ("embed", "kv_heads", None))
        self.value = param(rngs, fan_in(d), (d, g, k), ("embed", "kv_heads", None))
        self.out = param(rngs, fan_in(h * k * 2 * cfg.layers), (h, k, d), ("heads", None, "embed"))
        self.mlp_norm = Norm(cfg, rngs)
        self.gate = param(rngs, fan_in(d), (d, f), ("embed", "ff"))
        self.up = param(rngs, fan_in(d), (d, f), ("embed", "ff"))
        self.down = param(rngs, fan_in(f * 2 * cfg.layers), (f, d), ("ff", "embed"))
        self.activation = cfg.activation
        self._add_options(cfg, rngs)

    def _add_options(self, cfg: LMConfig, rngs: nnx.Rngs) -> None:
        """What some families have; drawn last, so that the other weights of a seed are the same with and without."""
        if cfg.qkv_bias:
            zeros, h, g, k = nnx.initializers.zeros, cfg.heads, cfg.kv_heads, cfg.head_size
            self.query_bias = param(rngs, zeros, (h, k), ("heads", None))
            self.key_bias = param(rngs, zeros, (g, k), ("kv_heads", None))
            self.value_bias = param(rngs, zeros, (g, k), ("kv_heads", None))
        if cfg.qk_norm:
            self.query_norm, self.key_norm = Norm(cfg, rngs, head=True), Norm(cfg, rngs, head=True)
        if cfg.post_norms:
            self.attention_post_norm, self.mlp_post_norm = Norm(cfg, rngs), Norm(cfg, rngs)

    def __call__(
        self, x: Array, position: Array, frequency: Array, attend: Callable
    ) -> tuple[Array, tuple[Array, Array]]:
        """x [*rows D], position [*rows]; `attend(query, key, value)` gives the rows' attention and what to hand on."""
        mixed, keys = attend(*self._heads(self.attention_norm(x), position, frequency))
        x = x + self._normed("attention_post_norm", _project(mixed, self.out, summed=2))
        h = self.mlp_norm(x)
        h = ACTIVATIONS[self.activation](_project(h, self.gate)) * _project(h, self.up)
        return x + self._normed("mlp_post_norm", _project(h, self.down)), keys

    def _heads(self, h: Array, position: Array, frequency: Array) -> tuple[Array, Array, Array]:
        """Rotated queries, rotated keys, and values."""
        query, key, value = _project(h, self.query), _project(h, self.key), _project(h, self.value)
        if hasattr(self, "query_bias"):
            query, key, value = (
                out + bias[...].astype(out.dtype).reshape((1,) * (out.ndim - 2) + bias.shape)
                for out, bias in ((query, self.query_bias), (key, self.key_bias), (value, self.value_bias))
            )
        query, key = self._normed("query_norm", query), self._normed("key_norm", key)
        return rotary.rotate(query, position, frequency), rotary.rotate(key, position, frequency), value

    def _normed(self, name: str, x: Array) -> Array:
        """x through the norm of this name, where the family has it."""
        return getattr(self, name)(x) if hasattr(self, name) else x


def _project(x: Array, weight: nnx.Param, summed: int = 1) -> Array:
    """Contract the last `summed` axes of x with the first of the weight, or of the weight and its adapter."""
    value = weight.get_value()
    if not isinstance(value, Adapted):
        return _product(x, value, summed)
    # W x + (alpha / rank) B (A x): the sum of W and B A, as large as W, is never formed.
    change = _product(_product(x, value.a, summed), value.b, 1)
    return _product(x, value.weight, summed) + value.scale * change


def _product(x: Array, table: Array, summed: int) -> Array:
    """One product of two matrices.

    Left to a contraction over many axes, XLA on CPU takes half as long again for the gradients.
    """
    table = table.astype(x.dtype)
    rows = x.shape[: x.ndim - summed]
    flat = x.reshape(math.prod(rows), -1) @ table.reshape(math.prod(table.shape[:summed]), -1)
    return flat.reshape(*rows, *table.shape[summed:])


class LM(nnx.Module):
    def __init__(self, cfg: LMConfig, rngs: nnx.Rngs):
        self.cfg = cfg
        # Tied tables double as the output layer, so their scale is a fan-in scale as well.
        self.embedding = param(rngs, fan_in(cfg.width), (cfg.vocab, cfg.width), ("vocab", "embed"))
        self.blocks = stacked(lambda r: Block(cfg, r), rngs, cfg.layers)
        self.apart = nnx.data(())
        self.norm = Norm(cfg, rngs)
        if not cfg.tied:
            self.head = param(rngs, fan_in(cfg.width), (cfg.vocab, cfg.width), ("vocab", "embed"))

    @property
    def lm(self) -> "LM":
        """Itself: any model's language model is its `lm`."""
        return self

    @property
    def forbidden(self) -> tuple[int, ...]:
        """Ids that the model does not generate."""
        return ()

    @property
    def dtype(self) -> jnp.dtype:
        return jnp.dtype(self.cfg.dtype)

    def embed(self, tokens: Array) -> Array:
        # Looked up from a table replicated along the width: otherwise the partitioner rematerialises it.
        return self.scaled(shard(self.embedding[...], "vocab", None).astype(self.dtype)[tokens])

    def scaled(self, rows: Array) -> Array:
        """Rows of the embedding table, or learned vectors beside it, as the first layer takes them."""
        scale = self.cfg.embed_scale
        return rows if scale == 1 else rows * jnp.asarray(scale, rows.dtype)

    def logits(self, hidden: Array) -> Array:
        """[*rows D] -> [*rows V], float32 or better."""
        table = self.embedding if self.cfg.tied else self.head
        wide = jnp.promote_types(hidden.dtype, jnp.float32)
        return jnp.einsum("...d,vd->...v", hidden, table[...].astype(hidden.dtype), preferred_element_type=wide)

    @typed
    def next_logprobs(self, text: Text, tokens: Int[Array, "B S"]) -> Float[Array, "B J"]:
        """Log-prob of every token but the first, given the tokens before it: what training and scoring both read."""
        return vocabulary.logprobs(self.logits, text.hidden[:, :-1], tokens[:, 1:], 1, self.cfg.vocab)

    @typed
    def logprobs_after(self, before: Float[Array, "B R T D"], tokens: Int[Array, "B R T"]) -> Float[Array, "B R T"]:
        """Log-prob of every token of texts after prompts, from the hidden states that `before` gives."""
        return vocabulary.logprobs(self.logits, before, tokens, 2, self.cfg.vocab)

    def take_apart(self, layers: tuple[Block, ...]) -> None:
        """Run layer by layer from now on, on these (`decoding.write.unrolled`), each with weights of its own.

        For one new token at a time, where reading the weights is the work: a scan over stacked ones copies them first.
        """
        self.apart = nnx.data(layers)

    def _run(
        self, x: Array, position: Array, masks: Callable, attend: Callable, extra=None
    ) -> tuple[Array, tuple[Array, Array]]:
        """All layers over rows x [*rows D]; those in `apart` where they were put there.

        `masks(windowed)` makes what layers with or without a window see; `attend(mask, extra_of_layer)` makes a
        layer's attention function.
        """
        if self.apart:
            return self._run_apart(x, position, masks, attend, extra)
        wide = jnp.promote_types(self.dtype, jnp.float32)
        windowed = self.cfg.windowed
        kinds = [(self.cfg.frequencies(kind, wide), masks(kind)) for kind in sorted(set(windowed))]
        both = len(kinds) > 1

        def body(x, layer):
            block, near, of_layer = layer
            choose = lambda wide, narrow: jnp.where(near, narrow, wide)  # noqa: E731
            frequency, mask = jax.tree.map(choose, *kinds) if both else kinds[0]
            return block(x, position, frequency, attend(mask, of_layer))

        if self.cfg.remat != "none":
            # Products with weights have no batch axes (`_product`), those of attention have.
            kept = jax.checkpoint_policies.dots_with_no_batch_dims_saveable
            body = jax.checkpoint(body, policy=kept if self.cfg.remat == "minimal" else None)
        layers = (self.blocks, jnp.array(windowed) if both else None, extra)
        x, keys = jax.lax.scan(body, x, layers, unroll=self.cfg.layers if self.cfg.unrolled else 1)
        return self.norm(x), keys

    def _run_apart(
        self, x: Array, position: Array, masks: Callable, attend: Callable, extra=None
    ) -> tuple[Array, tuple[Array, Array]]:
        """`_run` over layers that were taken apart; nothing is recomputed in a backward pass."""
        wide = jnp.promote_types(self.dtype, jnp.float32)
        kinds = {kind: (self.cfg.frequencies(kind, wide), masks(kind)) for kind in set(self.cfg.windowed)}
        keys = []
        for number, (block, kind) in enumerate(zip(self.apart, self.cfg.windowed, strict=True)):
            frequency, mask = kinds[kind]
            of_layer = jax.tree.map(lambda leaf, i=number: leaf[i], extra)
            x, layer_keys = block(x, position, frequency, attend(mask, of_layer))
            keys.append(layer_keys)
        return self.norm(x), jax.tree.map(lambda *layers: jnp.stack(layers), *keys)

    @typed
    def text(self, batch: Batch) -> Text:
        """One ordinary pass over the text."""
        mask = attention.text_mask(batch.segment)
        x = shard(self.embed(batch.tokens), "batch", None, None)

        def masks(windowed):
            # A window as long as the row hides nothing and costs nothing.
            if not windowed or self.cfg.window >= mask.shape[-1]:
                return mask
            return mask & attention.within(batch.position, batch.position, self.cfg.window)

        def attend(mask, _):
            scalar, kernel = self.cfg.query_scalar, self.cfg.attention
            return lambda q, k, v: (attention.causal(q, k, v, mask, scalar, kernel), (k, v))

        hidden, (key, value) = self._run(x, batch.position, masks, attend)
        return Text(hidden, key, value, batch.position)

    @typed
    def before(self, prompt: Batch, tokens: Int[Array, "B R T"]) -> Float[Array, "B R T D"]:
        """Where each token of R texts after every prompt is predicted from: the hidden state of the token before it.

        What `text` gives for prompt and text in a row of their own, but a prompt is read once for all of its texts, in
        the same pass. Prompts [B P] are one document each, padded at the right.
        """
        read = tokens[:, :, :-1]  # nothing is predicted from the last one
        (rows, samples, size), width = read.shape, prompt.tokens.shape[1]
        length = (prompt.segment > 0).sum(1)
        own = length[:, None] + jnp.arange(size)[None]
        keys = jnp.concatenate([prompt.position, own], 1)
        position = jnp.concatenate([prompt.position, jnp.tile(own, (1, samples))], 1)
        of_prompt = attention.text_mask(prompt.segment)
        of_text = attention.continued_mask(prompt.segment, size)

        def masks(windowed):
            if not windowed or self.cfg.window >= width + size:
                return of_prompt, of_text
            near = functools.partial(attention.within, window=self.cfg.window)
            return of_prompt & near(prompt.position, prompt.position), of_text & near(own, keys)

        def attend(mask, _):
            scalar, kernel = self.cfg.query_scalar, self.cfg.attention
            return lambda q, k, v: (attention.continued(q, k, v, *mask, scalar, kernel), None)

        x = self.embed(jnp.concatenate([prompt.tokens, read.reshape(rows, samples * size)], 1))
        hidden, _ = self._run(shard(x, "batch", None, None), position, masks, attend)
        last = jnp.take_along_axis(hidden, length[:, None, None] - 1, 1)[:, None]
        later = hidden[:, width:].reshape(rows, samples, size, hidden.shape[-1])
        return jnp.concatenate([jnp.broadcast_to(last, (rows, samples, *last.shape[2:])), later], 2)

    @typed
    def columns(
        self,
        x: Float[Array, "B R A C D"],
        position: Int[Array, "B A"],
        text: Text,
        text_mask: Bool[Array, "B A S"],
    ) -> Float[Array, "B R A C D"]:
        """All columns of all thoughts at once; column c sits at position `position + 1 + c`."""
        number = jnp.arange(x.shape[3])
        masks = self._column_masks(number, x.shape[3], position, text, text_mask)

        def attend(mask, layer):
            text_mask, own_mask = mask
            key, value = layer

            def run(q, k, v):
                return attention.columns(q, key, value, text_mask, k, v, own_mask, self.cfg.query_scalar), None

            return run

        return self._run(x, _column_positions(position, x, number), masks, attend, (text.key, text.value))[0]

    @typed
    def column(
        self,
        x: Float[Array, "B R A 1 D"],
        index: Int[Array, ""],
        position: Int[Array, "B A"],
        text: Text,
        text_mask: Bool[Array, "B A S"],
        own: OwnKeys,
    ) -> tuple[Float[Array, "B R A 1 D"], OwnKeys]:
        """Column number `index` alone, reading and extending the thoughts' own keys."""
        number = index[None]
        masks = self._column_masks(number, own.key.shape[4], position, text, text_mask)

        def attend(mask, layer):
            text_mask, own_mask = mask
            key, value, own_key, own_value = layer

            def run(q, k, v):
                ks = jax.lax.dynamic_update_slice_in_dim(own_key, k, index, 3)
                vs = jax.lax.dynamic_update_slice_in_dim(own_value, v, index, 3)
                mixed = attention.columns(q, key, value, text_mask, ks, vs, own_mask, self.cfg.query_scalar)
                return mixed, (ks, vs)

            return run

        layers = (text.key, text.value, own.key, own.value)
        hidden, keys = self._run(x, _column_positions(position, x, number), masks, attend, layers)
        return hidden, OwnKeys(*keys)

    def _column_masks(self, number: Array, own: int, position: Array, text: Text, text_mask: Array) -> Callable:
        """What the columns of these numbers [C] see of the text, and of the `own` columns of their thought."""
        keys = jnp.arange(own)
        own_mask = keys[None, :] <= number[:, None]
        window = self.cfg.window

        def masks(windowed):
            if not windowed or window >= text_mask.shape[-1] + own:
                return text_mask[:, :, None], own_mask
            at = position[:, :, None] + 1 + number[None, None, :]
            near = attention.within(at.reshape(at.shape[0], -1), text.position, window).reshape(*at.shape, -1)
            return text_mask[:, :, None] & near, own_mask & attention.within(number, keys, window)

        return masks

    def own_keys(self, batch: int, samples: int, anchors: int, columns: int) -> OwnKeys:
        """Room for the keys of `columns` columns."""
        shape = (self.cfg.layers, batch, samples, anchors, columns, self.cfg.kv_heads, self.cfg.head_size)
        return OwnKeys(jnp.zeros(shape, self.dtype), jnp.zeros(shape, self.dtype))


def _column_positions(position: Array, x: Array, number: Array) -> Array:
    return jnp.broadcast_to(position[:, None, :, None] + (1 + number)[None, None, None, :], x.shape[:4])


@functools.cache  # one per config, so that compiled functions are reused
def definition(cfg: LMConfig) -> Definition:
    return Definition(lambda rngs: LM(cfg, rngs))
