"""Log-probs after chosen positions in every way of answering, from one pass over the text.

Without a thought, with the most likely and with sampled thoughts: the keys and hidden states of the text are computed
once, and one program is compiled for each width that texts are padded to.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from qstar.evals.measure import NONE, SAMPLED, WAYS
from qstar.methods.protocol import Method
from qstar.models.definition import Definition
from qstar.ops import rows
from qstar.policy import Policy
from qstar.structs import Batch, Context
from qstar.thoughts.thinking import Thinks, think_by_row
from qstar.typing import Array, Float, Int, Key, Params


@struct.dataclass
class Predictions:
    """What is predicted after A anchors of B texts. D counts ways and draws, in the order of `labels`."""

    logprobs: Float[Array, "B D A M"]  # of M candidates, under the whole vocabulary
    weight: Float[Array, "B D A"]  # mixing weight of the thought, 0 where there is none
    thoughts: Int[Array, "B D A T"]  # its tokens, -1 where there is none; T = 0 where no thought has tokens


@dataclass(frozen=True)
class Query:
    """A text and what is to be predicted in it."""

    ids: Sequence[int]
    anchors: Sequence[int]  # positions whose next token is predicted; one at least
    candidates: Sequence[Sequence[int]]  # for each anchor, M tokens whose log-probs are computed


def labels(ways: tuple[str, ...], draws: int) -> list[tuple[str, int]]:
    """(way, draw) of every entry of an axis D."""
    return [(way, draw) for way in WAYS if way in ways for draw in range(draws if way == SAMPLED else 1)]


def partition(lengths: Sequence[int], batch_size: int) -> list[list[int]]:
    """Texts of these lengths in batches of texts that are padded to the same width."""
    widths = [rows.bucket(length) for length in lengths]
    groups = [[i for i, width in enumerate(widths) if width == bucket] for bucket in sorted(set(widths))]
    return [group[start : start + batch_size] for group in groups for start in range(0, len(group), batch_size)]


def ask(
    subject: Policy,
    ways: tuple[str, ...],
    queries: Sequence[Query],
    keys: Key,
    *,
    batch_size: int,
    anchors: int,
    draws: int = 1,
) -> Predictions:
    """Predictions for up to `batch_size` texts, as numpy arrays with a row a text.

    Texts are padded to a power of two, `batch_size` rows and this many anchors, so that few programs are compiled; what
    is predicted at padded anchors means nothing.

    Raises ValueError where a prediction is not a number.
    """
    # Padding repeats the last row and the last anchor: positions that think anyway.
    index = np.minimum(np.arange(batch_size), len(queries) - 1)
    queries = [queries[i] for i in index]
    slots = [np.minimum(np.arange(anchors), len(query.anchors) - 1) for query in queries]
    where = np.stack([np.asarray(query.anchors, np.int32)[slot] for query, slot in zip(queries, slots, strict=True)])
    candidates = np.stack(
        [np.asarray(query.candidates, np.int32)[slot] for query, slot in zip(queries, slots, strict=True)]
    )
    batch = rows.padded([query.ids for query in queries], rows.bucket(max(len(query.ids) for query in queries)))
    predicted = predictions(
        subject.method, subject.definition, subject.params, batch, where, candidates, _taken(keys, index), ways, draws
    )
    predicted = jax.tree.map(lambda leaf: np.asarray(leaf)[: index[-1] + 1], predicted)
    if np.isnan(predicted.logprobs).any():
        raise ValueError("the prediction is not a number: the model's parameters have diverged")
    return predicted


@jax.jit
def _taken(keys: Key, index: Int[Array, "B"]) -> Key:
    return keys[index]


@functools.partial(jax.jit, static_argnames=("method", "definition", "ways", "draws"))
def predictions(
    method: Method,
    definition: Definition,
    params: Params,
    batch: Batch,
    anchors: Int[Array, "B A"],
    candidates: Int[Array, "B A M"],
    keys: Key,
    ways: tuple[str, ...],
    draws: int = 1,
) -> Predictions:
    """Predictions after these anchors; whole distributions are alive at once, so ask for few.

    `keys` has one key a row (`measure.item_keys`): a row's sampled thoughts depend on its key alone, but for shuffled
    thoughts, which are dealt among the rows. A method that does not think is asked in the way `none` only.
    """
    model = definition.bind(params)
    if not isinstance(method, Thinks):
        return _chosen(method.predict(model, batch, anchors)[:, None], candidates)
    context = Context(model.lm.text(batch), batch, anchors)
    of_batch, of_rows = jax.vmap(lambda key: tuple(jax.random.split(key)))(keys)
    of_batch = jax.random.split(of_batch[0], len(WAYS))
    asked = [
        _answered(way, method, model, context, candidates, shared, of_rows, draws)
        for way, shared in zip(WAYS, of_batch, strict=True)
        if way in ways
    ]
    size = max(predicted.thoughts.shape[-1] for predicted in asked)
    asked = [predicted.replace(thoughts=_widened(predicted.thoughts, size)) for predicted in asked]
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves, 1), *asked)


def _answered(
    way: str,
    method: Thinks,
    model: Any,
    context: Context,
    candidates: Array,
    of_batch: Key,
    of_rows: Key,
    draws: int,
) -> Predictions:
    """Predictions of one way, drawn with a key for the whole batch or one for each row."""
    if way == SAMPLED and not method.thinking.dealt:
        inner, prediction = think_by_row(method, model, context, of_rows, draws)
    else:
        inner, prediction = method.think(model, context, of_batch, way != SAMPLED, draws if way == SAMPLED else 1)
    if way == NONE:  # the compiler drops what is computed of the thought
        return _chosen(prediction.base[:, None], candidates)
    return _chosen(prediction.mixed, candidates, prediction.weight, inner.tokens)


def _chosen(
    logprobs: Float[Array, "B D A V"],
    candidates: Int[Array, "B A M"],
    weight: Float[Array, "B D A"] | None = None,
    thoughts: Int[Array, "B D A T"] | None = None,
) -> Predictions:
    shape = logprobs.shape[:3]
    return Predictions(
        jnp.take_along_axis(logprobs, candidates[:, None], -1),
        jnp.zeros(shape, logprobs.dtype) if weight is None else weight.astype(logprobs.dtype),
        jnp.zeros((*shape, 0), jnp.int32) if thoughts is None else thoughts,
    )


def _widened(thoughts: Int[Array, "B D A T"], size: int) -> Array:
    return jnp.pad(thoughts, ((0, 0),) * 3 + ((0, size - thoughts.shape[-1]),), constant_values=-1)
