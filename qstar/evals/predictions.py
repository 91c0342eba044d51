"""Log-probs behind chosen positions in every way of answering, from one pass over the text.

Without a thought, with the likeliest and with sampled thoughts: the keys and hidden states of the text are computed
once, and one program is compiled for each shape.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from qstar.evals.measure import GREEDY, NONE, SAMPLED
from qstar.methods.protocol import Method
from qstar.models.definition import Definition
from qstar.structs import Batch, Text
from qstar.thoughts.predict import Thinks
from qstar.typing import Array, Float, Int, Key, Params


def labels(ways: tuple[str, ...], draws: int) -> list[tuple[str, int]]:
    """(way, draw) behind the second axis of `predictions`."""
    return [(way, draw) for way in ways for draw in range(draws if way == SAMPLED else 1)]


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
) -> Float[Array, "B D A M"]:
    """Log-probs, under the whole vocabulary, of M candidate tokens behind each anchor.

    D counts `labels(ways, draws)`. `keys` has one key a row (`measure.item_keys`): a row's sampled thoughts depend on
    its key alone, but for shuffled thoughts, which are dealt among the rows. A method that does not think is asked in
    the way `none` only.
    """
    model = definition.bind(params)

    def at_candidates(logprobs: Array) -> Array:
        return jnp.take_along_axis(logprobs, candidates if logprobs.ndim == 3 else candidates[:, None], -1)

    if not isinstance(method, Thinks):
        found = method.predict(model, batch, anchors, keys[0], think=False, greedy=True)
        return at_candidates(found)[:, None]
    text = model.lm.text(batch)
    asked = [_way(way, method, model, text, batch, anchors, keys, draws) for way in ways]
    return jnp.concatenate([at_candidates(logprobs) for logprobs in asked], 1)


def _way(
    way: str, method: Thinks, model: Any, text: Text, batch: Batch, anchors: Array, keys: Key, draws: int
) -> Float[Array, "B R A V"]:
    if way == NONE:
        # Of this thought only the prediction without it is used: the compiler drops the rest.
        return method.think(model, text, batch, anchors, keys[0], True)[1].base[:, None]
    if way == GREEDY:
        return method.think(model, text, batch, anchors, keys[0], True)[1].mixed
    if getattr(method, "fill", None) == "shuffled":
        return method.think(model, text, batch, anchors, keys[0], False, draws)[1].mixed

    def one_row(text: Text, batch: Batch, anchors: Array, key: Key) -> Array:
        text = jax.tree.map(lambda leaf, axis: jnp.expand_dims(leaf, axis), text, _ROWS)
        batch, anchors = jax.tree.map(lambda leaf: leaf[None], (batch, anchors))
        return method.think(model, text, batch, anchors, key, False, draws)[1].mixed[0]

    return jax.vmap(one_row, in_axes=(_ROWS, 0, 0, 0))(text, batch, anchors, keys)


_ROWS = Text(hidden=0, key=1, value=1)  # the axis that counts the texts
