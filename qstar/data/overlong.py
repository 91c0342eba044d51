"""Records that are longer than a row of training, and questions that are longer than what the model can read and
answer: an error that names them, or left out and counted."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from qstar.data.tokenizer import Tokenizer

OVERLONG = ("error", "skip")
NAMED = 5  # questions that a message names


class Record(Protocol):
    where: str  # it comes from: file and line; "" where it comes from none

    def __len__(self) -> int:
        """Its tokens."""


R = TypeVar("R", bound=Record)


def check(records: Sequence[R], length: int, what: str) -> None:
    """Raise ValueError for records, `what` in the plural, that are longer than a row of `length` tokens."""
    longer = [record for record in records if len(record) > length]
    if not longer:
        return
    longest = max(map(len, longer))
    named = "; ".join(f"{record.where}: {len(record)} tokens" for record in longer[:3] if record.where)
    raise ValueError(
        f"{len(longer)} of {len(records)} {what} are longer than a row of {length} tokens, the longest has {longest}"
        f"{f' ({named})' if named else ''}: give data.length={longest} or more, or leave them out with "
        "data.overlong=skip"
    )


def fitting(records: Sequence[R], length: int, what: str, say: Callable[[str], None]) -> list[R]:
    """Those that fit into a row of `length` tokens; how many others there are, and the first of them, is said."""
    kept = [record for record in records if len(record) <= length]
    if len(kept) < len(records):
        first = next(record.where for record in records if len(record) > length)
        say(
            f"{len(records) - len(kept)} {what} are longer than data.length = {length} tokens and are left out; the "
            f"first: {first}"
        )
    return kept


# --- questions --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Question:
    """One that is too long."""

    id: str
    tokens: int  # of its prompt
    room: int  # tokens that may be written after it


def prompt_tokens(tokenizer: Tokenizer, question: str, prompt: str) -> int:
    """Tokens of the prompt of a question. Raises ValueError that names the question where the tokenizer refuses it."""
    try:
        return len(tokenizer.encode_prompt(prompt))
    except ValueError as error:
        raise ValueError(f"question {question}, asked as {prompt[:60]!r}: {error}") from error


def of_questions(sizes: dict[str, int], rooms: dict[str, int], most: int) -> list[Question]:
    """Those whose prompts, of `sizes` tokens, leave no room for an answer, or for the longest one among the others.

    Args:
        rooms: tokens of the longest answer to each question.
        most: tokens of a prompt and what is written after it.
    """
    left = {name: Question(name, sizes[name], rooms[name]) for name in sizes if sizes[name] + rooms[name] > most}
    while kept := [name for name in sizes if name not in left]:
        room = max(rooms[name] for name in kept)
        over = {name: Question(name, sizes[name], room) for name in kept if sizes[name] + room > most}
        if not over:
            break
        left |= over
    return list(left.values())


def check_questions(
    left: Sequence[Question], count: int, task: str, split: str, place: str, ways: str, *, skip: bool
) -> None:
    """Raise ValueError that names the questions of `left`, unless they are to be left out and others remain.

    Args:
        count: of all questions.
        place: they do not fit into.
        ways: out, the setting that leaves them out last.
    """
    if not left or (skip and len(left) < count):
        return
    named = _first([f"{question.id} ({question.tokens} tokens and {question.room} to write)" for question in left])
    raise ValueError(f"{task}: {len(left)} of {count} {split} questions do not fit into {place}: {named}; {ways}")


def told(left: Sequence[Question], count: int, place: str) -> str:
    """A line about those that are left out."""
    return f"{len(left)} of {count} questions are left out: too long for {place} ({_first([one.id for one in left])})"


def _first(named: Sequence[str]) -> str:
    return ", ".join(named[:NAMED]) + (", ..." if len(named) > NAMED else "")
