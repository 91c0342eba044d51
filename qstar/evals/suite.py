"""Evaluations by name: which questions, answered in which ways, as rows of one table and rows of items on disk."""

import dataclasses
import functools
import hashlib
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Protocol, runtime_checkable

import jax
import numpy as np

from qstar import settings
from qstar.data.overlong import OVERLONG
from qstar.data.tokenizer import Tokenizer
from qstar.evals import measure
from qstar.evals.choices import ChoiceTexts
from qstar.evals.measure import GREEDY, NONE, WAYS, Evaluation, Figure, ItemRow, Measure
from qstar.evals.probability import Direct
from qstar.files import JsonObject
from qstar.methods.protocol import Method
from qstar.models.definition import Definition
from qstar.policy import Policy
from qstar.settings import Count, OneOf, Whole
from qstar.tasks import commonsense_qa, cups, gsm8k
from qstar.tasks.items import Item
from qstar.tasks.problem import Problem
from qstar.thoughts.thinking import Thinks
from qstar.typing import Key, Params

if TYPE_CHECKING:
    from qstar.evals.journal import Journal

GSM8K_SPLITS = gsm8k.SPLITS
EVAL_SEED = 20_240_318  # which questions are chosen; the same for every run


@runtime_checkable
class HasTexts(Protocol):
    """An evaluation whose questions, with their answers, are texts to read for thoughts."""

    def texts(self, count: int) -> list[str]: ...


@dataclass(frozen=True)
class CupsEval:
    """Held-out problems of the cups task; the answer's probability is renormalised over the five places."""

    items: Count = 500  # questions
    batch_size: Count = 100  # questions answered in one batch
    every: Whole = 0  # steps between evaluations during training; 0: only before and after
    thoughts: tuple[str, ...] = ("none", "greedy")  # ways of answering: none, greedy (likeliest thoughts), sampled
    draws: Count = 1  # sampled thoughts for each item, whose results are averaged
    min_moves: Count = 6  # of a problem
    max_moves: Count = 8  # of a problem
    # questions longer than the model's context: error, or skip (left out and counted)
    overlong: Annotated[str, OneOf(OVERLONG)] = "error"
    # `dev` for choices, `test` for the numbers that are reported
    split: Annotated[str, OneOf(("dev", "test"))] = "test"

    def __post_init__(self):
        object.__setattr__(self, "thoughts", tuple(self.thoughts))
        measure.check(self)
        cups.check_moves(self.min_moves, self.max_moves, "eval")

    def measures(self, tokenizer: Tokenizer) -> list[Measure]:
        return [Direct("cups", _cups_items(self, tokenizer), self.batch_size, self.draws)]

    def problems(self, count: int | None = None) -> list[Problem]:
        """So many questions, else `items`; one that is drawn twice is two."""
        rng = np.random.default_rng(EVAL_SEED)
        task = cups.CupsConfig(self.min_moves, self.max_moves)
        games = [cups.draw(task, rng, self.split) for _ in range(count or self.items)]
        return [game.problem(f"{number}-{game.question}") for number, game in enumerate(games)]

    def texts(self, count: int) -> list[str]:
        return [f"{problem.question}{problem.answer}" for problem in self.problems(count)]


@dataclass(frozen=True)
class QuestionsEval:
    """GSM8K and CommonsenseQA, zero-shot direct, as Quiet-STaR scores them; folders as in `data/builders.py`."""

    gsm8k: str = field(default_factory=lambda: data_folder("gsm8k"))  # a folder; empty: leave out
    commonsense_qa: str = field(default_factory=lambda: data_folder("commonsenseqa"))  # a folder; empty: leave out
    choice_texts: bool = True  # compare the likelihoods of the choices' texts as well (task commonsense_qa_text)
    items: Count = 100  # of each, the first ones of the shuffled split
    batch_size: Count = 8  # texts read at once
    every: Whole = 10  # steps between evaluations during training; 0: only before and after
    thoughts: tuple[str, ...] = ("none", "greedy")  # ways of answering: none, greedy (likeliest thoughts), sampled
    draws: Count = 1  # sampled thoughts for each item, whose results are averaged
    # questions longer than the model's context: error, or skip (left out and counted)
    overlong: Annotated[str, OneOf(OVERLONG)] = "error"
    gsm8k_split: Annotated[str, OneOf(GSM8K_SPLITS)] = "test"  # of GSM8K

    def __post_init__(self):
        object.__setattr__(self, "thoughts", tuple(self.thoughts))
        measure.check(self)

    def measures(self, tokenizer: Tokenizer) -> list[Measure]:
        """Raises FileNotFoundError where a folder or its file is missing, ValueError for a file with bad records."""
        from qstar.data import builders  # here: its libraries take a second to import

        check_folders(gsm8k=self.gsm8k, commonsense_qa=self.commonsense_qa)
        bos = next(iter(tokenizer.begin), None)
        measures = []
        if self.gsm8k:
            rows = numbered(builders.gsm8k(self.gsm8k, self.gsm8k_split), self.gsm8k_split, self.items)
            measures.append(self._direct("gsm8k", gsm8k.direct(rows, tokenizer, bos=bos)))
        if self.commonsense_qa:
            rows = numbered(builders.commonsense_qa(self.commonsense_qa, "dev"), "dev", self.items)
            measures.append(self._direct("commonsense_qa", commonsense_qa.direct(rows, tokenizer, bos=bos)))
            if self.choice_texts:
                texts = tuple(commonsense_qa.texts(rows, tokenizer, bos=bos))
                measures.append(ChoiceTexts("commonsense_qa_text", texts, self.batch_size, self.draws))
        return measures

    def _direct(self, name: str, items: Sequence[Item]) -> Direct:
        return Direct(name, tuple(items), self.batch_size, self.draws)


@dataclass(frozen=True)
class NoEval:
    """No questions. What recipes set for theirs is accepted, and idle, so that `eval=none` works with any recipe."""

    items: Whole = 0  # idle
    batch_size: Count = 1  # idle
    every: Whole = 0  # idle
    thoughts: tuple[str, ...] = ("none",)  # idle
    overlong: Annotated[str, OneOf(OVERLONG)] = "error"  # idle

    def __post_init__(self):
        object.__setattr__(self, "thoughts", tuple(self.thoughts))
        settings.check(self, "eval")

    def measures(self, tokenizer: Tokenizer) -> list[Measure]:
        return []


def data_folder(name: str) -> str:
    """Where this data set lies below QSTAR_DATA."""
    return f"{os.environ.get('QSTAR_DATA', '')}/{name}"


def check_folders(**folders: str) -> None:
    """Raise FileNotFoundError where a folder of questions, by the name of its setting, is none.

    Not for __post_init__: a trained run may be opened where its questions are absent.
    """
    for name, folder in folders.items():
        if folder and not os.path.isdir(folder):
            raise FileNotFoundError(
                f"eval.{name} = {folder!r} is not a folder: set QSTAR_DATA to the folder that holds gsm8k/ and "
                f"commonsenseqa/, give eval.{name}=FOLDER, leave it out with eval.{name}=, or use eval=none"
            )


def numbered(rows: Sequence[dict], split: str, count: int) -> list[dict]:
    """The first `count` rows of the shuffled split, each with its place in the file as its id."""
    order = np.random.default_rng(EVAL_SEED).permutation(len(rows))
    return [{"id": f"{split}-{i}", **rows[i]} for i in order[:count]]


@functools.lru_cache(maxsize=1)  # the arms of a run share their questions
def _cups_items(cfg: CupsEval, tokenizer: Tokenizer) -> tuple[Item, ...]:
    return tuple(cups_item(problem, tokenizer) for problem in cfg.problems())


def cups_item(problem: Problem, tokenizer: Tokenizer) -> Item:
    """A problem as an item: the token after the question is scored, among the five places.

    Raises ValueError for a tokenizer that does not write every place after a question as one token of its own.
    """
    text = problem.question + problem.answer
    ids = tuple(tokenizer.encode_whole(text))
    written = [tokenizer.encode_whole(f"{problem.question}{place}") for place in range(1, cups.NUMBER_OF_CUPS + 1)]
    places = tuple(sorted({by_place[-1] for by_place in written}))
    if len(places) != len(written) or any(tuple(by_place[:-1]) != ids[:-1] for by_place in written):
        raise ValueError(
            f"this tokenizer does not write each place after {problem.question!r} as one token of its own (it gives "
            f"{written}): the cups task needs one that does, such as that of model=tiny"
        )
    last = len(ids) - 2
    return Item(text, ids, last + 1, (last,), (ids[-1],), places, problem.answer, 0, problem.id, problem.question)


# --- the table ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """One task, answered in one way."""

    task: str
    thoughts: bool
    way: str  # none, greedy, sampled
    draws: int  # thoughts drawn for each item, 1 unless sampled
    n: int  # items
    figures: dict[str, Figure]

    @property
    def accuracy(self) -> float:
        """Share of right answers, where the measure has one."""
        return self.figures["accuracy"].value

    @property
    def probability(self) -> float:
        """Of the true answer, renormalised over the valid ones: the paper's "accuracy"."""
        return self.figures["probability"].value

    @property
    def nll(self) -> float:
        """Of the true answer under the whole vocabulary, nats."""
        return self.figures["nll"].value


def as_dict(row: Row) -> JsonObject:
    """One flat level: a figure f is f, f_low and f_high."""
    figures = {}
    for name, figure in row.figures.items():
        figures |= {name: figure.value, f"{name}_low": figure.low, f"{name}_high": figure.high}
    named = {name: getattr(row, name) for name in ("task", "thoughts", "way", "draws", "n")}
    return named | figures


FIELDS = {"task": str, "thoughts": bool, "n": int}  # of what `as_dict` makes


def from_dict(flat: JsonObject) -> Row:
    """A row out of what `as_dict` made of it, or an earlier version, which had no ways and no interval of the nll."""
    way = flat.get("way", GREEDY if flat["thoughts"] else NONE)
    figures = {
        name: Figure(flat[name], flat.get(f"{name}_low", math.nan), flat.get(f"{name}_high", math.nan))
        for name in figures_of(flat)
    }
    return Row(flat["task"], flat["thoughts"], way, flat.get("draws", 1), flat["n"], figures)


def figures_of(flat: JsonObject) -> list[str]:
    """The names of the figures in what `as_dict` made."""
    return [name for name in flat if f"{name}_low" in flat or name == "nll"]


# --- asking -------------------------------------------------------------------------------------------------------

Divide = Callable[[int, Callable[[int], list[ItemRow]]], list[list[ItemRow]]]
"""The results of a function for every number below another, in their order; several processes may divide the work."""


def undivided(count: int, action: Callable[[int], list[ItemRow]]) -> list[list[ItemRow]]:
    return [action(number) for number in range(count)]


class Evaluator:
    """Asks a method's model the questions of a configuration."""

    def __init__(self, cfg: Evaluation, method: Method, definition: Definition, tokenizer: Tokenizer):
        self.cfg = cfg
        self._method, self._definition, self._tokenizer = method, definition, tokenizer
        ways = tuple(way for way in WAYS if way in cfg.thoughts)
        self._ways = ways if isinstance(method, Thinks) else (NONE,)
        self._measures = list(cfg.measures(tokenizer))

    @property
    def idle(self) -> bool:
        """Whether there is nothing to ask, as with eval=none."""
        return not self._measures

    def fit(self) -> dict[str, list[str]]:
        """Leave out the questions that are longer than the model can read, where the configuration says so.

        Returns their ids by task. Raises ValueError that names them where `overlong` is error, and where none is left.
        """
        limit = self._definition.abstract_model.lm.cfg.max_len
        left: dict[str, list[str]] = {}
        for number, task in enumerate(self._measures):
            lengths = list(task.lengths(self._tokenizer))
            longer = {i: length for i, length in enumerate(lengths) if length > limit}
            if longer and (self.cfg.overlong == "error" or len(longer) == len(lengths)):
                named = ", ".join(f"{task.items[i].id} ({length} tokens)" for i, length in list(longer.items())[:5])
                raise ValueError(
                    f"{task.name}: {len(longer)} of {len(lengths)} questions need more than the {limit} tokens that "
                    f"the model was built for: {named}{', ...' if len(longer) > 5 else ''}; shorten them, let less be "
                    "written after them, use a model with a longer context, or leave them out with eval.overlong=skip"
                )
            if longer:
                left[task.name] = [task.items[i].id for i in longer]
                kept = tuple(item for i, item in enumerate(task.items) if i not in longer)
                self._measures[number] = dataclasses.replace(task, items=kept)
        return left

    def __call__(
        self,
        params: Params,
        key: Key,
        progress: Callable[[int, int], None] | None = None,
        folder: Path | None = None,
        divide: Divide = undivided,
    ) -> list[Row]:
        """Rows for every task and every way in which the method can answer.

        Args:
            key: draws the thoughts.
            progress: told (items done, items in all) at the beginning and after every batch.
            folder: takes a journal of the items' rows while they are asked, and a Parquet file for every task at the
                end. What it holds already is not asked again.
            divide: the batches, over processes.

        Raises ValueError where the folder holds answers of another evaluation, or a prediction is not a number.
        """
        subject = Policy(self._method, self._definition, params, self._tokenizer)
        journals = self._journals(folder, subject, key)
        asked = _Asked(progress, sum(len(task.items) for task in self._measures))
        table = []
        for task, journal in zip(self._measures, journals, strict=True):
            rows = self._rows(task, subject, key, asked, journal, divide)
            table += [self._row(task, way, [row for row in rows if row["thoughts"] == way]) for way in self._ways]
        return table

    def _rows(
        self, task: Measure, subject: Policy, key: Key, asked: "_Asked", journal: "Journal | None", divide: Divide
    ) -> list[ItemRow]:
        """Rows of all items, in their order."""
        if journal is not None and journal.rows is not None:
            asked.more(len(task.items))
            return journal.rows
        batches, known = task.batches(), {} if journal is None else journal.batches
        end = asked.done + len(task.items)

        def ask(number: int) -> list[ItemRow]:
            if number not in known:
                batch = task.ask(subject, self._ways, batches[number], key)
                if journal is not None:
                    journal.append(number, batch)
            asked.more(len(batches[number]))
            return known[number] if number in known else batch

        rows = [row for batch in divide(len(batches), ask) for row in batch]
        if asked.done < end:  # the others were asked by other processes
            asked.more(end - asked.done)
        place = {item.id: i for i, item in enumerate(task.items)}
        rows.sort(key=lambda row: (place[row["item"]], WAYS.index(row["thoughts"]), row["draw"]))
        if journal is not None:
            journal.finish(rows)
        return rows

    def _row(self, task: Measure, way: str, rows: Sequence[ItemRow]) -> Row:
        draws = 1 + max(row["draw"] for row in rows)
        return Row(task.name, way != NONE, way, draws, len(task.items), task.figures(rows))

    def _journals(self, folder: Path | None, subject: Policy, key: Key) -> "list[Journal | None]":
        from qstar.evals.journal import Journal  # here: it imports Parquet

        if folder is None:
            return [None] * len(self._measures)
        # All are opened before the first question is asked.
        return [
            Journal(folder, task.name, self._identity(task, subject.digest, key), jax.process_index())
            for task in self._measures
        ]

    def _identity(self, task: Measure, weights: str, key: Key) -> JsonObject:
        asked = {"class": type(self.cfg).__name__, **dataclasses.asdict(self.cfg)}
        del asked["every"]  # of training
        asked.pop("overlong", None)  # which questions were asked follows from the items themselves
        return {
            "task": task.name,
            "eval": asked,
            "method": {"class": type(self._method).__name__, **dataclasses.asdict(self._method)},
            "weights": weights,
            "questions": hashlib.sha256(repr(task.items).encode()).hexdigest()[:16],
            "key": jax.random.key_data(key).tolist(),
        }


class _Asked:
    """Items that are done, told to a progress bar."""

    def __init__(self, progress: Callable[[int, int], None] | None, total: int):
        self._progress, self.done, self._total = progress, 0, total
        self.more(0)

    def more(self, count: int) -> None:
        self.done += count
        if self._progress is not None:
            self._progress(self.done, self._total)
