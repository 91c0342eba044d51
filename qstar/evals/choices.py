"""Choosing by likelihood: the answer whose text the model finds most likely after the question.

For each choice the text "Q: {question}\\nA: {choice}" is read, without the choices listed before. Its log-likelihood
is the sum of the log-probs of all tokens after the last ":", under the whole vocabulary. `accuracy` picks the largest
sum; sums favour short answers, so `accuracy_per_byte` picks the largest sum divided by the choice's bytes in UTF-8.
`probability` is the softmax of the sums at the true choice.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import numpy as np

from qstar.data.tokenizer import Tokenizer
from qstar.evals import measure, predictions
from qstar.evals.measure import Figure, ItemRow
from qstar.evals.predictions import Predictions, Query
from qstar.evals.probability import thought
from qstar.policy import Policy
from qstar.tasks.items import Choices
from qstar.typing import Key


@dataclass(frozen=True)
class ChoiceTexts:
    """The measure. Rows: question, answer, prediction, prediction_per_byte, exact, exact_per_byte, score, logliks (of
    each choice, nats), weight (mixing weight, mean over the true choice's tokens), thought (before its first token).

    Raises ValueError for no items, items of different numbers of choices.
    """

    name: str
    items: tuple[Choices, ...]
    batch_size: int  # texts read at once
    draws: int = 1

    def __post_init__(self):
        if not self.items:
            raise ValueError(f"{self.name}: no items to score")
        if len({len(item.choices) for item in self.items}) != 1:
            raise ValueError(f"{self.name}: the items have different numbers of choices: score them apart")
        empty = next((item for item in self.items if not all(item.choices)), None)
        if empty is not None:
            raise ValueError(f"{self.name}: item {empty.id} ({empty.question[:60]!r}) has a choice without text")

    @property
    def _questions(self) -> int:
        """How many are asked at once."""
        return max(1, min(self.batch_size // len(self.items[0].choices), len(self.items)))

    def lengths(self, tokenizer: Tokenizer) -> list[int]:
        return [max(map(len, item.ids)) for item in self.items]

    def batches(self) -> list[list[int]]:
        return predictions.partition([max(map(len, item.ids)) for item in self.items], self._questions)

    def ask(self, subject: Policy, ways: tuple[str, ...], index: Sequence[int], key: Key) -> list[ItemRow]:
        items, num_choices = [self.items[i] for i in index], len(self.items[0].choices)
        keys = jax.vmap(jax.random.split, in_axes=(0, None))(measure.item_keys(key, items), num_choices)
        predicted = predictions.ask(
            subject,
            ways,
            [query for item in items for query in _queries(item)],
            keys.reshape(-1),
            batch_size=self._questions * num_choices,
            anchors=max(len(anchors) for item in self.items for anchors in item.anchors),
            draws=self.draws,
        )
        rows = []
        for b, item in enumerate(items):
            texts = jax.tree.map(lambda leaf, b=b: leaf[b * num_choices : (b + 1) * num_choices], predicted)
            rows += _rows(item, texts, predictions.labels(ways, self.draws), subject.tokenizer)
        return rows

    def figures(self, rows: Sequence[ItemRow]) -> dict[str, Figure]:
        return {
            "accuracy": measure.share(rows, "exact"),
            "accuracy_per_byte": measure.share(rows, "exact_per_byte"),
            "probability": measure.mean(rows, "score"),
        }


def _queries(item: Choices) -> list[Query]:
    """The text of each choice, and the tokens that are to be predicted in it."""
    return [
        Query(ids, anchors, [[ids[a + 1]] for a in anchors])
        for ids, anchors in zip(item.ids, item.anchors, strict=True)
    ]


def _rows(
    item: Choices, predicted: Predictions, labels: Sequence[tuple[str, int]], tokenizer: Tokenizer
) -> list[ItemRow]:
    """Rows of one item; `predicted` has a row per choice."""
    real = np.arange(predicted.logprobs.shape[2]) < np.asarray([[len(anchors)] for anchors in item.anchors])
    sums = np.where(real[:, None], predicted.logprobs[..., 0].astype(np.float64), 0.0).sum(axis=-1)
    return [
        {
            "item": item.id,
            "thoughts": way,
            "draw": draw,
            **_picked(item, sums[:, d]),
            "weight": float(predicted.weight[item.gold, d][real[item.gold]].mean()),
            "thought": thought(predicted, item.gold, d, tokenizer),
        }
        for d, (way, draw) in enumerate(labels)
    ]


def _picked(item: Choices, logliks: np.ndarray) -> ItemRow:
    per_byte = logliks / [len(choice.encode()) for choice in item.choices]
    picked, picked_per_byte = int(logliks.argmax()), int(per_byte.argmax())
    return {
        "question": item.question,
        "answer": item.choices[item.gold],
        "prediction": item.choices[picked],
        "prediction_per_byte": item.choices[picked_per_byte],
        "exact": picked == item.gold,
        "exact_per_byte": picked_per_byte == item.gold,
        "score": float(np.exp(logliks[item.gold] - np.logaddexp.reduce(logliks))),
        "logliks": logliks.tolist(),
    }
