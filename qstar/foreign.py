"""Reading text and JSON that somebody else wrote: UTF-8, with the file and the place named when something is wrong.

A byte-order mark at the beginning of a file is no part of its text.
"""

import codecs
import json
import os
from pathlib import Path
from typing import Any

MAX_JSON = 256 << 20  # bytes of a file that is read whole; the largest tokenizers have a tenth of it


def decoded(raw: bytes, path: Path, start: int = 0) -> str:
    """UTF-8 text of bytes that begin at byte `start` of a file. Raises ValueError with the offset of a wrong byte."""
    if not start:
        start = len(codecs.BOM_UTF8) if raw.startswith(codecs.BOM_UTF8) else 0
        raw = raw[start:]
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is not UTF-8: byte 0x{raw[error.start]:02x} at byte offset {start + error.start}; "
            "convert it, for example with iconv"
        ) from error


def text(path: Path) -> str:
    """The text of a whole file. Raises ValueError for other encodings."""
    return decoded(path.read_bytes(), path)


def parsed(text: str, where: str) -> Any:
    """The value of a JSON text. Raises ValueError that begins with `where`."""
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}" if error.lineno > 1 else f"column {error.colno}"
        raise ValueError(f"{where} is not JSON: {error.msg} at {place}") from error
    except RecursionError as error:
        raise ValueError(f"{where} is JSON nested too deeply to be read") from error
    except ValueError as error:  # integers of thousands of digits
        raise ValueError(f"{where} is not JSON that can be read: {error}") from error
    if "\\ud" in text.lower():
        _check_surrogates(value, where)
    return value


def _check_surrogates(value: Any, where: str) -> None:
    r"""Raise ValueError for halves of characters: \ud83d without its partner is no text."""
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as error:
        half = error.object[error.start]
        raise ValueError(f"{where} is not Unicode: it holds {half!r}, half of a surrogate pair") from error


def json_object(path: Path) -> dict[str, Any]:
    """The object of a JSON file. Raises ValueError for other files, and for one that is far too large."""
    size = os.stat(path).st_size
    if size > MAX_JSON:
        raise ValueError(f"{path} has {size:,} bytes, expected a JSON file of at most {MAX_JSON:,}")
    contents = parsed(text(path), str(path))
    if not isinstance(contents, dict):
        raise ValueError(f"{path} is a JSON {type(contents).__name__}, expected an object like {{...}}")
    return contents
