"""Perplexity and bits per byte of documents, with and without thoughts.

A document is cut into windows that overlap by some tokens, and every token but the document's first is scored once, in
the first window that has it after another token: log p(token | the tokens before it in the window). Predictions after
thoughts are normalised distributions. Of several thoughts before a token the probabilities are averaged, which is the
model's own p(token) = E over thoughts of p(token | thought), estimated without bias.

    nats per token  = - sum of log p / scored tokens;   perplexity = exp of it
    bits per byte   = - sum of log2 p / UTF-8 bytes of the decoded document, those of its first token left out
"""

import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np

from qstar.data import pipeline
from qstar.data.overlong import OVERLONG
from qstar.data.pipeline import TextConfig
from qstar.data.tokenizer import Tokenizer
from qstar.evals import measure
from qstar.evals.measure import GREEDY, NONE, Figure, ItemRow
from qstar.methods.protocol import Method
from qstar.models.definition import Definition
from qstar.ops import rows as padding
from qstar.ops import vocabulary
from qstar.ops.chunk import slice_size
from qstar.policy import Policy
from qstar.settings import Count, Decay, OneOf, Range, Whole
from qstar.structs import ROWS, Batch, Context, Text
from qstar.thoughts.thinking import Thinks
from qstar.typing import Array, Float, Int, Key, Keys, Params

SPLITS = (*pipeline.SPLITS, "all")


@dataclass(frozen=True)
class PerplexityEval:
    """The likelihood of text: documents as `data=text` reads them."""

    paths: tuple[str, ...]  # text or JSONL files, or folders of them
    field: str = "text"  # field of a JSONL line; several are joined by "+"
    separator: str = TextConfig.separator  # the line between two documents of a plain-text file
    # heldout: the documents that training with this heldout_fraction does not see; train; all
    split: Annotated[str, OneOf(SPLITS)] = "all"
    heldout_fraction: Decay = 0.0  # share of the documents kept out of training
    items: Count = 100  # number of documents, from the first of the split
    document_tokens: Annotated[int, Range(2)] = 2048  # tokens of a document, from its first
    length: Annotated[int, Range(2)] = 256  # tokens in a window
    overlap: Count = 1  # tokens of a window that the previous one has scored already: the minimal context of a token
    batch_size: Count = 4  # windows in a batch
    every: Whole = 0  # steps between evaluations during training; 0: only before and after
    thoughts: tuple[str, ...] = ("none", "greedy")  # before every token: none, greedy (likeliest thoughts), sampled
    # windows longer than the model's context: error, or skip (their documents are left out and counted)
    overlong: Annotated[str, OneOf(OVERLONG)] = "error"
    num_thoughts: Count = 1  # sampled thoughts before every token, whose probabilities are averaged
    cache_dir: str = ""  # folder for the prepared text

    def __post_init__(self):
        for name in ("paths", "thoughts"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        measure.check(self)
        if (self.split == "heldout") != (self.heldout_fraction > 0) and self.split != "train":
            raise ValueError(
                f"eval.split = {self.split!r} with eval.heldout_fraction = {self.heldout_fraction}: held-out documents "
                "are those of a fraction above 0, and `all` knows none; give both, as the training run had it"
            )
        if not 1 <= self.overlap < self.length:
            raise ValueError(
                f"eval.overlap = {self.overlap}: expected 1 to eval.length - 1 = {self.length - 1}, because a window "
                "has to score tokens, and after some context"
            )

    def measures(self, tokenizer: Tokenizer) -> list["Likelihood"]:
        """Raises FileNotFoundError where a path is missing, ValueError where there is no document."""
        text = TextConfig(
            self.paths,
            self.field,
            self.separator,
            length=self.length,
            heldout_fraction=self.heldout_fraction,
            cache_dir=self.cache_dir,
        )
        corpus = pipeline.load_corpus(text, tokenizer, "heldout" if self.split == "heldout" else "train", "eval.paths")
        count = min(len(corpus.starts) - 1, self.items)
        if count == 0:
            raise ValueError(
                f"eval.split = {self.split!r} of {', '.join(self.paths)} has no document of two tokens or more: give "
                "more text or another eval.heldout_fraction"
            )
        cut = (corpus.document(i)[: self.document_tokens].tolist() for i in range(count))
        documents = (Document(f"{self.split}-{number}", tuple(ids)) for number, ids in enumerate(cut))
        return [Likelihood("perplexity", tuple(documents), self)]


@dataclass(frozen=True)
class Document:
    id: str
    tokens: tuple[int, ...]

    def size(self, tokenizer: Tokenizer) -> int:
        """UTF-8 bytes of its text but for the first token's; all of them after a begin-of-text token.

        A first token that is part of a character only counts as the three bytes of the replacement character.
        """
        if tokenizer.begin and self.tokens[:1] == tokenizer.begin:
            return len(tokenizer.decode(self.tokens[1:]).encode())
        whole, first = tokenizer.decode(self.tokens), tokenizer.decode(self.tokens[:1])
        return len(whole.encode()) - len(first.encode())


@dataclass(frozen=True)
class Window:
    """Tokens of a document from `start`; those from `scored` on (counted within the document) are scored."""

    document: int
    start: int
    scored: int
    tokens: tuple[int, ...]


def windows(tokens: Sequence[int], length: int, overlap: int, document: int = 0) -> Iterator[Window]:
    """Windows of up to `length` tokens, each beginning `overlap` tokens before the first that it scores."""
    scored = 1
    while scored < len(tokens):
        start = max(scored - overlap, 0)
        yield Window(document, start, scored, tuple(tokens[start : start + length]))
        scored = start + length


@dataclass(frozen=True)
class Likelihood:
    """A measure (`evals.measure.Measure`) whose items are documents."""

    name: str
    items: tuple[Document, ...]
    cfg: PerplexityEval

    def lengths(self, tokenizer: Tokenizer) -> list[int]:
        """Of the longest window of each."""
        return [min(len(item.tokens), self.cfg.length) for item in self.items]

    def batches(self) -> list[list[int]]:
        """Documents of similar length, as many together as fill a batch with windows."""
        batches: list[list[int]] = []
        room = 0
        for i in sorted(range(len(self.items)), key=lambda i: (-len(self.items[i].tokens), i)):
            if room <= 0:
                batches.append([])
                room = self.cfg.batch_size
            batches[-1].append(i)
            room -= sum(1 for _ in self._windows(i))
        return batches

    def _windows(self, i: int) -> Iterator[Window]:
        return windows(self.items[i].tokens, self.cfg.length, self.cfg.overlap, i)

    def ask(self, subject: Policy, ways: tuple[str, ...], index: Sequence[int], key: Key) -> list[ItemRow]:
        """Thoughts drawn in a window depend on `key`, the document's id and the window's start alone.

        A row has the log-prob of every scored token, without a thought as well: what a thought did to each token.
        """
        keys = dict(zip(index, measure.item_keys(key, [self.items[i] for i in index]), strict=True))
        asked = [window for i in index for window in self._windows(i)]
        asked.sort(key=lambda window: -len(window.tokens))  # short ones share a narrower batch
        by_window: dict[tuple[int, int], dict[str, np.ndarray]] = {}
        for begin in range(0, len(asked), self.cfg.batch_size):
            batch = asked[begin : begin + self.cfg.batch_size]
            drawn = [jax.random.fold_in(keys[window.document], window.start) for window in batch]
            logprobs = self._logprobs(subject, ways, batch, drawn)
            for row, window in enumerate(batch):
                counted = slice(window.scored - window.start - 1, len(window.tokens) - 1)
                by_window[window.document, window.start] = {
                    way: values[row, counted] for way, values in logprobs.items()
                }
        return [
            self._row(subject, i, way, [by_window[i, window.start] for window in self._windows(i)])
            for i in index
            for way in ways
        ]

    def _logprobs(
        self, subject: Policy, ways: tuple[str, ...], batch: Sequence[Window], keys: Sequence[Key]
    ) -> dict[str, np.ndarray]:
        """Log-prob of each window's next tokens by way, `none` always among them."""
        cfg = subject.definition.abstract_model.lm.cfg
        texts = [window.tokens for window in batch]
        padding.check(texts, cfg.vocab, cfg.max_len)
        filled = [texts[min(i, len(texts) - 1)] for i in range(self.cfg.batch_size)]
        keys = jnp.stack([keys[min(i, len(keys) - 1)] for i in range(self.cfg.batch_size)])
        width, widest = padding.bucket(len(texts[0])), padding.bucket(self.cfg.length)
        # Three distributions a thought are alive at once. The draws are by slice, so its size depends on no batch.
        of_one = subject.method.thinking.candidates if isinstance(subject.method, Thinks) else 1
        fitting = slice_size(widest, 3 * self.cfg.num_thoughts * of_one * cfg.vocab)
        at_once = 1 << (fitting.bit_length() - 1)  # a power of two, so that it divides the width
        logprobs = jax.device_get(
            _scores(
                subject.method,
                subject.definition,
                subject.params,
                padding.padded(filled, width),
                keys,
                tuple(way for way in ways if way != NONE),
                self.cfg.num_thoughts,
                min(at_once, width),
            )
        )
        if any(np.isnan(values[: len(batch)]).any() for values in logprobs.values()):
            raise ValueError("the prediction is not a number: the model's parameters have diverged")
        return logprobs

    def _row(self, subject: Policy, i: int, way: str, logprobs: Sequence[dict[str, np.ndarray]]) -> ItemRow:
        document = self.items[i]
        without, values = (
            np.concatenate([window[name] for window in logprobs]).astype(np.float64) for name in (NONE, way)
        )
        nats = -float(values.sum())
        return {
            "item": document.id,
            "thoughts": way,
            "draw": 0,
            "tokens": len(values),
            "bytes": document.size(subject.tokenizer),
            "nats": nats,
            "bits": nats / math.log(2),
            "ids": list(document.tokens[1:]),
            "logprobs": values.tolist(),
            "logprobs_none": without.tolist(),
        }

    def figures(self, rows: Sequence[ItemRow]) -> dict[str, Figure]:
        """`nll` in nats per token, `perplexity`, `bits_per_byte`; bootstraps over documents."""
        nll = measure.ratio(rows, "nats", "tokens")
        perplexity = Figure(*(math.exp(value) for value in (nll.value, nll.low, nll.high)))
        return {"nll": nll, "perplexity": perplexity, "bits_per_byte": measure.ratio(rows, "bits", "bytes")}


def gains(rows: Sequence[ItemRow]) -> Float[np.ndarray, "n"]:
    """What thoughts added to the log-prob of every token of these rows, in nats: for a histogram."""
    return np.concatenate([np.asarray(row["logprobs"]) - np.asarray(row["logprobs_none"]) for row in rows])


# --- arrays -------------------------------------------------------------------------------------------------------


@functools.partial(jax.jit, static_argnames=("method", "definition", "ways", "num_thoughts", "at_once"))
def _scores(
    method: Method,
    definition: Definition,
    params: Params,
    batch: Batch,
    keys: Keys,
    ways: tuple[str, ...],
    num_thoughts: int,
    at_once: int,
) -> dict[str, Float[Array, "B S"]]:
    """Log-prob of the token after every position, `none` and by way; at the end of a row it means nothing.

    The text is read once; thoughts are worked through `at_once` positions of every row at a time, of which only the
    log-probs of the true tokens are kept.
    """
    model = definition.bind(params)
    lm = model.lm
    text = lm.text(batch)
    following = jnp.roll(batch.tokens, -1, axis=1)
    logprobs = {NONE: vocabulary.logprobs(lm.logits, text.hidden, following, 1, lm.cfg.vocab)}
    for way in ways:
        one_row = functools.partial(_row_scores, method, model, way, num_thoughts, at_once)
        logprobs[way] = jax.vmap(one_row, (ROWS.text, 0, 0, 0))(text, batch, following, keys)
    return logprobs


def _row_scores(
    method: Thinks,
    model,
    way: str,
    num_thoughts: int,
    at_once: int,
    text: Text,
    batch: Batch,
    following: Int[Array, "S"],
    key: Key,
) -> Float[Array, "S"]:
    """The same of one row after thoughts."""
    text = jax.tree.map(jnp.expand_dims, text, ROWS.text)
    batch = jax.tree.map(lambda leaf: leaf[None], batch)

    def one_slice(slice):
        anchors, number = slice
        slice_key = jax.random.fold_in(key, number)
        count = 1 if way == GREEDY else num_thoughts
        context = Context(text, batch, anchors[None])
        prediction = method.think(model, context, slice_key, way == GREEDY, count)[1]
        targets = jnp.broadcast_to(following[anchors][None, :, None], (count, at_once, 1))
        logprobs = jnp.take_along_axis(prediction.mixed[0], targets, -1)[..., 0]
        return jax.nn.logsumexp(logprobs, axis=0) - math.log(count)

    anchors = jnp.arange(following.shape[0]).reshape(-1, at_once)
    return jax.lax.map(one_slice, (anchors, jnp.arange(len(anchors)))).reshape(-1)
