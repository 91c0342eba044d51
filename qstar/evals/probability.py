"""Quiet-STaR's zero-shot score: the probability of the true answer, letter by letter or digit by digit.

For every scored token the model's distribution is restricted to the item's valid tokens and renormalised; an item's
score is the product over its scored tokens, newline included, and the paper's "accuracy" is the mean of these products.
It rewards calibration: a model whose arg-max is always wrong still scores. So exact match by arg-max is reported too.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from qstar.data.tokenizer import Tokenizer
from qstar.evals import measure, predictions
from qstar.evals.measure import Figure, ItemRow
from qstar.evals.predictions import Predictions, Query
from qstar.policy import Policy
from qstar.tasks.items import Item
from qstar.typing import Bool, Float, Int, Key, typed


@dataclass(frozen=True)
class Scores:
    """Of one item, an entry for each way and draw."""

    score: Float[np.ndarray, "D"]  # product of renormalised probabilities of the scored tokens
    exact: Bool[np.ndarray, "D"]  # the most probable valid token is the true one at every scored position
    loglik: Float[np.ndarray, "D"]  # log-probability of the scored tokens under the whole vocabulary, nats


@dataclass(frozen=True)
class Direct:
    """The measure. One kind of question: all items have the same valid tokens.

    Rows: question, answer, prediction (the most probable valid tokens, each given the true ones before it), score,
    exact, loglik, weight (mixing weight, mean over scored tokens), thought (before the first scored token), cut (tokens
    of the question left out).

    Raises ValueError for no items, items of different valid sets, an item without scored tokens.
    """

    name: str
    items: tuple[Item, ...]
    batch_size: int
    draws: int = 1

    def __post_init__(self):
        if not self.items:
            raise ValueError(f"{self.name}: no items to score")
        kinds = {item.valid for item in self.items}
        if len(kinds) != 1:
            raise ValueError(
                f"{self.name}: items of {len(kinds)} different valid sets {sorted(kinds)[:2]}: score them apart"
            )
        empty = next((item for item in self.items if not item.anchors), None)
        if empty is not None:
            raise ValueError(
                f"{self.name}: item {empty.text[-80:]!r} has no token to score: none of its answer is in the valid set"
            )

    def lengths(self, tokenizer: Tokenizer) -> list[int]:
        return [len(item.ids) for item in self.items]

    def batches(self) -> list[list[int]]:
        size = min(self.batch_size, len(self.items))
        return predictions.partition([len(item.ids) for item in self.items], size)

    def ask(self, subject: Policy, ways: tuple[str, ...], index: Sequence[int], key: Key) -> list[ItemRow]:
        items = [self.items[i] for i in index]
        predicted = predictions.ask(
            subject,
            ways,
            [Query(item.ids, item.anchors, [item.valid] * len(item.anchors)) for item in items],
            measure.item_keys(key, items),
            batch_size=min(self.batch_size, len(self.items)),
            anchors=max(len(item.anchors) for item in self.items),
            draws=self.draws,
        )
        labels = predictions.labels(ways, self.draws)
        return [row for b, item in enumerate(items) for row in _rows(item, predicted, b, labels, subject.tokenizer)]

    def figures(self, rows: Sequence[ItemRow]) -> dict[str, Figure]:
        loglik = measure.mean(rows, "loglik")
        return {
            "accuracy": measure.share(rows, "exact"),
            "probability": measure.mean(rows, "score"),
            "nll": Figure(-loglik.value, -loglik.high, -loglik.low),
        }


def _rows(
    item: Item, predicted: Predictions, b: int, labels: Sequence[tuple[str, int]], tokenizer: Tokenizer
) -> list[ItemRow]:
    """Rows of the item in row b of a batch."""
    scored = len(item.anchors)
    logprobs_DAM = predicted.logprobs[b, :, :scored].astype(np.float64)
    true = np.searchsorted(item.valid, item.targets)
    scores = score(logprobs_DAM, true)
    guesses = np.asarray(item.valid)[logprobs_DAM.argmax(axis=-1)]
    return [
        {
            "item": item.id,
            "thoughts": way,
            "draw": draw,
            "question": item.question,
            "answer": item.gold,
            # What comes after the first newline is not part of the answer.
            "prediction": tokenizer.decode(guesses[d].tolist()).strip(" ").partition("\n")[0],
            "score": float(scores.score[d]),
            "exact": bool(scores.exact[d]),
            "loglik": float(scores.loglik[d]),
            "weight": float(predicted.weight[b, d, :scored].mean()),
            "thought": thought(predicted, b, d, tokenizer),
            "cut": item.cut,
        }
        for d, (way, draw) in enumerate(labels)
    ]


def thought(predicted: Predictions, b: int, d: int, tokenizer: Tokenizer) -> str:
    """The thought at the first anchor of row b; "" without one."""
    return tokenizer.decode([token for token in predicted.thoughts[b, d, 0].tolist() if token >= 0])


@typed
def score(logprobs_DAM: Float[np.ndarray, "D A M"], true: Int[np.ndarray, "A"]) -> Scores:
    """Scores of one item; `true` is the place of the true token among the M valid ones at each of its A scored ones."""
    chosen = np.take_along_axis(logprobs_DAM, true[None, :, None], axis=-1)[..., 0]
    among_valid = chosen - np.logaddexp.reduce(logprobs_DAM, axis=-1)
    hit = logprobs_DAM.argmax(axis=-1) == true
    return Scores(np.exp(among_valid.sum(axis=-1)), hit.all(axis=-1), chosen.sum(axis=-1))
