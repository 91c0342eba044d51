"""Keys and values of a text that grows, extended in place, and the model's pass over one new token a row.

Every layer has arrays of its own, and the layers are unrolled: under a scan over layers XLA writes the whole cache (and
a copy of every weight) again for every token. The keys of a prompt are read by all rows that continue it, stored once.
"""

import jax
import jax.numpy as jnp
from flax import struct

from qstar.models.lm import LM
from qstar.ops import attention
from qstar.sharding import shard
from qstar.structs import Batch
from qstar.typing import Array, Bool, Float, Int, typed


@struct.dataclass
class Keys:
    """Keys and values of one layer, in the layout of `attention.cached`."""

    key: Float[Array, "*rows G K U"]
    value: Float[Array, "*rows G U K"]


@struct.dataclass
class Prompts:
    """What was read before the first new token."""

    layers: tuple[Keys, ...]  # rows are [B]
    mask: Bool[Array, "B U"]  # False: padding
    position: Int[Array, "B U"]
    length: Int[Array, "B"]


def layers(lm: LM) -> tuple:
    """The model's blocks one by one, each with weights of its own."""
    return tuple(jax.tree.map(lambda leaf, i=i: leaf[i], lm.blocks) for i in range(lm.cfg.layers))


@typed
def read(lm: LM, batch: Batch, length: Int[Array, "B"]) -> tuple[Prompts, Float[Array, "B D"]]:
    """Prompts, and the hidden state of the last token of each: the trainer's pass over rows that start at slot 0."""
    text = lm.text(batch)
    keys = tuple(
        Keys(jnp.einsum("bugk->bgku", text.key[i]), jnp.einsum("bugk->bguk", text.value[i]))
        for i in range(lm.cfg.layers)
    )
    hidden = jnp.take_along_axis(text.hidden, length[:, None, None] - 1, 1)[:, 0]
    return Prompts(keys, batch.segment > 0, batch.position, length), hidden


def room(lm: LM, batch: int, samples: int, size: int) -> tuple[Keys, ...]:
    """Empty places for `size` new tokens of every row."""
    shape = (batch, samples, lm.cfg.kv_heads)
    key = jnp.zeros((*shape, lm.cfg.head_size, size), lm.dtype)
    value = jnp.zeros((*shape, size, lm.cfg.head_size), lm.dtype)
    return tuple(placed(Keys(key, value)) for _ in range(lm.cfg.layers))


def placed(keys: Keys) -> Keys:
    """Rows over the data axes, heads over the tensor axis."""
    return jax.tree.map(lambda leaf: shard(leaf, "batch", None, "kv_heads", None, None), keys)


@typed
def column(
    lm: LM, blocks: tuple, token: Int[Array, "B R"], index: Int[Array, "#B #R"], prompts: Prompts, own: tuple
) -> tuple[Float[Array, "B R D"], tuple]:
    """Hidden state of a new token of every row, and the rows' own keys with its own among them.

    Args:
        index: number of the new token among those of its row: of shape [1, 1] where all rows are as long.
    """
    cfg = lm.cfg
    position = jnp.broadcast_to(prompts.length[:, None] + index, token.shape)
    wide = jnp.promote_types(lm.dtype, jnp.float32)
    x, grown = lm.embed(token), []
    for block, windowed, text, mine in zip(blocks, cfg.windowed, prompts.layers, own, strict=True):
        text_mask, own_mask = _masks(lm, windowed, prompts, index, mine.value.shape[3])

        def attend(query, key, value, text=text, mine=mine, text_mask=text_mask, own_mask=own_mask):
            keys = placed(
                Keys(_put(mine.key, key[..., None], index, 4), _put(mine.value, value[:, :, :, None], index, 3))
            )
            seen = (text.key, text.value, text_mask, keys.key, keys.value, own_mask)
            return attention.cached(query, *seen, cfg.query_scalar), keys

        x, keys = block(x, position, cfg.frequencies(windowed, wide), attend)
        grown.append(keys)
    return lm.norm(x), tuple(grown)


def _put(rows: Array, new: Array, index: Array, axis: int) -> Array:
    """Rows [B R ...] with one new entry each at its index along the axis."""
    if index.size == 1:  # one slice of all rows, which XLA extends in place
        return jax.lax.dynamic_update_slice_in_dim(rows, new, index[0, 0], axis)
    put = lambda row, entry, at: jax.lax.dynamic_update_slice_in_dim(row, entry, at, axis - 2)  # noqa: E731
    return jax.vmap(jax.vmap(put))(rows, new, jnp.broadcast_to(index, rows.shape[:2]))


def _masks(lm: LM, windowed: bool, prompts: Prompts, index: Array, size: int) -> tuple[Array, Array]:
    """What the new token sees of its prompt and of what its row wrote, itself included."""
    slots = jnp.arange(size)[None, None]
    text, own = prompts.mask[:, None], slots <= index[..., None]
    if not windowed:
        return text, own
    at = (prompts.length[:, None] + index)[..., None]
    return text & (at - prompts.position[:, None] < lm.cfg.window), own & (index[..., None] - slots < lm.cfg.window)
