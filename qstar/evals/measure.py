"""What an evaluation is made of: a measure has items, evaluates a model on them in batches, and sums its rows up.

A subject answers in up to three ways: `none`, without thoughts; `greedy`, with the most likely thoughts; `sampled`,
with thoughts drawn at the method's temperature, once or several times. A row is one item answered in one way (and,
where thoughts are drawn, with one draw): a flat dict with the same columns for every item of the measure.
`evals/suite.py` has the loop over batches, the journal that makes it resumable, and the files.
"""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import jax
import numpy as np

from qstar import settings
from qstar.data.tokenizer import Tokenizer
from qstar.evals import intervals
from qstar.files import Json
from qstar.policy import Policy
from qstar.typing import Float, Key, Keys

NONE, GREEDY, SAMPLED = WAYS = ("none", "greedy", "sampled")
NAMES = {NONE: "none", GREEDY: "likeliest", SAMPLED: "sampled"}  # for readers, in a column `thoughts`
PHRASES = {NONE: "no thoughts", GREEDY: "likeliest thoughts", SAMPLED: "sampled thoughts"}  # the same elsewhere


def titled(figure: str, way: str) -> str:
    """What a figure is called for readers: `accuracy (likeliest thoughts)`."""
    return f"{figure.replace('_', ' ')} ({PHRASES.get(way, way)})"


ItemRow = Mapping[str, Json]
"""Columns every measure writes: `item` (its id), `thoughts` (a way), `draw` (from 0). The others are the measure's own:
text, numbers, truth values, or lists of numbers."""


@dataclass(frozen=True)
class Figure:
    """A number over all items, with its 95 % interval."""

    value: float
    low: float
    high: float


class Identified(Protocol):
    """An item. Its `repr` must hold all that it asks: an interrupted evaluation is recognised by it."""

    @property
    def id(self) -> str:
        """The same wherever the item appears: answers of two models are paired by it, and its thoughts drawn."""


class Measure(Protocol):
    """One table row a way, one Parquet file. Making one checks everything that can be wrong with its items."""

    name: str  # of the task, in tables and as a file name
    items: Sequence[Identified]

    def lengths(self, tokenizer: Tokenizer) -> Sequence[int]:
        """Tokens of each item, what may be written after it included: what the model's context has to hold."""

    def batches(self) -> Sequence[Sequence[int]]:
        """Which items are asked together, every item once; always the same for the same measure."""

    def ask(self, subject: Policy, ways: tuple[str, ...], index: Sequence[int], key: Key) -> list[ItemRow]:
        """Rows of one batch in all these ways, thoughts of an item drawn by `item_keys`.

        `key` is that of the evaluation, the same for every batch.
        """

    def figures(self, rows: Sequence[ItemRow]) -> dict[str, Figure]:
        """All rows of one way as figures. Names are table columns; none ends in _low or _high."""


class Evaluation(Protocol):
    """A frozen dataclass that says which questions are evaluated, and how."""

    every: int  # steps between evaluations during training; 0: only before and after
    thoughts: tuple[str, ...]  # ways of answering
    overlong: str  # questions that are longer than the model can read: error, or skip

    def measures(self, tokenizer: Tokenizer) -> Sequence[Measure]:
        """Raises FileNotFoundError and ValueError where the questions are not there or bad."""


def item_keys(key: Key, items: Sequence[Identified]) -> Key:
    """A key for every item that depends on `key` and its id alone, whatever is asked beside it: [len(items)]."""
    ids = np.asarray([zlib.crc32(item.id.encode()) for item in items], np.uint32)
    return _folded(key, ids)


_folded = jax.jit(jax.vmap(jax.random.fold_in, in_axes=(None, 0)))


def sample_keys(keys: Keys, samples: int) -> Keys:
    """[items] -> [items * samples]; the first ones are the same however many there are."""
    by_item = jax.vmap(lambda key: jax.vmap(jax.random.fold_in, (None, 0))(key, np.arange(samples)))(keys)
    return by_item.reshape(-1)


def check(cfg: Evaluation) -> None:
    """Raise ValueError for what every evaluation's configuration has, where it is out of range."""
    settings.check(cfg, "eval")
    wrong = [way for way in cfg.thoughts if way not in WAYS]
    if wrong or not cfg.thoughts or len(set(cfg.thoughts)) != len(cfg.thoughts):
        raise ValueError(f"eval.thoughts = {list(cfg.thoughts)}: choose from {', '.join(WAYS)}, each once")


# --- figures ------------------------------------------------------------------------------------------------------


def per_item(rows: Sequence[ItemRow], column: str) -> Float[np.ndarray, "n"]:
    """A column as numbers, one an item in the order of their first rows: the mean over its draws."""
    by_item: dict[str, list[float]] = {}
    for row in rows:
        by_item.setdefault(row["item"], []).append(float(row[column]))
    return np.asarray([np.mean(values) for values in by_item.values()])


def mean(rows: Sequence[ItemRow], column: str) -> Figure:
    """Mean over items; bootstrap over items."""
    values = per_item(rows, column)
    return Figure(float(values.mean()), *intervals.bootstrap(values, seed=0))


def share(rows: Sequence[ItemRow], column: str) -> Figure:
    """Share of items where a truth value holds: Wilson's interval, or a bootstrap over items of several draws each."""
    values = per_item(rows, column)
    if len(values) != len(rows):
        return mean(rows, column)
    return Figure(float(values.mean()), *intervals.wilson(int(values.sum()), len(values)))


def ratio(rows: Sequence[ItemRow], numerator: str, denominator: str) -> Figure:
    """Sum of one column over the sum of another, as in nats per token; bootstrap over items."""
    above, below = per_item(rows, numerator), per_item(rows, denominator)
    return Figure(float(above.sum() / below.sum()), *intervals.bootstrap_ratio(above, below, seed=0))
