"""A method and a model whose predictions are known, for tests of what is made of them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from qstar.data import tokenizer as tokenizers
from qstar.policy import Policy
from qstar.structs import Text
from qstar.tasks import cups
from qstar.thoughts.fill import Inner
from qstar.thoughts.predict import Prediction
from qstar.thoughts.thinking import Thinking

CUPS = tokenizers.characters(cups.ALPHABET)


class Weights:
    """A model that is its parameters."""

    def bind(self, params):
        return Model(params)


@dataclasses.dataclass
class Model:
    params: dict

    @property
    def lm(self):
        return self

    def text(self, batch):
        return text_of(batch)


def text_of(batch):
    """A text whose hidden states are its tokens, and which has neither keys nor values."""
    rows, size = batch.tokens.shape
    found = {field.name: jnp.zeros((1, rows, size)) for field in dataclasses.fields(Text)}
    found |= {"hidden": batch.tokens[..., None], "position": batch.position}
    return Text(**{field.name: found[field.name] for field in dataclasses.fields(Text)})


@dataclasses.dataclass(frozen=True)
class Table:
    """Does not think: predicts params["table"][first token of the row, anchor]."""

    def predict(self, model, batch, anchors):
        return jnp.log(model.params["table"][batch.tokens[:, :1], anchors])


@dataclasses.dataclass(frozen=True)
class Fixed:
    """Predicts the distribution `plain` of its parameters, and `thought` behind a thought of the tokens 3, 4.

    Sampled, a thought moves the prediction by noise of its key.
    """

    forbidden: tuple[str, ...] = ()

    @property
    def thinking(self):
        return Thinking(2, num_thoughts=1, lookahead=1, mix="hidden", temperature=1.0, score_temperature=1.0)

    def think(self, model, context, key, greedy, num_thoughts=1):
        shape = (*context.anchors.shape, model.params["plain"].shape[-1])
        mixed = jnp.broadcast_to(jnp.log(model.params["thought"]), (shape[0], num_thoughts, *shape[1:]))
        if not greedy:
            mixed = jax.nn.log_softmax(mixed + jax.random.normal(key, mixed.shape))
        tokens = jnp.broadcast_to(jnp.array([3, 4]), (*mixed.shape[:3], 2))
        plain = jnp.broadcast_to(jnp.log(model.params["plain"]), shape)
        return Inner(jnp.zeros((*tokens.shape, 1)), tokens), Prediction(plain, mixed, jnp.full(mixed.shape[:3], 0.25))


def distribution(*first, size=19):
    """Probabilities of the first few tokens, the rest shared by the others."""
    return jnp.asarray([*first, *[(1 - sum(first)) / (size - len(first))] * (size - len(first))])


PARAMS = {"plain": distribution(0.2, 0.1, 0.1, 0.05, 0.05), "thought": distribution(0.1, 0.6, 0.1, 0.1, 0.05)}


def subject(method=None, params=PARAMS, tokenizer=CUPS):
    return Policy(Fixed() if method is None else method, Weights(), params, tokenizer)


def table(entries, size=10):
    """params of `Table`: by (first token, anchor), the probabilities of some tokens."""
    found = np.full((size, 64, size), 1e-9)
    for (first, anchor), probabilities in entries.items():
        for token, probability in probabilities.items():
            found[first, anchor, token] = probability
    return {"table": jnp.asarray(found)}
