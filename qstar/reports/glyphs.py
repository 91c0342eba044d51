"""How tokens are written where people read them: nothing invisible, nothing that terminals or pages would interpret."""

import itertools
import unicodedata
from collections.abc import Sequence
from typing import Protocol

NEWLINE, SPACE = "↵", "␣"
INVISIBLE = ("Cc", "Cf", "Cs", "Zl", "Zp")  # controls, formats (text direction among them), line separators


class Decoder(Protocol):
    """What is asked of a tokenizer."""

    def decode(self, ids: Sequence[int]) -> str: ...

    def token(self, id: int) -> str: ...


def visible(text: str) -> str:
    """The text with line ends and control characters as visible signs; spaces stay."""
    return "".join(map(_visible, text))


def _visible(char: str) -> str:
    if char == "\n":
        return NEWLINE
    if unicodedata.category(char) not in INVISIBLE:
        return char
    return f"\\x{ord(char):02x}" if ord(char) < 256 else f"\\u{ord(char):04x}"


def quoted(text: str) -> str:
    """`visible`, with the spaces at both ends visible as well: for tokens and thoughts that stand alone."""
    inner = text.strip(" ")
    left = len(text) - len(text.lstrip(" "))
    right = len(text) - left - len(inner)
    return SPACE * left + visible(inner) + SPACE * right


def pieces(decoder: Decoder, ids: Sequence[int]) -> list[str]:
    """Every token's share of the text, as it is; `<id>` or what the tokenizer has for a token without one.

    A token is decoded after the one before it, because some tokenizers drop the space that opens a text.
    """
    texts = [decoder.token(id) for id in ids[:1]]
    for before, id in itertools.pairwise(ids):
        prefix, both = decoder.decode([before]), decoder.decode([before, id])
        texts.append(both[len(prefix) :] if both.startswith(prefix) and len(both) > len(prefix) else decoder.token(id))
    return texts
