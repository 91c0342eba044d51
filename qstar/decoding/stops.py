"""Texts that end a row, found in the decoded text, wherever the borders of tokens fall."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from qstar.typing import Int

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
    if not _first_stop(decode(ids), stop):
        return None
    for count in range(seen + 1, len(ids) + 1):
        text = decode(ids[:count])
        place = _first_stop(text, stop)
        if place:
            at, length = place
            return Ending(count, text[:at], text[at : at + length])
    return None


def _first_stop(text: str, stop: Sequence[str]) -> tuple[int, int] | None:
    """Place and length of the first stop text."""
    places = [(text.find(stop_text), -len(stop_text)) for stop_text in stop]
    at, length = min(((at, length) for at, length in places if at >= 0), default=(-1, 0))
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


# --- on the device ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Automaton:
    """Which tokens may complete one of some texts, as a table that a compiled loop can look up (Aho and Corasick 1975).

    A state is the longest end of the text so far with which one of the texts begins; the last one says that a text is
    complete. What a token adds is taken as the text that it decodes to by itself: a character of several tokens is not
    seen. The decoded text has the last word.
    """

    table: Int[np.ndarray, "S V"]  # state and token -> state
    beginnings: tuple[str, ...]  # of the states but the last; the first is ""

    @property
    def complete(self) -> int:
        return len(self.beginnings)

    def state(self, text: str) -> int:
        """After a text, whose complete texts are over."""
        return next(i for i in _longest_first(self.beginnings) if text.endswith(self.beginnings[i]))


def automaton(pieces: Sequence[str], texts: Sequence[str], ids: Sequence[int] = ()) -> Automaton:
    """Of texts, and of tokens that are an end by themselves.

    Args:
        pieces: what every token of the vocabulary adds to a text.
    """
    beginnings = tuple(dict.fromkeys(["", *(text[:size] for text in texts for size in range(1, len(text)))]))
    steps: dict[tuple[int, str], int] = {}
    for state, beginning in enumerate(beginnings):
        for character in set("".join(texts)):
            steps[state, character] = _after(beginning + character, beginnings, texts)
    used = {character for _, character in steps}
    table = np.zeros((len(beginnings) + 1, len(pieces)), np.int32)
    for token, piece in enumerate(pieces):
        if used.isdisjoint(piece):
            continue
        for start in range(len(beginnings)):
            state = start
            for character in piece:
                state = steps.get((state, character), 0)
                if state == len(beginnings):
                    break
            table[start, token] = state
    table[-1] = table[:, list(ids)] = len(beginnings)
    return Automaton(table, beginnings)


def _after(text: str, beginnings: tuple[str, ...], texts: Sequence[str]) -> int:
    if any(text.endswith(stop_text) for stop_text in texts):
        return len(beginnings)
    return next(i for i in _longest_first(beginnings) if text.endswith(beginnings[i]))


@functools.lru_cache(maxsize=64)
def _longest_first(beginnings: tuple[str, ...]) -> list[int]:
    return sorted(range(len(beginnings)), key=lambda i: -len(beginnings[i]))


def pieces(decode: Decode, vocab: int) -> list[str]:
    """What every token adds to a text that has begun: decoders of SentencePiece drop the space before the first."""
    first = next((id for id in range(vocab) if decode([id]).strip()), 0)
    before = len(decode([first]))
    return [decode([first, id])[before:] for id in range(vocab)]
