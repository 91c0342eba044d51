"""Texts that end a row, found in the decoded text, wherever the borders of tokens fall."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

Decode = Callable[[Sequence[int]], str]


@dataclass(frozen=True)
class Ending:
    """Where a row ends."""

    count: int  # tokens up to the one with which a stop text is complete
    text: str  # before the stop text
    stop: str  # that ended it


def first(decode: Decode, ids: Sequence[int], stop: Sequence[str], seen: int = 0) -> Ending | None:
    """The end of the shortest beginning of the row whose text holds a stop text; None where there is none.

    Of several stop texts in it the first to begin counts, and of those that begin together the longest. The first
    `seen` tokens are known to hold none. Text must grow with the tokens, but for a character at its end that is not
    complete: so it is with byte-level and SentencePiece decoders.
    """
    if not _found(decode(ids), stop):
        return None
    for count in range(seen + 1, len(ids) + 1):
        text = decode(ids[:count])
        found = _found(text, stop)
        if found:
            at, length = found
            return Ending(count, text[:at], text[at : at + length])
    return None


def _found(text: str, stop: Sequence[str]) -> tuple[int, int] | None:
    """Place and length of the first stop text."""
    found = [(text.find(one), -len(one)) for one in stop]
    at, length = min(((at, length) for at, length in found if at >= 0), default=(-1, 0))
    return (at, -length) if at >= 0 else None


class Watcher:
    """Keeps the endings of the rows of a batch while it is written (`write.Watch`)."""

    def __init__(self, decode: Decode, stop: Sequence[str], stop_ids: Sequence[int], rows: int):
        self.decode, self.stop, self.stop_ids = decode, stop, frozenset(stop_ids)
        self.endings: list[Ending | None] = [None] * rows
        self._seen = [0] * rows

    def __call__(self, tokens: np.ndarray, count: np.ndarray) -> np.ndarray:
        for row, ending in enumerate(self.endings):
            if ending is None:
                ids = without_stop(tokens[row, : count[row]].tolist(), self.stop_ids)
                self.endings[row] = first(self.decode, ids, self.stop, self._seen[row])
                self._seen[row] = len(ids)
        return np.array([ending is not None for ending in self.endings])


def without_stop(ids: list[int], stop_ids: frozenset[int]) -> list[int]:
    """The tokens before the one that ended the row."""
    return ids[:-1] if ids and ids[-1] in stop_ids else ids
