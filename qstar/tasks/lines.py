"""Reading files of text and JSON lines, with file, line and field named when something is wrong."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SEPARATOR = "<|doc|>"  # the line between two documents of a plain-text file


def decoded(raw: bytes, path: Path, start: int = 0) -> str:
    """UTF-8 text of bytes that begin at byte `start` of a file."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is not UTF-8: byte 0x{raw[error.start]:02x} at byte offset {start + error.start}; "
            "convert it, for example with iconv"
        ) from error


def existing(path: str | Path, what: str) -> Path:
    """The path of a file that is there; `what` names the setting that gives it."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"{what}: {str(path)!r} is no file (looked in {Path.cwd()}); name an existing one")
    return Path(path)


def json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields ("file:line", record) of every non-empty line."""
    offset = 0
    with path.open("rb") as file:
        for number, raw in enumerate(file, 1):
            line, where = decoded(raw, path, offset), f"{path}:{number}"
            offset += len(raw)
            if line.strip():
                yield where, _record(line, where)


def _record(line: str, where: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"{where} is not JSON: {error.msg} at column {error.colno}") from error
    if not isinstance(record, dict):
        raise ValueError(f"{where} is a JSON {type(record).__name__}; every line must be an object like {{...}}")
    return record


def member(record: dict[str, Any], name: str, where: str, kind: type = str) -> Any:
    """record[name], which must be a `kind`; the error names the place and what is there instead."""
    if name not in record:
        raise ValueError(f"{where} lacks the field '{name}'; it has {', '.join(sorted(record)) or 'none'}")
    if not isinstance(record[name], kind):
        raise ValueError(f"{where}: field '{name}' is a {type(record[name]).__name__}, expected a {kind.__name__}")
    return record[name]
