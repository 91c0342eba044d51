"""Records that pages are made from are replaced on request only, and never by less than they hold."""

from collections.abc import Hashable, Mapping
from pathlib import Path

NAMED = 8  # losses that a message names


def check_replaced(
    old: Mapping[Hashable, float], new: Mapping[Hashable, float], where: str, replace: bool, request: str = "--replace"
) -> None:
    """Whether new records may take the place of old ones; both give how much each entry holds (questions, runs, rows).

    Raises ValueError where that was not requested (unless there is nothing yet), and where the new ones lack an entry
    or hold less of it: nothing is to be written then.
    """
    if not new:
        raise ValueError(f"{where}: there is nothing to write; it is left unchanged")
    if not old:
        return
    lost = [
        f"{_named(key)}: {amount:g}, now {new.get(key, 0):g}" for key, amount in old.items() if new.get(key, 0) < amount
    ]
    if lost:
        more = f", and {len(lost) - NAMED} more" if len(lost) > NAMED else ""
        raise ValueError(
            f"{where} would lose {'; '.join(lost[:NAMED])}{more}. It is left as it is: finish those runs, or write "
            "somewhere else"
        )
    if not replace:
        raise ValueError(f"{where} holds {len(old)} entries already, and is left unchanged: {request} replaces them")


def check_shown(page: Path, shown: Path) -> None:
    """Whether what `shown` holds, a file of records or a folder of such files, may be shown on a page.

    Raises ValueError where the page lies beside records of the same name, in another place, that have more lines: these
    are what it shows, and nothing is to be written then.
    """
    for file in sorted(shown.glob("*.jsonl")) if shown.is_dir() else [shown]:
        own = page.parent / file.name
        if own.is_file() and not own.samefile(file):
            held, found = (one.read_bytes().count(b"\n") for one in (own, file))
            if found < held:
                raise ValueError(
                    f"{page} shows the {held} records of {own}, and {file} has {found}: it is left as it is; finish "
                    "those runs, or name another page"
                )


def _named(key: Hashable) -> str:
    return ", ".join(map(str, key)) if isinstance(key, tuple) else str(key)
