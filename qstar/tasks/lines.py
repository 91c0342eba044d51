"""Reading files of text and JSON lines, with file, line and field named when something is wrong."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

from qstar import files
from qstar.files import Json, JsonObject
from qstar.settings import shown

T = TypeVar("T")

SEPARATOR = "<|doc|>"  # the line between two documents of a plain-text file


def existing(path: str | Path, what: str) -> Path:
    """The path of a file that is there; `what` names the setting that gives it."""
    if not str(path):
        raise FileNotFoundError(f"{what} is not given: expected the path of a file")
    try:
        there = Path(path).is_file()
    except OSError as error:  # a name that is too long, a folder that may not be entered
        raise ValueError(f"{what} = {shown(str(path))}: {error.strerror}") from error
    if not there:
        raise FileNotFoundError(f"{what}: {str(path)!r} is not a file (looked in {Path.cwd()}); name an existing one")
    return Path(path)


def in_folder(folder: str, name: str) -> Path:
    """The path of a file that is there, in `task.folder`, which is below QSTAR_DATA unless it is given."""
    try:
        return existing(Path(folder) / name, "task.folder")
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"task.folder = {folder!r} has no {name}: set QSTAR_DATA to the folder that holds {Path(folder).name}/, or "
            "give task.folder=FOLDER"
        ) from error


def json_lines(path: Path) -> Iterator[tuple[str, JsonObject]]:
    """Yields ("file:line", record) of every non-empty line. Lines end at "\\n" alone, whatever else Unicode ends at."""
    offset = 0
    with path.open("rb") as file:
        for number, raw in enumerate(file, 1):
            line, where = files.decoded(raw, path, offset), f"{path}:{number}"
            offset += len(raw)
            if line.strip(" \t\r\n"):
                yield where, _record(line, where)


def _record(line: str, where: str) -> JsonObject:
    record = files.parsed(line, where)
    if not isinstance(record, dict):
        raise ValueError(f"{where} is a JSON {type(record).__name__}; every line must be an object like {{...}}")
    return record


def member(record: JsonObject, name: str, where: str, kind: type[T] = str) -> T:
    """record[name], which must be a `kind`; the error names the place and what is there instead.

    A `float` is any finite number, integers included.
    """
    if name not in record:
        raise ValueError(f"{where} lacks the field '{name}'; it has {', '.join(sorted(record)) or 'none'}")
    value = record[name]
    if kind is float:
        return _number(value, name, where)
    if not isinstance(value, kind):
        raise ValueError(f"{where}: field '{name}' is a {type(value).__name__}, expected a {kind.__name__}")
    return value


def optional(record: JsonObject, name: str, where: str, default: T, kind: type[T] = str) -> T:
    """record[name] as `member` has it; the default where the field is absent or null."""
    return default if record.get(name) is None else member(record, name, where, kind)


def _number(value: Json, name: str, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{where}: field '{name}' is a {type(value).__name__} ({shown(value)}), expected a number")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ValueError(f"{where}: field '{name}' is {str(value)[:40]}, expected a finite number")
    return number
