"""Rows of generated text: row i of a source is a function of (seed, i) and of nothing else."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from qstar.data import pipeline
from qstar.data.dataset import Data, RandomAccess
from qstar.data.pipeline import Encoder
from qstar.settings import Count
from qstar.structs import Batch
from qstar.tasks import cups


@dataclass(frozen=True)
class CupsText(cups.CupsConfig, Data):
    """Text of the cups task. `answers_only` counts, in the loss, only what follows the question, and without `closing`
    not the semicolon at its end: then the answer to unworked problems is all that counts."""

    length: Count = 96  # tokens in a row, filled with as many whole problems as fit
    answers_only: bool = False  # count, in the loss, only what follows the question
    closing: bool = True  # with answers_only: the semicolon after the answer counts too

    def __post_init__(self):
        super().__post_init__()
        longest = self.max_moves + 4  # start, moves, =, answer, ;
        if self.worked:
            longest += self.max_moves + self.padding + 2  # workings between dashes
        if self.length < longest:
            raise ValueError(f"data.length = {self.length}: a problem takes up to {longest} tokens")

    def build(self, tokenizer: Encoder, batch_size: int, seed: int, say: Callable[[str], None] = print) -> RandomAccess:
        return pipeline.source_dataset(cups_rows(self, tokenizer.encode_whole, seed), batch_size)


@dataclass(frozen=True)
class GeneratedRows:
    """A random-access source of windows packed with whole short documents.

    `document(rng)` draws the text of one document, `encode` turns it into ids. A row holds as many documents as fit
    into `length` tokens, numbered from 1; the rest is padding. Where `uncounted` is given, the tokens of a document up
    to and including that id do not count in the loss, nor does the last one without `closing`.
    """

    document: Callable[[np.random.Generator], str]
    encode: Callable[[str], list[int]]
    length: int
    seed: int
    uncounted: int | None = None
    closing: bool = True

    def __getitem__(self, index: int) -> Batch:
        rng = np.random.default_rng((self.seed, index))
        documents, used = [], 0
        while True:
            ids = self.encode(self.document(rng))
            if used + len(ids) > self.length:
                return pack_row(documents, self.length, self.uncounted, self.closing)
            documents.append(ids)
            used += len(ids)


def cups_rows(cfg: CupsText, encode: Callable[[str], list[int]], seed: int) -> GeneratedRows:
    uncounted = encode("=")[-1] if cfg.answers_only else None
    return GeneratedRows(lambda rng: cups.example(cfg, rng), encode, cfg.length, seed, uncounted, cfg.closing)


def pack_row(documents: list[list[int]], length: int, uncounted: int | None = None, closing: bool = True) -> Batch:
    """Documents one after another in one row [S] of numpy leaves."""
    sizes = [len(document) for document in documents]
    padding = length - sum(sizes)
    tokens = np.concatenate([*documents, np.zeros(padding, int)]).astype(np.int32)
    segment = np.repeat([*range(1, len(sizes) + 1), 0], [*sizes, padding]).astype(np.int32)
    position = np.concatenate([np.arange(size) for size in (*sizes, padding)]).astype(np.int32)
    counted = [np.arange(len(ids)) > (ids.index(uncounted) if uncounted is not None else -1) for ids in documents]
    if not closing:
        counted = [counts & (np.arange(len(counts)) < len(counts) - 1) for counts in counted]
    mask = np.concatenate([*counted, np.zeros(padding, bool)])
    return Batch(tokens, mask, segment, position)
