"""One batch of prompts continued: read once, then one new token a row and step, until all rows have ended.

Prompts are padded at their right. So a prompt is read as the trainer reads it, from slot 0, and every row writes its
new tokens into the same slot of a cache of their own, at a position that follows its own prompt: extending it is one
slice update, which XLA makes in place. Three programs are compiled for a shape: reading, the first token, and going on.
The last is called again and again where somebody has to look at the text in between; it donates its state.
"""

import functools
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from qstar.decoding import cache, sampling
from qstar.decoding.cache import Keys, Prompts
from qstar.decoding.sampling import Choice, Chosen
from qstar.models.definition import Definition
from qstar.ops import rows
from qstar.sharding import shard
from qstar.structs import Batch
from qstar.typing import Array, Bool, Float, Int, Params
from qstar.typing import Keys as RowKeys

LOOK_EVERY = 16
"""Steps between two looks at the text for its stop texts."""

Watch = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Tokens [B M] and how many of them were written [B] -> the rows [B] that have ended."""


@struct.dataclass
class Columns:
    """What was written: every leaf is [B R M]."""

    token: Int[Array, "B R M"]
    logprob: Float[Array, "B R M"]
    behaviour: Float[Array, "B R M"]
    margin: Float[Array, "B R M"]


@struct.dataclass
class State:
    """Between two steps."""

    step: Int[Array, ""]  # tokens a row
    newest: Int[Array, "B R"]
    own: tuple[Keys, ...]  # of what was written, but for the newest
    done: Bool[Array, "B R"]
    count: Int[Array, "B R"]  # tokens up to the end, the stop token included
    columns: Columns


@dataclass(frozen=True)
class Block:
    """A batch of rows, on the host; samples of a prompt one after another. What is after `count` means nothing."""

    token: Int[np.ndarray, "B M"]
    logprob: Float[np.ndarray, "B M"]
    behaviour: Float[np.ndarray, "B M"]
    margin: Float[np.ndarray, "B M"]
    count: Int[np.ndarray, "B"]
    done: Bool[np.ndarray, "B"]
    steps: int  # that were computed, for every row
    width: int  # of the prompts with their padding
    room: int  # for new tokens


@functools.partial(jax.jit, static_argnames="definition")
def unrolled(definition: Definition, params: Params) -> tuple:
    """The model's layers one by one: made once for any number of batches. They take as much memory again."""
    return cache.layers(definition.bind(params).lm)


def write(
    definition: Definition,
    params: Params,
    layers: tuple,
    prompts: Sequence[Sequence[int]],
    keys: RowKeys,
    choice: Choice,
    *,
    max_new_tokens: int,
    samples: int = 1,
    width: int | None = None,
    idle: int = 0,
    watch: Watch | None = None,
) -> Block:
    """Continue prompts, each `samples` times.

    Args:
        layers: `unrolled` of the same weights.
        keys: one for each of the B = len(prompts) * samples rows.
        width: to which prompts are padded; None: the bucket of the longest.
        idle: so many prompts at the end are there to fill the batch, and their results are not used.
        watch: looks at the text every few steps.
    """
    length = np.array([len(prompt) for prompt in prompts], np.int32)
    width = width or rows.bucket(int(length.max()))
    done = np.repeat(np.arange(len(prompts)) >= len(prompts) - idle, samples).reshape(-1, samples)
    # As words from the host: keys that were sliced on a mesh lie one way or another, for each of which jit would look
    # at its program again.
    words = np.asarray(jax.random.key_data(jax.random.clone(keys))).reshape(*done.shape, -1)
    static = {"choice": choice, "impl": jax.random.key_impl(keys)}
    room = rows.bucket(max_new_tokens)
    read, logits = _read(definition, params, rows.padded(prompts, width), length, samples)
    state = _begin(definition, logits, words, done, room=room, **static)
    step = 1
    while True:
        until = max_new_tokens if watch is None else min(step + LOOK_EVERY, max_new_tokens)
        state = _go_on(definition, params, layers, read, words, state, np.int32(until), **static)
        block = _fetched(state, width, room)
        step = block.steps
        if watch is None:
            return block
        done = block.done | watch(block.token, block.count)
        if step == max_new_tokens or done.all():
            return block
        state = state.replace(done=jax.device_put(done.reshape(-1, samples), state.done.sharding))


def _fetched(state: State, width: int, room: int) -> Block:
    small = jax.device_get((state.columns, state.count, state.done, state.step))
    columns, count, done = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), small[:3])
    return Block(
        columns.token, columns.logprob, columns.behaviour, columns.margin, count, done, int(small[3]), width, room
    )


@functools.partial(jax.jit, static_argnames=("definition", "samples"))
def _read(
    definition: Definition, params: Params, batch: Batch, length: Int[Array, "B"], samples: int
) -> tuple[Prompts, Float[Array, "B R V"]]:
    """The prompts read, and what they predict, for every row.

    A program of its own: one that copies logits to rows and draws from them takes XLA's CPU compiler most of a minute.
    """
    lm = definition.bind(params).lm
    batch = jax.tree.map(lambda leaf: shard(leaf, "batch", None), batch)
    read, hidden = cache.read(lm, batch, length)
    logits = lm.logits(hidden)[:, None]
    return read, jnp.broadcast_to(logits, (len(length), samples, logits.shape[-1]))


@functools.partial(jax.jit, static_argnames=("definition", "room", "choice", "impl"))
def _begin(
    definition: Definition,
    logits: Float[Array, "B R V"],
    words: Array,
    done: Bool[Array, "B R"],
    *,
    room: int,
    choice: Choice,
    impl: Hashable,
) -> State:
    """The first token of every row, whose key has these words [B R _]."""
    lm, shape = definition.abstract_model.lm, done.shape
    chosen = _choose(logits, words, jnp.zeros((), jnp.int32), choice, impl)
    columns = jax.tree.map(lambda leaf: jnp.zeros((*shape, room), leaf.dtype), Columns(**vars(chosen)))
    own = cache.room(lm, *shape, room)  # type: ignore[call-arg]
    empty = State(jnp.zeros((), jnp.int32), chosen.token, own, done, jnp.zeros(shape, jnp.int32), columns)
    return _placed(_written(empty, chosen, choice))


@functools.partial(jax.jit, static_argnames=("definition", "choice", "impl"), donate_argnames="state")
def _go_on(
    definition: Definition,
    params: Params,
    layers: tuple,
    read: Prompts,
    words: Array,
    state: State,
    until: Int[Array, ""],
    *,
    choice: Choice,
    impl: Hashable,
) -> State:
    """More tokens, until there are `until` in a row or all rows are done."""
    lm = definition.bind(params).lm

    def body(state: State) -> State:
        hidden, own = cache.column(lm, layers, state.newest, state.step[None, None] - 1, read, state.own)
        chosen = _choose(lm.logits(hidden), words, state.step, choice, impl)
        return _placed(_written(state.replace(own=own), chosen, choice))

    return jax.lax.while_loop(lambda state: (state.step < until) & ~state.done.all(), body, state)


def _choose(logits: Array, words: Array, step: Array, choice: Choice, impl: Hashable) -> Chosen:
    """[B R V] -> leaves [B R]."""
    shape = words.shape[:2]
    keys = jax.random.wrap_key_data(words.reshape(-1, words.shape[2]), impl=impl)
    _, drawing = sampling.step_keys(keys, step)
    chosen = sampling.choose(logits.reshape(-1, logits.shape[-1]), drawing, choice)
    return jax.tree.map(lambda leaf: leaf.reshape(shape), chosen)


def _written(state: State, chosen: Chosen, choice: Choice) -> State:
    columns = jax.tree.map(lambda all, new: all.at[:, :, state.step].set(new), state.columns, Columns(**vars(chosen)))
    count = jnp.where(state.done, state.count, state.step + 1)
    done = state.done | jnp.isin(chosen.token, jnp.array(choice.stop_ids, chosen.token.dtype))
    return State(state.step + 1, chosen.token, state.own, done, count, columns)


def _placed(state: State) -> State:
    """Pinned, so that a state that comes out is laid out as the one that goes in, and no program is compiled twice."""
    two = lambda leaf: shard(leaf, "batch", None)  # noqa: E731
    return State(
        shard(state.step),
        two(state.newest),
        tuple(map(cache.placed, state.own)),
        two(state.done),
        two(state.count),
        jax.tree.map(lambda leaf: shard(leaf, "batch", None, None), state.columns),
    )
