"""Quiet-STaR's zero-shot score: the probability of the true answer, letter by letter or digit by digit.

For every scored token the model's distribution is restricted to the item's valid tokens and renormalised; an item's
score is the product over its scored tokens, newline included, and the paper's "accuracy" is the mean of these products.
It rewards calibration: a model whose arg-max is always wrong still scores. So exact match by arg-max stands beside it.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import numpy as np

from qstar.evals import intervals
from qstar.structs import Batch
from qstar.tasks.items import Item
from qstar.typing import Array, Bool, Float, Int, typed

BUCKETS = (64, 128, 256)


class Predict(Protocol):
    """Natural-log probabilities, under the whole vocabulary, of the M candidates as the token after each anchor."""

    def __call__(
        self, batch: Batch, anchors: Int[np.ndarray, "B A"], candidates: Int[np.ndarray, "M"]
    ) -> Float[Array, "B A M"] | Float[np.ndarray, "B A M"]: ...


@dataclasses.dataclass(frozen=True)
class Scores:
    """Arrays have one entry an item, in the order given."""

    score: Float[np.ndarray, "n"]  # product of renormalised probabilities of the scored tokens
    exact: Bool[np.ndarray, "n"]  # the most probable valid token is the true one at every scored position
    loglik: Float[np.ndarray, "n"]  # log-probability of the scored tokens under the whole vocabulary, nats
    cut: int  # items whose question was shortened to the limit

    @property
    def n(self) -> int:
        return len(self.score)

    @property
    def mean(self) -> float:
        """The paper's "accuracy"."""
        return float(self.score.mean())

    @property
    def accuracy(self) -> float:
        """Share of exact matches."""
        return float(self.exact.mean())

    @property
    def mean_interval(self) -> tuple[float, float]:
        """95 %, percentile bootstrap over items with a fixed seed."""
        return intervals.bootstrap(self.score, seed=0)

    @property
    def accuracy_interval(self) -> tuple[float, float]:
        """95 %, Wilson."""
        return intervals.wilson(int(self.exact.sum()), self.n)


@dataclasses.dataclass(frozen=True)
class _Padded:
    """Items as one batch of fixed shape; rows beyond len(index) repeat the last item and are ignored."""

    index: list[int]  # of the items among all
    batch: Batch
    anchors: Int[np.ndarray, "B A"]
    choice: Int[np.ndarray, "B A"]  # place of the true token among the candidates
    scored: Bool[np.ndarray, "B A"]  # False: padding


def evaluate(
    items: Sequence[Item],
    predict: Predict,
    batch_size: int,
    pad_id: int,
    buckets: Sequence[int] = BUCKETS,
    progress: Callable[[int, int], None] | None = None,
) -> Scores:
    """Score every item. `predict` sees one shape per bucket: [batch_size, width] with the same number of anchors.

    Args:
        buckets: widths that items are padded to, each to the smallest that holds it.
        progress: called with (items done, items in all) after every batch.

    Raises:
        ValueError: no items, items of different valid sets, an item without scored tokens or longer than every bucket,
            a prediction that is not a number.
    """
    candidates = _common_candidates(items)
    score, loglik = np.zeros(len(items)), np.zeros(len(items))
    exact = np.zeros(len(items), np.bool_)
    done = 0
    for padded in _batches(items, candidates, batch_size, pad_id, buckets):
        logprobs = np.asarray(predict(padded.batch, padded.anchors, candidates), np.float64)
        row = _score(logprobs, padded.choice, padded.scored)
        real = slice(len(padded.index))
        score[padded.index], exact[padded.index], loglik[padded.index] = (
            row.score[real],
            row.exact[real],
            row.loglik[real],
        )
        done += len(padded.index)
        if progress is not None:
            progress(done, len(items))
    return Scores(score, exact, loglik, sum(item.cut > 0 for item in items))


@typed
def _score(
    logprobs_BAM: Float[np.ndarray, "B A M"], choice: Int[np.ndarray, "B A"], scored: Bool[np.ndarray, "B A"]
) -> Scores:
    if np.isnan(logprobs_BAM[scored]).any():
        raise ValueError("the prediction is not a number at a scored position: the model's parameters have diverged")
    true = np.take_along_axis(logprobs_BAM, choice[..., None], axis=-1)[..., 0]
    among_valid = true - np.logaddexp.reduce(logprobs_BAM, axis=-1)
    total = np.where(scored, among_valid, 0.0).sum(axis=-1)
    hit = (logprobs_BAM.argmax(axis=-1) == choice) | ~scored
    return Scores(np.exp(total), hit.all(axis=-1), np.where(scored, true, 0.0).sum(axis=-1), cut=0)


def _common_candidates(items: Sequence[Item]) -> Int[np.ndarray, "M"]:
    if not items:
        raise ValueError("no items to score")
    kinds = {item.valid for item in items}
    if len(kinds) != 1:
        raise ValueError(f"items of {len(kinds)} different valid sets {sorted(kinds)[:2]}: score each task on its own")
    empty = next((item for item in items if not item.anchors), None)
    if empty is not None:
        raise ValueError(f"item {empty.text[-80:]!r} has no token to score: none of its answer is in the valid set")
    return np.asarray(items[0].valid, np.int32)


def _batches(
    items: Sequence[Item], candidates: np.ndarray, batch_size: int, pad_id: int, buckets: Sequence[int]
) -> Iterator[_Padded]:
    longest = max(len(item.ids) for item in items)
    if longest > max(buckets):
        raise ValueError(
            f"an item has {longest} tokens, the widest bucket {max(buckets)}: add a bucket or lower the limit"
        )
    anchors = max(len(item.anchors) for item in items)
    lower = 0
    for width in sorted(buckets):
        inside = [i for i, item in enumerate(items) if lower < len(item.ids) <= width]
        for start in range(0, len(inside), batch_size):
            index = inside[start : start + batch_size]
            rows = [items[i] for i in index] + [items[index[-1]]] * (batch_size - len(index))
            yield _pad(index, rows, candidates, width, anchors, pad_id)
        lower = width


def _pad(
    index: list[int], rows: Sequence[Item], candidates: np.ndarray, width: int, anchors: int, pad_id: int
) -> _Padded:
    real = np.arange(width) < np.asarray([[len(item.ids)] for item in rows])
    tokens = np.asarray([[*item.ids, *[pad_id] * (width - len(item.ids))] for item in rows], np.int32)
    position = np.where(real, np.arange(width), 0).astype(np.int32)
    # Padded anchors repeat the last one: in range, and a position that thinks anyway.
    where = [[*item.anchors, *[item.anchors[-1]] * (anchors - len(item.anchors))] for item in rows]
    where = np.asarray(where, np.int32)
    target = np.take_along_axis(tokens, where + 1, axis=1)
    scored = np.arange(anchors) < np.asarray([[len(item.anchors)] for item in rows])
    choice = np.searchsorted(candidates, target).astype(np.int32)
    return _Padded(index, Batch(tokens, real, real.astype(np.int32), position), where, choice, scored)
