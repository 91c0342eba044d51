"""Questions whose answer is scored token by token: the zero-shot direct protocol of Quiet-STaR.

An item is "Q: {question}\\nA: {gold}\\n" as one text, and the positions whose next token is scored. Scored are the
tokens after the last "\\nA:" that belong to a small valid set: the ten digits, or the five letters, and the newline
that ends the answer. Other tokens there (a bare space, a comma, a minus) are read but not scored.

Differs from the official code, which cuts a random window out of an item over the limit and so may lose the answer:
here such an item loses tokens from the left of its question, after "Q:", and says how many.
"""

import dataclasses
from collections.abc import Sequence
from typing import Protocol

MARKER = "\nA:"
LEAD = "Q:"
LIMIT = 256


class Tokenizer(Protocol):
    def encode(self, text: str) -> list[int]: ...
    def decode(self, ids: Sequence[int]) -> str: ...


@dataclasses.dataclass(frozen=True)
class Item:
    """One question with its answer. Positions count from 0 within `ids`."""

    text: str  # prompt, gold answer, newline; before any cut
    ids: tuple[int, ...]  # the tokens, begin-of-text included where the model has one
    prompt_len: int  # tokens up to and including the ":" of the last "\nA:"
    anchors: tuple[int, ...]  # positions whose next token is scored
    targets: tuple[int, ...]  # those next tokens: targets[i] == ids[anchors[i] + 1]
    valid: tuple[int, ...]  # the ids among which probability is renormalised, ascending
    gold: str
    cut: int  # tokens of the question left out to meet the limit
    id: str = ""  # of the question among those of its data set
    question: str = ""  # as it is asked, choices included


@dataclasses.dataclass(frozen=True)
class Choices:
    """One question whose answers are compared as texts: the same prompt followed by each choice."""

    id: str
    question: str
    choices: tuple[str, ...]
    gold: int  # place of the true one among them
    ids: tuple[tuple[int, ...], ...]  # the tokens of each text
    anchors: tuple[tuple[int, ...], ...]  # positions whose next token belongs to the choice


def render(question: str, gold: str) -> str:
    return f"{LEAD} {question}{MARKER} {gold}\n"


def valid_tokens(tokenizer: Tokenizer, answers: Sequence[str]) -> tuple[int, ...]:
    """Ids of the one-character `answers` and of the newline, as this tokenizer writes them after "A:", ascending.

    Looked up in place, because the same letter can be another token at the start of a text. Raises ValueError where an
    answer is not a token of its own there.
    """
    endings = [tokenizer.encode(render("", answer))[-2:] for answer in answers]
    ids = {token for ending in endings for token in ending}
    if len({ending[-1] for ending in endings}) != 1 or len(ids) != len(answers) + 1:
        raise ValueError(
            f"this tokenizer does not write each of {', '.join(answers)} and the newline after 'A:' as one token of "
            f"its own (it ends them with the ids {endings}); the probability score needs a tokenizer that does"
        )
    return tuple(sorted(ids))


def digit_tokens(tokenizer: Tokenizer) -> tuple[int, ...]:
    """Ids of the ten digits and the newline. Raises ValueError where longer numbers are not written digit by digit."""
    digits = "0123456789"
    valid = valid_tokens(tokenizer, digits)
    written = sum(token in valid for token in tokenizer.encode(render("", digits))[-len(digits) - 1 :])
    if written != len(valid):
        raise ValueError(
            f"this tokenizer joins digits: it writes {digits!r} and the newline with {written} of the {len(valid)} "
            "tokens of single digits; the probability score of numbers needs every digit to be a token"
        )
    return valid


def item(
    question: str,
    gold: str,
    tokenizer: Tokenizer,
    valid: tuple[int, ...],
    limit: int = LIMIT,
    bos: int | None = None,
    id: str = "",
) -> Item:
    """The item of one question. `bos` is the begin-of-text token, for models that were trained with one."""
    text = render(question, gold)
    ids, prompt_len, cut = _cut(text, gold, tokenizer, limit, bos)
    anchors = tuple(i - 1 for i in range(prompt_len, len(ids)) if ids[i] in valid)
    targets = tuple(ids[i + 1] for i in anchors)
    return Item(text, ids, prompt_len, anchors, targets, valid, gold, cut, id, question)


def choices(
    question: str,
    answers: Sequence[str],
    gold: int,
    tokenizer: Tokenizer,
    limit: int = LIMIT,
    bos: int | None = None,
    id: str = "",
) -> Choices:
    """The texts "Q: {question}\\nA: {answer}" of one question; every token after the ":" belongs to the answer."""
    texts = [_cut(f"{LEAD} {question}{MARKER} {answer}", answer, tokenizer, limit, bos) for answer in answers]
    anchors = tuple(tuple(range(prompt_len - 1, len(ids) - 1)) for ids, prompt_len, _ in texts)
    return Choices(id, question, tuple(answers), gold, tuple(ids for ids, _, _ in texts), anchors)


def _cut(text: str, gold: str, tokenizer: Tokenizer, limit: int, bos: int | None) -> tuple[tuple[int, ...], int, int]:
    """Tokens of a text, how many of them are its prompt, and how many were left out of its question."""
    ids = tokenizer.encode(text)
    prompt_len = _prompt_length(ids, text.count(MARKER), tokenizer)
    lead = _covering(ids, LEAD, tokenizer)
    cut = max(len(ids) + (bos is not None) - limit, 0)
    if cut > prompt_len - lead - 1:
        raise ValueError(f"limit of {limit} tokens leaves no room for the question of an answer {gold!r}; raise it")
    start = (bos,) if bos is not None else ()
    return (*start, *ids[:lead], *ids[lead + cut :]), prompt_len + len(start) - cut, cut


def _prompt_length(ids: Sequence[int], markers: int, tokenizer: Tokenizer) -> int:
    """Tokens up to and including the one that completes the last marker, however its characters share tokens."""
    end = len(ids)
    while end > 1 and tokenizer.decode(ids[: end - 1]).count(MARKER) == markers:
        end -= 1
    return end


def _covering(ids: Sequence[int], text: str, tokenizer: Tokenizer) -> int:
    """The fewest leading tokens that hold `text`."""
    return next(n for n in range(1, len(ids) + 1) if text in tokenizer.decode(ids[:n]))
