"""Writing with thoughts: think before every new token, and never read the text twice.

The prompts are read once. Then, for every new token, a thought grows from the newest token, the prediction after it is
mixed with the prediction without it, a token is chosen, and its column joins the cached text: a token of text is a
thought column whose own keys are kept. A new token costs T + 1 columns of thought in T passes, one pass over the whole
thought, and one column of text, whatever the length of the text but for attention to its keys. M counts new tokens.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from qstar.decoding import sampling, write
from qstar.decoding.sampling import Choice
from qstar.models.definition import Definition
from qstar.models.lm import LM, Block
from qstar.ops import attention, rows
from qstar.structs import ROWS, Batch, Context, Text
from qstar.thoughts.read import Effect, Reading, effect, steps
from qstar.thoughts.thinking import Thinks, think_by_row
from qstar.typing import Array, Float, Int, Key, Keys, Params, typed


@struct.dataclass
class Generated:
    """What was written after each prompt, the samples of a prompt one after another.

    Log-probs are the model's own: nothing forbidden, temperature 1.
    """

    tokens: Int[Array, "B M"]
    count: Int[Array, "B"]  # how many of them were written, the stop token included; those after them mean nothing
    logprobs: Float[Array, "B M"]  # of the tokens, after the thought where there is one
    effect: Effect | None  # of the thoughts before them, one each: rows are [B M]; None without thinking

    def text(self, row: int) -> list[int]:
        """The new tokens after one prompt."""
        return np.asarray(self.tokens)[row, : int(self.count[row])].tolist()

    def extended(self, prompt: Reading, row: int) -> Reading:
        """The reading of a prompt, with what was written and thought after it."""
        written = jax.device_get(jax.tree.map(lambda leaf: leaf[row], self.effect))
        return dataclasses.replace(prompt, steps=prompt.steps + steps(written, self.text(row)))


@struct.dataclass
class _New:
    """One new token of every row."""

    token: Int[Array, "B"]
    logprob: Float[Array, "B"]
    effect: Effect  # rows are [B]


def generate(
    method: Thinks,
    definition: Definition,
    params: Params,
    prompts: Sequence[Sequence[int]],
    key: Key | Keys,
    *,
    max_new_tokens: int,
    temperature: float = 0.0,
    think: bool = True,
    greedy_thoughts: bool = True,
    samples: int = 1,
    stop: tuple[int, ...] = (),
) -> Generated:
    """Continue prompts, of any lengths, by up to M = max_new_tokens tokens, each `samples` times: B rows in all.

    Ids that the model forbids are neither thought nor written.

    Args:
        key: or a key for each of the B rows. What is drawn for a row, its thoughts included, depends on its own key
            alone and not on the rows beside it; but shuffled thoughts are dealt among the rows.
        method: with `think=False` it may be any method; its model writes without thoughts.
        temperature: of the text; 0 takes the likeliest token.
        greedy_thoughts: thoughts take the likeliest token, else they are sampled at the method's temperature.
        samples: continuations of a prompt, which is read once for all of them.
        stop: ids that end a text.

    One program is compiled for each pair of powers of two that hold the longest prompt and M.

    Raises:
        ValueError: a method that does not think, no prompts, a prompt that is empty or too long for the model, ids
            outside its vocabulary, everything forbidden, a setting out of range.
    """
    if think and not isinstance(method, Thinks):
        raise ValueError(f"{type(method).__name__} does not think: generate with think=False")
    if max_new_tokens < 1 or samples < 1 or not 0 <= temperature < math.inf:
        raise ValueError(
            f"max_new_tokens = {max_new_tokens}, samples = {samples}, temperature = {temperature}: expected "
            "at least 1, at least 1 and at least 0"
        )
    model = definition.abstract_model
    cfg = model.lm.cfg
    rows.check(prompts, cfg.vocab, cfg.max_len, more=max_new_tokens)
    choice = Choice(float(temperature), forbidden_ids=model.forbidden, stop_ids=tuple(stop))
    choice.check(cfg.vocab)
    keys = sampling.row_keys(key, len(prompts) * samples)
    if not think:
        layers = write.unrolled(definition, params)
        settings = {"max_new_tokens": max_new_tokens, "samples": samples}
        block = write.write(definition, params, layers, prompts, keys, choice, **settings)
        return Generated(block.token[:, :max_new_tokens], block.count, block.logprob[:, :max_new_tokens], None)
    length = np.array([len(prompt) for prompt in prompts], np.int32)
    padded = _write(
        method,
        definition,
        params,
        write.unrolled(definition, params),
        rows.padded(prompts, rows.bucket(int(length.max()))),
        length,
        keys,
        np.int32(max_new_tokens),
        room=rows.bucket(max_new_tokens),
        samples=samples,
        choice=choice,
        greedy_thoughts=greedy_thoughts,
    )
    trimmed = jax.tree.map(lambda leaf: leaf[:, :max_new_tokens], (padded.tokens, padded.logprobs, padded.effect))
    return Generated(trimmed[0], padded.count, trimmed[1], trimmed[2])


@functools.partial(jax.jit, static_argnames=("method", "definition", "room", "samples", "choice", "greedy_thoughts"))
def _write(
    method: Thinks,
    definition: Definition,
    params: Params,
    layers: tuple[Block, ...],
    prompt: Batch,
    length: Int[Array, "Q"],
    keys: Keys,
    limit: Int[Array, ""],
    *,
    room: int,
    samples: int,
    choice: Choice,
    greedy_thoughts: bool,
) -> Generated:
    """Up to `limit` new tokens a row, in arrays of `room`."""
    model = definition.bind(params)
    lm = model.lm
    width = prompt.tokens.shape[1]
    text = _repeated(lm.text(prompt), samples)
    lm.take_apart(layers)
    prompt, length = jax.tree.map(lambda leaf: jnp.repeat(leaf, samples, 0), (prompt, length))
    batch = _with_room(prompt, length, room)

    def new_token(text, step):
        # Prompts end at different places; after them all rows are at the same slot.
        anchors = jnp.where(step == 0, length - 1, width + step - 1)[:, None]
        think_keys, choose_keys = sampling.step_keys(keys, step)
        context = Context(text, batch, anchors)
        if greedy_thoughts or method.thinking.dealt:
            inner, prediction = method.think(model, context, think_keys[0], greedy_thoughts)
        else:
            inner, prediction = think_by_row(method, model, context, think_keys)
        logprobs = prediction.mixed[:, 0, 0]
        token = sampling.choose(logprobs, choose_keys, choice).token
        effects = jax.tree.map(lambda leaf: leaf[:, 0], effect(inner, prediction, token[:, None]))
        return _New(token, jnp.take_along_axis(logprobs, token[:, None], 1)[:, 0], effects)

    def body(carry):
        step, text, done, count, written = carry
        new = new_token(text, step)
        written = jax.tree.map(lambda all, value: all.at[:, step].set(value), written, new)
        text = _append(lm, text, batch, width + step, new.token)
        count = jnp.where(done, count, step + 1)
        return step + 1, text, done | jnp.isin(new.token, jnp.array(choice.stop_ids, new.token.dtype)), count, written

    text = _enlarged(text, batch, room)
    shapes = jax.eval_shape(new_token, text, limit)
    written = jax.tree.map(lambda leaf: jnp.zeros((leaf.shape[0], room, *leaf.shape[1:]), leaf.dtype), shapes)
    first = (jnp.zeros_like(limit), text, jnp.zeros(length.shape, bool), jnp.zeros_like(length), written)
    carry = jax.lax.while_loop(lambda carry: (carry[0] < limit) & ~carry[2].all(), body, first)
    *_, count, written = carry
    return Generated(written.token, count, written.logprob, written.effect)


def _repeated(text: Text, times: int) -> Text:
    return jax.tree.map(lambda leaf, axis: jnp.repeat(leaf, times, axis), text, ROWS.text)


def _with_room(prompt: Batch, length: Int[Array, "B"], room: int) -> Batch:
    """Places for `room` more tokens after the padding; their positions follow the prompt's.

    Only `segment` and `position` are looked at: what the new tokens are is in their cached columns.
    """
    grown = jax.tree.map(lambda leaf: jnp.pad(leaf, ((0, 0), (0, room))), prompt)
    after = length[:, None] + jnp.arange(room, dtype=length.dtype)[None]
    return grown.replace(segment=grown.segment.at[:, -room:].set(1), position=grown.position.at[:, -room:].set(after))


def _enlarged(text: Text, batch: Batch, room: int) -> Text:
    pad = lambda leaf, axis: jnp.pad(leaf, [(0, room if i == axis else 0) for i in range(leaf.ndim)])  # noqa: E731
    return Text(pad(text.hidden, 1), pad(text.key, 2), pad(text.value, 2), batch.position)


@typed
def _append(lm: LM, text: Text, batch: Batch, slot: Int[Array, ""], token: Int[Array, "B"]) -> Text:
    """The text with these tokens at `slot`: a column whose text keys are all before it, and whose own key is kept."""
    count = token.shape[0]
    at = jnp.broadcast_to(slot[None, None], (count, 1))
    before = jnp.arange(batch.segment.shape[1])[None, None] != slot
    mask = attention.anchor_mask(batch.segment, at) & before
    # Column 0 of a thought is at the position after its anchor's.
    position = jnp.take_along_axis(batch.position, at, 1) - 1
    embedded = lm.embed(token)[:, None, None, None]
    index = jnp.zeros_like(slot)
    hidden, own = lm.column(embedded, index, position, text, mask, lm.own_keys(count, 1, 1, 1))
    put = jax.lax.dynamic_update_slice_in_dim
    return Text(
        put(text.hidden, hidden[:, 0, 0], slot, 1),
        put(text.key, own.key[:, :, 0, 0], slot, 2),
        put(text.value, own.value[:, :, 0, 0], slot, 2),
        text.position,
    )
