"""Answers out of what a model wrote: the one definition of "the first number" and "the first letter".

A number has at most one sign directly before it (a currency sign may stand between them), digits with or without commas
between thousands, and at most one decimal point with digits after it. So "$1,234.50." is 1234.5, "1,2,3" begins with 1
and "10-3" with 10. Units, percent signs and ordinals are left alone; nothing is computed: "1/2" begins with 1.
"""

import re
from collections.abc import Sequence
from decimal import Decimal

CURRENCIES = "$€£¥"
MINUS = "-\N{MINUS SIGN}"  # hyphen and the mathematical sign
APOSTROPHES = "'\N{RIGHT SINGLE QUOTATION MARK}"

# A sign directly after a word, a number or a bracket is a dash: "10-3", "x-3", "(2)-3".
_NUMBER = re.compile(
    rf"(?:(?<![\w.)\]])(?P<sign>[{MINUS}])[{CURRENCIES}]?)?"
    r"(?:(?P<whole>[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?P<part>\.[0-9]+)?|(?<![\w.])(?P<only>\.[0-9]+))"
)


def number(text: str) -> Decimal | None:
    """The first number of a text, None where there is none. 72, 72.0 and 72.00 are equal."""
    match = _NUMBER.search(text)
    if match is None:
        return None
    value = Decimal((match["whole"] or "0").replace(",", "") + (match["part"] or match["only"] or ""))
    return value.copy_negate() if match["sign"] else value


def only_number(text: str) -> Decimal | None:
    """The number that a text is, spelled as `number` reads it, None where it is anything else or has more in it.

    A currency sign may lead and a percent sign follow; both are dropped and never computed with: 50% is 50.
    """
    text = text.strip(" \t\r\n").removesuffix("%").rstrip(" ")
    match = _NUMBER.fullmatch(text[1:] if text[:1] and text[0] in CURRENCIES else text)
    return None if match is None else number(match[0])


def plain(value: Decimal) -> str:
    """One spelling for equal numbers: no separators, no exponent, no trailing zeros, no sign on zero."""
    text = f"{value:f}"
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return text if value else "0"


def letter(text: str, letters: Sequence[str]) -> str | None:
    """The first of these capital letters that stands alone, as in "C", "C." or "(C)"; in brackets it may be small.

    None where there is none. The article in "A bank" is taken for a letter: the prompt asks for one.
    """
    choices = "".join(letters)
    bracketed = rf"\((?P<bracketed>[{choices}{choices.lower()}])\)"
    match = re.search(rf"{bracketed}|(?<![\w{APOSTROPHES}])(?P<bare>[{choices}])(?![\w{APOSTROPHES}])", text)
    return match and (match["bracketed"] or match["bare"]).upper()
