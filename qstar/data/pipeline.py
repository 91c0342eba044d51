"""Documents to batches of windows: the only home of grain.

Everything is random access: batch k is a function of (seed, k) alone, so a resumed run, another mesh or another
number of hosts sees the same data, and the state of an iterator is one number. Two ways of cutting windows:

crop   a random window of every document in every epoch, documents weigh the same whatever their length (Quiet-STaR)
pack   all documents end to end, cut into full windows; every token is seen once an epoch
"""

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Protocol

import jax
import numpy as np

from qstar import settings
from qstar.data.dataset import Data, RandomAccess
from qstar.settings import Decay, OneOf, Range
from qstar.structs import Batch
from qstar.tasks.lines import SEPARATOR
from qstar.typing import Int, typed

if TYPE_CHECKING:  # grain and the builders take a second to import: they are, where data is read
    import grain

WINDOWS = ("crop", "pack")
SPLITS = ("train", "heldout")
SHUFFLE_LIMIT = 2**31  # grain permutes 32-bit indices
ENDLESS = 2**48  # rows; grain's own infinity overflows when batches hold one row


class Encoder(Protocol):
    """The part of a tokenizer that is needed here."""

    @property
    def ends(self) -> Sequence[int]: ...

    def encode_whole(self, text: str) -> list[int]: ...


@dataclasses.dataclass(frozen=True)
class TextConfig(Data):
    """Which text, and how windows are cut from it."""

    paths: tuple[str, ...]  # text or JSONL files, or folders of them
    field: str = "text"  # of a JSONL line; several joined by "+": "question+answer"
    separator: str = SEPARATOR  # the line between two documents of a plain-text file
    # How windows are cut: a random one of every document, or all documents end to end.
    window: Annotated[str, OneOf(WINDOWS)] = "crop"
    length: Annotated[int, Range(2)] = 256  # tokens in a window
    end_of_text: bool = False  # the tokenizer's end-of-text token follows every document
    heldout_fraction: Decay = 0.0  # share of the documents kept out of split "train"
    cache_dir: str = ""  # of the prepared data; empty: QSTAR_CACHE, else ~/.cache/qstar

    def __post_init__(self):
        object.__setattr__(self, "paths", tuple(self.paths))  # OmegaConf hands over a list, which cannot be hashed
        settings.check(self, "data")
        if not self.paths:
            raise ValueError("data.paths is empty: name at least one text file, JSONL file or folder")

    def files(self) -> Sequence[Path]:
        from qstar.data import builders

        return builders.text_files(self.paths)

    def build(self, tokenizer: Encoder, batch_size: int, seed: int, say: Callable[[str], None] = print) -> RandomAccess:
        return text_dataset(self, tokenizer, batch_size, seed, pad_id=0)

    def held_out(self, tokenizer: Encoder, training: RandomAccess, batch_size: int, seed: int) -> Batch:
        """Of the documents kept out of training; where none are, a batch that training does not reach."""
        if not self.heldout_fraction:
            return super().held_out(tokenizer, training, batch_size, seed)
        return text_dataset(self, tokenizer, batch_size, seed, pad_id=0, split="heldout")[0]


@dataclasses.dataclass(frozen=True)
class Corpus:
    """Tokenised documents, end to end: document d is tokens[starts[d] : starts[d + 1]]."""

    tokens: np.ndarray  # Int32 [total]
    starts: np.ndarray  # Int64 [documents + 1]

    def document(self, index: int) -> np.ndarray:
        return self.tokens[self.starts[index] : self.starts[index + 1]]


def is_heldout(text: bytes, fraction: float) -> bool:
    """Decided by the document's own bytes: adding, dropping or reordering other documents changes nothing."""
    return int.from_bytes(hashlib.sha256(text).digest()[:8]) < fraction * 2**64


def load_corpus(cfg: TextConfig, tokenizer: Encoder, split: str = "train", key: str = "data.paths") -> Corpus:
    """The tokens of the documents of `split`, "train" or "heldout"; those of fewer than two tokens are left out.

    Where the tokenizer puts a begin-of-text token before texts, every document begins with it; with `end_of_text` it
    ends with the first of the tokenizer's end-of-text tokens.

    Raises FileNotFoundError where a path is not there, with `key`, the setting that names it; ValueError for
    `end_of_text` with a tokenizer that has no such token.
    """
    from qstar.data import builders

    if split not in SPLITS:
        raise ValueError(f"split is {split!r}, expected one of {', '.join(SPLITS)}")
    for path in cfg.paths:
        if not Path(path).exists():
            raise FileNotFoundError(f"{key}: {path} does not exist (looked in {Path.cwd()}); name a file or folder")
    if cfg.end_of_text and not tokenizer.ends:
        raise ValueError("data.end_of_text=true: this tokenizer has no end-of-text token; leave it false")
    end = list(tokenizer.ends[:1]) if cfg.end_of_text else []
    source = builders.prepare_text(cfg.paths, cfg.cache_dir or None, cfg.field, cfg.separator)
    texts = (record["text"] for record in source)
    texts = (text for text in texts if is_heldout(text, cfg.heldout_fraction) == (split == "heldout"))
    rows = [np.asarray([*_encoded(text.decode(), tokenizer, key), *end], np.int32) for text in texts]
    rows = [row for row in rows if len(row) > 1]
    starts = np.cumsum([0, *map(len, rows)], dtype=np.int64)
    return Corpus(np.concatenate(rows) if rows else np.zeros(0, np.int32), starts)


def _encoded(text: str, tokenizer: Encoder, key: str) -> list[int]:
    """The tokens of a document; an error shows how it begins, which finds it in any of the files."""
    try:
        return tokenizer.encode_whole(text)
    except ValueError as error:
        raise ValueError(f"{key}: the document that begins with {text[:40]!r}: {error}") from error


# --- windows ------------------------------------------------------------------------------------------------------


@typed
def pad_row(tokens: Int[np.ndarray, "_"], length: int, pad_id: int) -> Batch:
    """One document's tokens as a row [length]; what is padded has segment 0 and does not count."""
    real = np.arange(length) < len(tokens)
    padded = np.full(length, pad_id, np.int32)
    padded[: len(tokens)] = tokens
    return Batch(padded, real, real.astype(np.int32), np.where(real, np.arange(length), 0).astype(np.int32))


def crop(corpus: Corpus, length: int, pad_id: int, index: int, rng: np.random.Generator) -> Batch:
    """A uniformly random window of document `index`."""
    tokens = corpus.document(index)
    start = rng.integers(max(len(tokens) - length, 0) + 1)
    return pad_row(tokens[start : start + length], length, pad_id)


def packed(corpus: Corpus, length: int, index: int) -> Batch:
    """Window `index` of the corpus laid end to end.

    A document cut by the window's edge starts again in the next window, at segment 1 and position 0: there it cannot
    see what came before.
    """
    where = np.arange(index * length, (index + 1) * length)
    document = np.searchsorted(corpus.starts, where, side="right") - 1
    position = where - np.maximum(corpus.starts[document], where[0])
    segment = document - document[0] + 1
    return Batch(corpus.tokens[where], np.ones(length, np.bool_), segment.astype(np.int32), position.astype(np.int32))


def stack(rows: Sequence[Batch]) -> Batch:
    return jax.tree.map(lambda *leaves: np.stack(leaves), *rows)


# --- batches ------------------------------------------------------------------------------------------------------


def text_dataset(
    cfg: TextConfig, tokenizer: Encoder, batch_size: int, seed: int, pad_id: int, split: str = "train"
) -> "grain.MapDataset":
    """dataset[k] is the Batch [B S] of step k, for every k: reshuffled each epoch, without end."""
    import grain

    corpus = load_corpus(cfg, tokenizer, split)
    count = len(corpus.starts) - 1 if cfg.window == "crop" else len(corpus.tokens) // cfg.length
    if count == 0:
        raise ValueError(
            f"split '{split}' of {', '.join(cfg.paths)} has no usable window: {len(corpus.tokens)} tokens in "
            f"{len(corpus.starts) - 1} documents, window '{cfg.window}' of {cfg.length} tokens, heldout_fraction "
            f"{cfg.heldout_fraction}; give more text, a shorter length or another fraction"
        )
    order = grain.MapDataset.source(range(count)).seed(seed).shuffle()
    if cfg.window == "crop":
        rows = order.random_map(functools.partial(crop, corpus, cfg.length, pad_id))
    else:
        rows = order.map(functools.partial(packed, corpus, cfg.length))
    return _batched(rows, batch_size)


def text_batches(
    cfg: TextConfig, tokenizer: Encoder, batch_size: int, seed: int, pad_id: int, split: str = "train"
) -> "grain.DatasetIterator":
    """Endless Batches [B S] of numpy leaves. The documents are tokenised once, when this is called.

    The iterator's state is the number of the next batch; orbax checkpoints it as it is.
    Raises ValueError where the split holds no window, and what `builders.prepare_text` raises.
    """
    return iterate(text_dataset(cfg, tokenizer, batch_size, seed, pad_id, split))


class _Endless:
    """Gives a length to a source without one."""

    def __init__(self, source: RandomAccess):
        self.source = source

    def __len__(self) -> int:
        return ENDLESS

    def __getitem__(self, index: int) -> Batch:
        return self.source[index]


def source_dataset(source: RandomAccess, batch_size: int, seed: int | None = None) -> "grain.MapDataset":
    """dataset[k] is the Batch [B S] of step k, for every k, of a generated task or a list of rows.

    source[i] is a Batch of numpy leaves [S]. Rows come in the order of the source. With a seed they are shuffled in
    another order in every epoch; that needs a length.
    """
    import grain

    if not hasattr(source, "__len__"):
        if seed is not None:
            raise ValueError(f"{type(source).__name__} has no length and cannot be shuffled: pass seed=None")
        return _batched(grain.MapDataset.source(_Endless(source)), batch_size)
    if not 0 < len(source) <= SHUFFLE_LIMIT:
        raise ValueError(f"{type(source).__name__} has {len(source)} rows, expected 1 to {SHUFFLE_LIMIT}")
    rows = grain.MapDataset.source(source)
    rows = rows if seed is None else rows.seed(seed).shuffle()
    return _batched(rows, batch_size)


def source_batches(source: RandomAccess, batch_size: int, seed: int | None = None) -> "grain.DatasetIterator":
    """Endless batches of `source_dataset`."""
    return iterate(source_dataset(source, batch_size, seed))


def _batched(rows: "grain.MapDataset", batch_size: int) -> "grain.MapDataset":
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}, expected at least 1")
    return rows.repeat(ENDLESS // len(rows)).batch(batch_size, batch_fn=stack)


def iterate(dataset: "grain.MapDataset") -> "grain.DatasetIterator":
    """Batches in order, made by one thread while the device works; four are kept ready."""
    import grain

    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=4)
    return iter(dataset.to_iter_dataset(options))
