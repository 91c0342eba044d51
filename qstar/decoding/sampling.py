"""How tokens are chosen from logits: settings, the choice, and what is kept about it.

In this order: forbidden ids leave, top-k leaves only likely tokens, the temperature divides, top-p leaves only likely
tokens of these, one is drawn with noise that is a function of the row's key and the step alone. Two log-probs are kept:
the model's own, at temperature 1 with nothing left out, and the behaviour policy's, of the distribution that was drawn
from.
"""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from qstar.ops import vocabulary
from qstar.ops.attention import MASKED
from qstar.typing import Array, Float, Int, Keys, typed


@dataclass(frozen=True)
class Choice:
    """What the compiled program knows of the settings."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    forbidden_ids: tuple[int, ...] = ()
    stop_ids: tuple[int, ...] = ()

    def check(self, vocab: int) -> None:
        """Raise ValueError for ids outside a vocabulary of this size, and where nothing is left to generate."""
        for name, ids in (("forbidden", self.forbidden_ids), ("stop", self.stop_ids)):
            outside = [id for id in ids if not 0 <= id < vocab]
            if outside:
                raise ValueError(f"{name} token ids {outside}: the model knows 0 to {vocab - 1}")
        if len(set(self.forbidden_ids)) == vocab:
            raise ValueError(f"all {vocab} tokens are forbidden: nothing is left to generate")
        never = sorted(set(self.stop_ids) & set(self.forbidden_ids))
        if never:
            raise ValueError(f"stop token ids {never} are forbidden, so they would never be generated: choose others")


@dataclass(frozen=True)
class Sampling:
    """How texts are continued."""

    temperature: float = 1.0  # divides the logits; 0 takes the likeliest token
    top_k: int = 0  # only the k likeliest tokens, and those as likely as the last of them; 0: all
    top_p: float = 1.0  # of these, the likeliest that together have probability p, and those as likely as the last
    max_new_tokens: int = 128
    stop: tuple[str, ...] = ()  # texts that end a row, wherever token borders fall in them
    stop_ids: tuple[int, ...] = ()  # tokens that end a row
    forbidden_ids: tuple[int, ...] = ()  # tokens that are never written

    def __post_init__(self):
        if isinstance(self.stop, str):
            raise ValueError(f"sampling.stop = {self.stop!r}: expected a list of texts, [{self.stop!r}]")
        for name in ("stop", "stop_ids", "forbidden_ids"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if not 0 <= self.temperature < math.inf:
            raise ValueError(f"sampling.temperature = {self.temperature}: expected 0 or more")
        if self.top_k < 0:
            raise ValueError(f"sampling.top_k = {self.top_k}: expected a number of tokens, or 0 for all")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"sampling.top_p = {self.top_p}: expected a probability above 0 and up to 1")
        if self.max_new_tokens < 1:
            raise ValueError(f"sampling.max_new_tokens = {self.max_new_tokens}: expected at least 1")
        odd = [text for text in self.stop if not isinstance(text, str) or not text or "\ufffd" in text]
        if odd:
            raise ValueError(
                f"sampling.stop: {odd} cannot end a text: expected texts of at least one character, without "
                "U+FFFD, which stands for characters whose tokens are not complete yet"
            )

    @property
    def choice(self) -> Choice:
        return Choice(float(self.temperature), self.top_k, self.top_p, self.forbidden_ids, self.stop_ids)


@struct.dataclass
class Chosen:
    """A token of every row, and how it came about."""

    token: Int[Array, "B"]
    logprob: Float[Array, "B"]  # the model's: temperature 1, nothing left out
    behaviour: Float[Array, "B"]  # of the distribution that was drawn from; 0 where the likeliest was taken
    margin: Float[Array, "B"]  # nats between the two likeliest tokens that may be written, at temperature 1


@typed
def choose(logits: Float[Array, "B V"], keys: Keys, choice: Choice) -> Chosen:
    """A token a row, drawn by the row's own key."""
    allowed = vocabulary.forbid(logits, choice.forbidden_ids)
    if choice.temperature == 0:
        token = jnp.argmax(allowed, axis=-1)
        behaviour = jnp.zeros_like(logits[:, 0])
    else:
        kept = likely(allowed, choice.top_k, choice.top_p, choice.temperature)
        token = _drawn(kept, keys)
        behaviour = _logprob(kept, token)
    return Chosen(token, _logprob(logits, token), behaviour, _margin(allowed))


@typed
def ranked(logits: Float[Array, "B V"], rank: Int[Array, "B"], choice: Choice, most: int) -> Int[Array, "B"]:
    """The likeliest token that may be written of every row, the second likeliest, ...; ranks from 0, below `most`."""
    allowed = vocabulary.forbid(logits, choice.forbidden_ids)
    return jnp.take_along_axis(jax.lax.top_k(allowed, most)[1], rank[:, None], 1)[:, 0]


@typed
def instead(logits: Float[Array, "B V"], chosen: Chosen, token: Int[Array, "B"]) -> Chosen:
    """Other tokens, none of them drawn."""
    return chosen.replace(token=token, logprob=_logprob(logits, token), behaviour=jnp.zeros_like(chosen.behaviour))


def _drawn(logits: Array, keys: Keys) -> Array:
    """As `vocabulary.sample` draws: Gumbel-max in small vocabularies, one number a row in large ones."""
    if logits.shape[-1] < vocabulary.LARGE:
        return jax.vmap(jax.random.categorical)(keys, logits)
    return vocabulary.inverted(logits, jax.vmap(lambda key: jax.random.uniform(key, (), logits.dtype))(keys))


@typed
def likely(logits: Float[Array, "B V"], top_k: int, top_p: float, temperature: float = 1.0) -> Float[Array, "B V"]:
    """Logits over the temperature of the likeliest tokens: the top_k (0: all), then of these those that make up top_p.

    Elsewhere far below all others.

    Ties with the last token that is kept are kept too. Holtzman et al. 2020, equation 3, with probabilities
    renormalised after top-k, as in other libraries.
    """
    if 0 < top_k < logits.shape[-1]:
        floor = jax.lax.top_k(logits, top_k)[0][:, -1:]
        logits = jnp.where(logits >= floor, logits, MASKED)
    # After top-k: quotients of the largest temperatures are all alike in float32.
    logits = vocabulary.tempered(logits, temperature)
    if top_p < 1:
        probs = jax.nn.softmax(logits, axis=-1).astype(jnp.float32)
        logits = jnp.where(probs >= _nucleus_floor(probs, top_p), logits, MASKED)
    return logits


def _nucleus_floor(probs: Array, top_p: float) -> Array:
    """The largest probability [B 1] such that tokens of at least that much have top_p together.

    By bisection over the bits of the float, which are in the order of positive numbers: 31 sums over the vocabulary,
    which on a CPU take a small part of the time of sorting it.
    """
    bits = jax.lax.bitcast_convert_type(probs, jnp.int32)

    def halve(_, bounds):
        low, high = bounds
        middle = low + (high - low + 1) // 2
        enough = jnp.sum(jnp.where(bits >= middle, probs, 0), -1, keepdims=True) >= top_p
        return jnp.where(enough, middle, low), jnp.where(enough, high, middle - 1)

    low = jnp.zeros_like(bits[:, :1])
    low, _ = jax.lax.fori_loop(0, 31, halve, (low, bits.max(-1, keepdims=True)))
    return jax.lax.bitcast_convert_type(low, jnp.float32)


def _logprob(logits: Array, token: Array) -> Array:
    # The operations of `vocabulary.logprobs`, which the trainer calls.
    return jnp.take_along_axis(logits, token[:, None], 1)[:, 0] - jax.nn.logsumexp(logits, axis=-1)


def _margin(logits: Array) -> Array:
    first = jnp.argmax(logits, axis=-1)[:, None]
    others = jnp.where(jnp.arange(logits.shape[1])[None] == first, MASKED, logits)
    return jnp.take_along_axis(logits, first, 1)[:, 0] - others.max(axis=-1)


# --- keys ---------------------------------------------------------------------------------------------------------


_folded = jax.jit(jax.vmap(jax.random.fold_in, (None, 0)))  # one program, not one for every operation in it


def row_keys(key: Keys, count: int) -> Keys:
    """A key for each of `count` rows, from one key or as they are given. Raises ValueError for another number."""
    if key.ndim == 0:
        return _folded(key, np.arange(count))
    if key.shape != (count,):
        raise ValueError(f"keys of shape {key.shape} for {count} rows: expected one key, or one for each row")
    return key


def step_keys(keys: Keys, step: Int[Array, "*rows"]) -> tuple[Keys, Keys]:
    """Keys of a new token of every row, of which this is the number: of the thought before it, where there is one, and
    of the token's draw."""
    split = lambda key, step: tuple(jax.random.split(jax.random.fold_in(key, step)))  # noqa: E731
    return jax.vmap(split)(keys, jnp.broadcast_to(step, keys.shape))
