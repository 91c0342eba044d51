"""Evaluations by name: which questions, asked with and without thoughts, as rows of one table."""

import dataclasses
import os
from collections.abc import Callable
from dataclasses import dataclass

import jax
import numpy as np

from qstar.data import builders
from qstar.evals import probability
from qstar.methods.protocol import Method
from qstar.models.definition import Definition
from qstar.structs import Batch
from qstar.tasks import commonsense_qa, cups, gsm8k
from qstar.tasks.items import Item, Tokenizer
from qstar.typing import Params

EVAL_SEED = 20_240_318  # which questions are asked; the same for every run


@dataclass(frozen=True)
class CupsEval:
    """Held-out problems of the cups task; the answer's probability is renormalised over the five places."""

    items: int = 500
    batch_size: int = 100
    every: int = 0  # steps between evaluations during training; 0: only before and after
    greedy: bool = True  # thoughts at temperature 0, else sampled
    min_moves: int = 6
    max_moves: int = 8
    split: str = "test"  # `dev` for choices, `test` for the numbers that are reported

    def __post_init__(self):
        _check_common(self)
        if self.split not in ("dev", "test"):
            raise ValueError(f"eval.split = {self.split!r}: choose dev or test")

    def tasks(self, tokenizer: Tokenizer) -> dict[str, list[Item]]:
        return {"cups": [cups_item(problem, tokenizer) for problem in self.problems()]}

    def problems(self) -> list[cups.Problem]:
        rng = np.random.default_rng(EVAL_SEED)
        task = cups.CupsConfig(self.min_moves, self.max_moves)
        return [cups.draw(task, rng, self.split) for _ in range(self.items)]


@dataclass(frozen=True)
class QuestionsEval:
    """GSM8K and CommonsenseQA, zero-shot direct, as Quiet-STaR scores them; folders as in `data/builders.py`."""

    gsm8k: str = "${oc.env:QSTAR_DATA,''}/gsm8k"  # empty: leave out
    commonsense_qa: str = "${oc.env:QSTAR_DATA,''}/commonsenseqa"
    items: int = 100  # of each, the first ones of the shuffled split
    batch_size: int = 8
    every: int = 10
    greedy: bool = True
    gsm8k_split: str = "test"

    def __post_init__(self):
        _check_common(self)
        if self.gsm8k_split not in builders.Gsm8k.SPLITS:
            raise ValueError(
                f"eval.gsm8k_split = {self.gsm8k_split!r}: choose one of {', '.join(builders.Gsm8k.SPLITS)}"
            )

    def _check_folders(self) -> None:
        # Not in __post_init__: a trained run is opened where its questions are not.
        for name in ("gsm8k", "commonsense_qa"):
            folder = getattr(self, name)
            if folder and not os.path.isdir(folder):
                raise FileNotFoundError(
                    f"eval.{name} = {folder!r} is no folder: set QSTAR_DATA to the folder that holds gsm8k/ and "
                    f"commonsenseqa/, give eval.{name}=FOLDER, leave it out with eval.{name}=, or use eval=none"
                )

    def tasks(self, tokenizer: Tokenizer) -> dict[str, list[Item]]:
        """Raises FileNotFoundError where a folder or its file is missing."""
        self._check_folders()
        found = {}
        if self.gsm8k:
            rows = builders.gsm8k(self.gsm8k, self.gsm8k_split)
            found["gsm8k"] = gsm8k.direct(self._subset(rows), tokenizer)
        if self.commonsense_qa:
            rows = builders.commonsense_qa(self.commonsense_qa, "dev")
            found["commonsense_qa"] = commonsense_qa.direct(self._subset(rows), tokenizer)
        return found

    def _subset(self, rows: list[dict]) -> list[dict]:
        order = np.random.default_rng(EVAL_SEED).permutation(len(rows))
        return [rows[i] for i in order[: self.items]]


@dataclass(frozen=True)
class NoEval:
    """No questions."""

    every: int = 0
    greedy: bool = True
    batch_size: int = 1

    def tasks(self, tokenizer: Tokenizer) -> dict[str, list[Item]]:
        return {}


def _check_common(cfg) -> None:
    for name in ("items", "batch_size"):
        if getattr(cfg, name) < 1:
            raise ValueError(f"eval.{name} = {getattr(cfg, name)}: a positive integer is wanted")
    if cfg.every < 0:
        raise ValueError(f"eval.every = {cfg.every}: 0 (only before and after) or more is wanted")


def cups_item(problem: cups.Problem, tokenizer: Tokenizer) -> Item:
    """A problem as an item: the token behind the question is scored, among the five places.

    Raises ValueError for a tokenizer that does not write every place behind a question as one token of its own.
    """
    text = problem.question + problem.answer
    ids = tuple(tokenizer.encode(text))
    written = [tokenizer.encode(f"{problem.question}{place}") for place in range(1, cups.NUMBER_OF_CUPS + 1)]
    places = tuple(sorted({by_place[-1] for by_place in written}))
    if len(places) != len(written) or any(tuple(by_place[:-1]) != ids[:-1] for by_place in written):
        raise ValueError(
            f"this tokenizer does not write each place behind {problem.question!r} as one token of its own (it gives "
            f"{written}): the cups task needs one that does, such as that of model=tiny"
        )
    last = len(ids) - 2
    return Item(text, ids, last + 1, (last,), (ids[-1],), places, problem.answer, 0)


@dataclass(frozen=True)
class Row:
    """One task, asked in one way."""

    task: str
    thoughts: bool
    n: int
    accuracy: float  # arg-max among the valid answers
    accuracy_low: float  # 95 %, Wilson
    accuracy_high: float
    probability: float  # of the true answer, renormalised over the valid ones: the paper's "accuracy"
    probability_low: float  # 95 %, bootstrap
    probability_high: float
    nll: float  # of the true answer under the whole vocabulary, nats

    @classmethod
    def of(cls, task: str, thoughts: bool, scores: probability.Scores) -> "Row":
        accuracy, score = scores.accuracy_interval, scores.mean_interval
        return cls(task, thoughts, scores.n, scores.accuracy, *accuracy, scores.mean, *score, -scores.loglik.mean())


class Evaluator:
    """Scores a method's model on the tasks of a configuration; compiles once per shape."""

    def __init__(self, cfg, method: Method, definition: Definition, tokenizer: Tokenizer, thinks: bool):
        self.cfg, self._ways = cfg, (False, True) if thinks else (False,)
        self._tasks = cfg.tasks(tokenizer)

        def predict(params, batch, anchors, candidates, key, think):
            return method.predict(definition.bind(params), batch, anchors, key, think, cfg.greedy)[..., candidates]

        self._predict = jax.jit(predict, static_argnames="think")

    def __call__(self, params: Params, key: jax.Array, progress: Callable | None = None) -> list[Row]:
        """Rows for every task, without and (where the method thinks) with thoughts. `key` draws the thoughts."""
        return [
            Row.of(task, think, self.scores(params, key, items, think, progress))
            for task, items in self._tasks.items()
            for think in self._ways
        ]

    def scores(
        self, params: Params, key: jax.Array, items: list[Item], think: bool, progress=None
    ) -> probability.Scores:
        count = iter(range(len(items)))

        def predict(batch: Batch, anchors: np.ndarray, candidates: np.ndarray) -> np.ndarray:
            draw = jax.random.fold_in(key, next(count))
            return np.asarray(self._predict(params, batch, anchors, candidates, draw, think=think))

        buckets = (32, 64, 128, 256)
        return probability.evaluate(items, predict, min(self.cfg.batch_size, len(items)), 0, buckets, progress)


def as_dict(row: Row) -> dict:
    return dataclasses.asdict(row)
