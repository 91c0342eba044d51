"""Reading a text aloud: the thoughts before every token, and what each did to the likelihood of that token.

The text is read once; anchors are worked through in slices, because a slice has whole distributions over the
vocabulary. Of those, the log-prob of the true token and the likeliest few leave the device.
"""

import functools
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import struct

from qstar.models.definition import Definition
from qstar.ops import chunk, rows
from qstar.structs import Batch, Context
from qstar.thoughts.fill import Inner
from qstar.thoughts.predict import Prediction
from qstar.thoughts.thinking import Thinks, think_by_row
from qstar.typing import Array, Float, Int, Key, Keys, Params, typed

LIKELIEST = 5
MOST_ROWS = 64  # texts that are read at once
SHOWS = 0.0005  # nats: what is smaller is printed as 0.000
LISTED = 0.005  # nats: a thought that changes less is not listed among those that helped or hurt most, as 0.00


@struct.dataclass
class Likeliest:
    """The most probable next tokens, best first; X of them."""

    tokens: Int[Array, "*rows X"]
    logprobs: Float[Array, "*rows X"]


@struct.dataclass
class Effect:
    """What the thoughts at every anchor did to the prediction of one token, one row an anchor."""

    thoughts: Int[Array, "*rows R T"] | None  # None for pauses
    weight: Float[Array, "*rows R"]  # mixing weight
    base: Float[Array, "*rows"]  # log-prob of the token without a thought
    mixed: Float[Array, "*rows R"]  # the same with each
    base_likeliest: Likeliest
    mixed_likeliest: Likeliest


@typed
def likeliest(logprobs: Float[Array, "*rows V"]) -> Likeliest:
    values, tokens = jax.lax.top_k(logprobs, min(LIKELIEST, logprobs.shape[-1]))
    return Likeliest(tokens, values)


@typed
def effect(inner: Inner, prediction: Prediction, token: Int[Array, "B A"]) -> Effect:
    """Effect on this token after each anchor; rows are [B A]."""
    mixed_BARV = jnp.moveaxis(prediction.mixed, 1, 2)
    return Effect(
        thoughts=None if inner.tokens is None else jnp.moveaxis(inner.tokens, 1, 2),
        weight=jnp.moveaxis(prediction.weight, 1, 2),
        base=jnp.take_along_axis(prediction.base, token[..., None], -1)[..., 0],
        mixed=jnp.take_along_axis(mixed_BARV, token[..., None, None], -1)[..., 0],
        base_likeliest=likeliest(prediction.base),
        mixed_likeliest=likeliest(mixed_BARV),
    )


@dataclass(frozen=True)
class Candidate:
    """A possible next token."""

    token: int
    logprob: float


@dataclass(frozen=True)
class Thought:
    """One thought before a token, and what it did to that token's likelihood.

    The log-probs are those of distributions. Where log-probs are mixed the reward of training is not: its mixture is
    not normalised, which makes it less than the gain here for weights between 0 and 1.
    """

    tokens: tuple[int, ...]  # none for pauses, and where a method chose not to think
    weight: float  # mixing weight: the share of the prediction after the thought
    base: float  # log-prob of the token without the thought
    mixed: float  # and with it
    likeliest: tuple[Candidate, ...]  # next tokens with it

    @property
    def gain(self) -> float:
        """Change in log-likelihood of the token, in nats: positive where the thought helped."""
        return self.mixed - self.base


@dataclass(frozen=True)
class Step:
    """One token of a text with the thoughts before it."""

    token: int
    thoughts: tuple[Thought, ...]
    likeliest: tuple[Candidate, ...]  # next tokens without a thought

    @property
    def base(self) -> float:
        return self.thoughts[0].base

    @property
    def mixed(self) -> float:
        """Log-prob of the token with a thought, the mean over its thoughts."""
        return math.fsum(thought.mixed for thought in self.thoughts) / len(self.thoughts)

    @property
    def gain(self) -> float:
        """Mean gain of the thoughts, nats."""
        return self.mixed - self.base

    @property
    def best(self) -> Thought:
        return max(self.thoughts, key=lambda thought: thought.gain)


@dataclass(frozen=True)
class Reading:
    """A text with its thoughts. The first token has no thought before it; the others have a step each."""

    first: int
    steps: tuple[Step, ...]
    given: int  # tokens of the text that were given; the model wrote those after them

    @property
    def tokens(self) -> tuple[int, ...]:
        return (self.first, *(step.token for step in self.steps))

    @property
    def base_nll(self) -> float:
        """Nats per token without thoughts; NaN for a text of one token."""
        return _mean([-step.base for step in self.steps])

    @property
    def mixed_nll(self) -> float:
        return _mean([-step.mixed for step in self.steps])

    @property
    def helped(self) -> float:
        """Share of tokens that thoughts made likelier by more than rounding shows."""
        return _mean([float(step.gain >= SHOWS) for step in self.steps])


def _mean(values: list[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan


@dataclass(frozen=True)
class Helpful:
    """A thought and where it was thought: before token `position` of that text."""

    reading: Reading
    position: int
    thought: Thought


def best(readings: Sequence[Reading], n: int) -> list[Helpful]:
    """The n thoughts that helped most, best first; fewer where fewer helped (by `LISTED`)."""
    helpful = [entry for entry in _thoughts(readings) if entry.thought.gain >= LISTED]
    return sorted(helpful, key=lambda entry: -entry.thought.gain)[:n]


def worst(readings: Sequence[Reading], n: int) -> list[Helpful]:
    """The n thoughts that hurt most, the worst first; fewer where fewer hurt (by `LISTED`)."""
    harmful = [entry for entry in _thoughts(readings) if entry.thought.gain <= -LISTED]
    return sorted(harmful, key=lambda entry: entry.thought.gain)[:n]


def _thoughts(readings: Sequence[Reading]) -> Iterator[Helpful]:
    for reading in readings:
        for position, step in enumerate(reading.steps, 1):
            yield from (Helpful(reading, position, thought) for thought in step.thoughts)


def read(
    method: Thinks,
    definition: Definition,
    params: Params,
    tokens: Sequence[int],
    key: Key,
    *,
    greedy: bool = True,
    num_thoughts: int = 1,
) -> Reading:
    """The thoughts before every token of a text of S tokens, `num_thoughts` each.

    `greedy` thoughts are the likeliest tokens, others are sampled at the method's temperature. Texts are padded to
    powers of two: one program is compiled for each.

    Raises:
        ValueError: a text that is empty, longer than the model's `max_len`, or has ids outside its vocabulary.
    """
    return _read(method, definition, params, {0: tokens}, [key], greedy, num_thoughts)[0]


def read_all(
    method: Thinks,
    definition: Definition,
    params: Params,
    texts: Sequence[Sequence[int]],
    key: Key,
    *,
    greedy: bool = True,
    num_thoughts: int = 1,
) -> list[Reading]:
    """`read` of many texts, those of similar length together in as many rows as memory is set aside for.

    Sampled thoughts of text n depend on `fold_in(key, n)` alone, and are those that `read` draws with it; shuffled ones
    are dealt within a text. Raises ValueError as `read`, with the number of the text.
    """
    cfg = definition.abstract_model.lm.cfg
    rows.check([list(text) for text in texts], cfg.vocab, cfg.max_len)
    by_width: dict[int, dict[int, Sequence[int]]] = {}
    for number, text in enumerate(texts):
        by_width.setdefault(rows.bucket(len(text)), {})[number] = text
    readings: dict[int, Reading] = {}
    for width, same in by_width.items():
        size = 1 if method.thinking.dealt else _fitting(method, definition, width, num_thoughts)[1]
        for first in range(0, len(same), size):
            batch = dict(itertools.islice(same.items(), first, first + size))
            keys = [jax.random.fold_in(key, number) for number in batch]
            readings |= _read(method, definition, params, batch, keys, greedy, num_thoughts)
    return [readings[number] for number in range(len(texts))]


def _read(
    method: Thinks,
    definition: Definition,
    params: Params,
    texts: Mapping[int, Sequence[int]],
    keys: Sequence[Key],
    greedy: bool,
    num_thoughts: int,
) -> dict[int, Reading]:
    """The readings of texts that are padded to the same width, by number."""
    cfg = definition.abstract_model.lm.cfg
    tokens = [[int(token) for token in text] for text in texts.values()]
    rows.check(tokens, cfg.vocab, cfg.max_len)
    width = rows.bucket(max(map(len, tokens)))
    at_once, _ = _fitting(method, definition, width, num_thoughts)
    # Few programs: the number of rows is a power of two, the last text fills it.
    more = (1 << (len(tokens) - 1).bit_length()) - len(tokens)
    batch = rows.padded(tokens + tokens[-1:] * more, width)
    data = [jax.random.key_data(key) for key in keys]
    by_row = jax.random.wrap_key_data(jnp.stack(data + data[-1:] * more), impl=jax.random.key_impl(keys[0]))
    effects = jax.device_get(_effects(method, definition, params, batch, by_row, greedy, num_thoughts, at_once))
    return {
        number: Reading(text[0], steps(jax.tree.map(lambda leaf, r=r: leaf[r], effects), text[1:]), len(text))
        for r, (number, text) in enumerate(zip(texts, tokens, strict=True))
    }


def _fitting(method: Thinks, definition: Definition, width: int, num_thoughts: int) -> tuple[int, int]:
    """Anchors of a row that are worked through at once, and rows, a power of two each."""
    # Three distributions over the vocabulary are alive at once: base, after the thought, mixed.
    elements = 3 * num_thoughts * method.thinking.candidates * definition.abstract_model.lm.cfg.vocab
    fitting = chunk.slice_size(width, elements)
    at_once = 1 << (fitting.bit_length() - 1)  # a power of two, so that it divides the width
    together = min(MOST_ROWS, chunk.budget() // (4 * elements * at_once))
    return at_once, 1 << (max(1, together).bit_length() - 1)


@functools.partial(jax.jit, static_argnames=("method", "definition", "greedy", "num_thoughts", "at_once"))
def _effects(
    method: Thinks,
    definition: Definition,
    params: Params,
    batch: Batch,
    keys: Keys,
    greedy: bool,
    num_thoughts: int,
    at_once: int,
) -> Effect:
    """Effects at all positions of a batch, `at_once` anchors of every row at a time; rows are [B S]."""
    thinker = definition.bind(params)
    text = thinker.lm.text(batch)
    count, size = batch.tokens.shape

    def one_slice(slice: tuple[Array, Keys]) -> Effect:
        anchors, keys = slice
        context = Context(text, batch, anchors)
        if greedy or count == 1:
            inner, prediction = method.think(thinker, context, keys[0], greedy, num_thoughts)
        else:
            inner, prediction = think_by_row(method, thinker, context, keys, num_thoughts)
        following = jnp.take_along_axis(batch.tokens, jnp.minimum(anchors + 1, size - 1), 1)
        return effect(inner, prediction, following)

    anchors = jnp.broadcast_to(jnp.arange(size).reshape(-1, 1, at_once), (size // at_once, count, at_once))
    by_row = jax.vmap(lambda key: jax.random.split(key, len(anchors)))(keys)
    # As plain numbers: JAX's check for keys that are used twice takes a transposed array of keys for a use of them.
    by_slice = jax.random.wrap_key_data(jnp.swapaxes(jax.random.key_data(by_row), 0, 1), impl=jax.random.key_impl(keys))
    effects = jax.lax.map(one_slice, (anchors, by_slice))
    return jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 0, 1).reshape(count, size, *leaf.shape[3:]), effects)


def steps(effects: Effect, tokens: Sequence[int]) -> tuple[Step, ...]:
    """Effects on these tokens as plain values; row s of `effects` (arrays of numpy) belongs to token s."""
    return tuple(_step(jax.tree.map(lambda leaf, s=s: leaf[s], effects), token) for s, token in enumerate(tokens))


def _step(effects: Effect, token: int) -> Step:
    thoughts = tuple(
        Thought(
            # A gate that was closed leaves -1.
            tokens=() if effects.thoughts is None else tuple(t for t in effects.thoughts[r].tolist() if t >= 0),
            weight=float(effects.weight[r]),
            base=float(effects.base),
            mixed=float(effects.mixed[r]),
            likeliest=_candidates(jax.tree.map(lambda leaf, r=r: leaf[r], effects.mixed_likeliest)),
        )
        for r in range(len(effects.weight))
    )
    return Step(int(token), thoughts, _candidates(effects.base_likeliest))


def _candidates(top: Likeliest) -> tuple[Candidate, ...]:
    return tuple(map(Candidate, top.tokens.tolist(), top.logprobs.tolist()))
