"""Calls of the `tokenizers` library whose failures are ValueErrors.

What the library raises has no type of its own, and a panic of its Rust code is no Exception: files of tokenizers that
contradict themselves give either, some of them only where a text is encoded.
"""

import contextlib
from collections.abc import Iterator, Sequence

from tokenizers import Encoding, Tokenizer

SHOWN = 60  # characters of a text in a message
PANIC = "PanicException"  # of pyo3, which lets nobody import it


@contextlib.contextmanager
def refusing(what: str) -> Iterator[None]:
    """What the library raises inside as a ValueError that begins with `what`."""
    try:
        yield
    except Exception as error:
        raise ValueError(f"{what}: {error}") from error
    except BaseException as error:
        if type(error).__name__ != PANIC:
            raise
        raise ValueError(f"{what}: {error}") from error


def encode(tokenizer: Tokenizer, text: str, special: bool = False) -> Encoding:
    """Raises ValueError also for what is no text: bytes of another encoding, as Python has them from a command line."""
    try:
        with refusing(f"this tokenizer does not encode {text[:SHOWN]!r}"):
            return tokenizer.encode(text, add_special_tokens=special)
    except ValueError as error:
        half = next((char for char in text if "\ud800" <= char <= "\udfff"), None)
        if half is None:
            raise
        raise ValueError(f"the text is not Unicode: it holds {half!r}, half of a surrogate pair") from error


def decode(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    """Text of the ids, special tokens included."""
    with refusing(f"this tokenizer does not decode the ids {str(ids[:8])[:SHOWN]}"):
        return tokenizer.decode(ids, skip_special_tokens=False)


def read(text: str) -> Tokenizer:
    """From the text of a tokenizer.json."""
    with refusing("not the contents of a tokenizer.json"):
        return Tokenizer.from_str(text)
