"""Reading a text aloud: the thoughts before every token, and what each did to the likelihood of that token.

The text is read once; anchors are worked through in slices, because a slice has whole distributions over the
vocabulary. Of those, the log-prob of the true token and the likeliest few leave the device.
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import struct

from qstar.models.definition import Definition
from qstar.ops import rows
from qstar.ops.chunk import slice_size
from qstar.structs import Batch, Context
from qstar.thoughts.fill import Inner
from qstar.thoughts.predict import Prediction
from qstar.thoughts.thinking import Thinks
from qstar.typing import Array, Float, Int, Key, Params, typed

LIKELIEST = 5


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
        """Share of tokens that thoughts made likelier."""
        return _mean([float(step.gain > 0) for step in self.steps])


def _mean(values: list[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan


@dataclass(frozen=True)
class Helpful:
    """A thought and where it was thought: before token `position` of that text."""

    reading: Reading
    position: int
    thought: Thought


def best(readings: Sequence[Reading], n: int) -> list[Helpful]:
    """The n thoughts that helped most, best first; fewer where fewer helped."""
    helpful = [
        Helpful(reading, position, thought)
        for reading in readings
        for position, step in enumerate(reading.steps, 1)
        for thought in step.thoughts
        if thought.gain > 0
    ]
    return sorted(helpful, key=lambda entry: -entry.thought.gain)[:n]


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
    cfg = definition.abstract_model.lm.cfg
    tokens = [int(token) for token in tokens]
    rows.check([tokens], cfg.vocab, cfg.max_len)
    width = rows.bucket(len(tokens))
    # Three distributions over the vocabulary are alive at once: base, after the thought, mixed.
    fitting = slice_size(width, 3 * num_thoughts * cfg.vocab)
    at_once = 1 << (fitting.bit_length() - 1)  # a power of two, so that it divides the width
    effects = _effects(method, definition, params, rows.padded([tokens], width), key, greedy, num_thoughts, at_once)
    return Reading(tokens[0], steps(jax.device_get(effects), tokens[1:]), len(tokens))


@functools.partial(jax.jit, static_argnames=("method", "definition", "greedy", "num_thoughts", "at_once"))
def _effects(
    method: Thinks,
    definition: Definition,
    params: Params,
    batch: Batch,
    key: Key,
    greedy: bool,
    num_thoughts: int,
    at_once: int,
) -> Effect:
    """Effects at all positions of a batch of one row, `at_once` anchors at a time; rows are [S]."""
    thinker = definition.bind(params)
    text = thinker.lm.text(batch)
    size = batch.tokens.shape[1]

    def one_slice(slice):
        anchors, key = slice
        inner, prediction = method.think(thinker, Context(text, batch, anchors), key, greedy, num_thoughts)
        following = jnp.take_along_axis(batch.tokens, jnp.minimum(anchors + 1, size - 1), 1)
        return effect(inner, prediction, following)

    anchors = jnp.arange(size).reshape(-1, 1, at_once)
    slices = jax.lax.map(one_slice, (anchors, jax.random.split(key, len(anchors))))
    return jax.tree.map(lambda leaf: leaf.reshape(size, *leaf.shape[3:]), slices)


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
