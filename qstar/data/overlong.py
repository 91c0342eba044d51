"""Records that are longer than a row of training: an error that names them, or left out and counted."""

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

OVERLONG = ("error", "skip")


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
