"""The language model: a decoder-only transformer of the Llama family.

RMSNorm before each sub-layer, rotary positions, grouped-query attention, SwiGLU, tied or untied output embedding. One
block of code serves three kinds of rows, which differ in what they attend to: text, the columns of thoughts, and one
column at a time while a thought is being sampled. Weights are float32; matrix products run in the compute type.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx, struct

from qstar.models.definition import Definition, fan_in, param, stacked
from qstar.models.lora import Adapted
from qstar.ops import attention
from qstar.sharding import shard
from qstar.structs import Batch, Text
from qstar.typing import Array, Bool, Float, Int, typed

DTYPES = ("float32", "bfloat16", "float64")


@dataclass(frozen=True)
class LMConfig:
    """Shape of a language model.

    `dtype` is the type of the matrix products; norms, softmax and losses are float32 or better. `remat` recomputes
    every layer in the backward pass instead of keeping its activations.
    """

    vocab: int
    width: int
    layers: int
    heads: int
    kv_heads: int
    head_size: int
    ff: int
    max_len: int = 2048
    rope_theta: float = 10000.0
    norm_eps: float = 1e-5
    tied: bool = True
    dtype: str = "float32"
    remat: bool = True

    def __post_init__(self):
        sizes = ("vocab", "width", "layers", "heads", "kv_heads", "head_size", "ff", "max_len")
        for name in sizes:
            if getattr(self, name) < 1:
                raise ValueError(f"model.{name} = {getattr(self, name)}: a positive integer is wanted")
        if self.heads % self.kv_heads:
            raise ValueError(f"model.heads = {self.heads} is not a multiple of model.kv_heads = {self.kv_heads}")
        if self.head_size % 2:
            raise ValueError(f"model.head_size = {self.head_size}: rotary embeddings want an even size")
        if self.dtype not in DTYPES:
            raise ValueError(f"model.dtype = {self.dtype!r}: choose one of {', '.join(DTYPES)}")


@struct.dataclass
class OwnKeys:
    """Keys and values of a thought's own columns, filled from the left."""

    key: Float[Array, "L B R A E G K"]
    value: Float[Array, "L B R A E G K"]


class Norm(nnx.Module):
    def __init__(self, cfg: LMConfig, rngs: nnx.Rngs):
        self.scale = param(rngs, nnx.initializers.ones, (cfg.width,), ("embed",))
        self.eps = cfg.norm_eps

    def __call__(self, x: Array) -> Array:
        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        wide = wide * jax.lax.rsqrt(jnp.mean(wide**2, axis=-1, keepdims=True) + self.eps)
        return (wide * self.scale[...].reshape((1,) * (x.ndim - 1) + (-1,))).astype(x.dtype)


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
        self.theta = cfg.rope_theta

    def __call__(self, x: Array, position: Array, attend: Callable) -> tuple[Array, tuple[Array, Array]]:
        """x [*rows D], position [*rows]; `attend(query, key, value)` gives the rows' attention and what to hand on."""
        h = self.attention_norm(x)
        query = attention.rope(_project(h, self.query), position, self.theta)
        key = attention.rope(_project(h, self.key), position, self.theta)
        value = _project(h, self.value)
        mixed, keys = attend(query, key, value)
        x = x + _project(mixed, self.out, summed=2)
        h = self.mlp_norm(x)
        h = jax.nn.silu(_project(h, self.gate)) * _project(h, self.up)
        return x + _project(h, self.down), keys


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
        self.norm = Norm(cfg, rngs)
        if not cfg.tied:
            self.head = param(rngs, fan_in(cfg.width), (cfg.vocab, cfg.width), ("vocab", "embed"))

    @property
    def dtype(self) -> jnp.dtype:
        return jnp.dtype(self.cfg.dtype)

    def embed(self, tokens: Array) -> Array:
        # Looked up from a table replicated along the width: otherwise the partitioner rematerialises it.
        return shard(self.embedding[...], "vocab", None).astype(self.dtype)[tokens]

    def logits(self, hidden: Array) -> Array:
        """[*rows D] -> [*rows V], float32 or better."""
        table = self.embedding if self.cfg.tied else self.head
        wide = jnp.promote_types(hidden.dtype, jnp.float32)
        return jnp.einsum("...d,vd->...v", hidden, table[...].astype(hidden.dtype), preferred_element_type=wide)

    def _run(self, x: Array, position: Array, attend: Callable, extra) -> tuple[Array, tuple[Array, Array]]:
        """All layers over rows x [*rows D]. `attend(extra_of_layer)` makes a layer's attention function."""

        def body(x, layer):
            block, per_layer = layer
            return block(x, position, attend(per_layer))

        body = jax.checkpoint(body) if self.cfg.remat else body
        x, keys = jax.lax.scan(body, x, (self.blocks, extra))
        return self.norm(x), keys

    @typed
    def text(self, batch: Batch) -> Text:
        """One ordinary pass over the text."""
        mask = attention.text_mask(batch.segment)
        x = shard(self.embed(batch.tokens), "batch", None, None)

        def attend(_):
            return lambda q, k, v: (attention.causal(q, k, v, mask), (k, v))

        hidden, (key, value) = self._run(x, batch.position, attend, None)
        return Text(hidden, key, value)

    @typed
    def columns(
        self,
        x: Float[Array, "B R A C D"],
        position: Int[Array, "B A"],
        text: Text,
        text_mask: Bool[Array, "B A S"],
    ) -> Float[Array, "B R A C D"]:
        """All columns of all thoughts at once; column c sits at rotary position `position + 1 + c`."""
        cols = x.shape[3]
        own_mask = jnp.tril(jnp.ones((cols, cols), bool))

        def attend(layer):
            key, value = layer
            return lambda q, k, v: (attention.columns(q, key, value, text_mask, k, v, own_mask), None)

        return self._run(x, _column_positions(position, x, 0), attend, (text.key, text.value))[0]

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
        own_mask = jnp.arange(own.key.shape[4])[None, :] <= index

        def attend(layer):
            key, value, own_key, own_value = layer

            def run(q, k, v):
                ks = jax.lax.dynamic_update_slice_in_dim(own_key, k, index, 3)
                vs = jax.lax.dynamic_update_slice_in_dim(own_value, v, index, 3)
                return attention.columns(q, key, value, text_mask, ks, vs, own_mask), (ks, vs)

            return run

        layers = (text.key, text.value, own.key, own.value)
        hidden, keys = self._run(x, _column_positions(position, x, index), attend, layers)
        return hidden, OwnKeys(*keys)

    def own_keys(self, batch: int, samples: int, anchors: int, columns: int) -> OwnKeys:
        """Room for the keys of `columns` columns."""
        shape = (self.cfg.layers, batch, samples, anchors, columns, self.cfg.kv_heads, self.cfg.head_size)
        return OwnKeys(jnp.zeros(shape, self.dtype), jnp.zeros(shape, self.dtype))


def _column_positions(position: Array, x: Array, first: Array | int) -> Array:
    columns = 1 + first + jnp.arange(x.shape[3])
    return jnp.broadcast_to(position[:, None, :, None] + columns[None, None, None, :], x.shape[:4])


def definition(cfg: LMConfig) -> Definition:
    return Definition(lambda rngs: LM(cfg, rngs))
