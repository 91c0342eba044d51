"""Respellings that change nothing: what may stand around an answer, and the units that may follow a number.

`bare` takes off what only marks an answer: LaTeX's dollars and \\boxed{...}, bold type, quotation marks, "= ", "the
answer is", the sentence's full stop. `measured` reads a number with its unit. Both read what has one meaning and leave
the rest as it is: nothing is computed, no unit is converted, no noun is guessed at (a dozen would change the number).
"""

import re
import unicodedata
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction

WHITE = " \t\r\n"
# That typography puts between digits and units; no other changes, or joins, what stands on both sides.
SPACES = (
    "\N{NO-BREAK SPACE}\N{THREE-PER-EM SPACE}\N{FOUR-PER-EM SPACE}\N{SIX-PER-EM SPACE}\N{FIGURE SPACE}"
    "\N{PUNCTUATION SPACE}\N{THIN SPACE}\N{HAIR SPACE}\N{NARROW NO-BREAK SPACE}\N{MEDIUM MATHEMATICAL SPACE}"
)
_QUOTES = str.maketrans(
    {
        "\N{RIGHT SINGLE QUOTATION MARK}": "'",
        "\N{LEFT SINGLE QUOTATION MARK}": "'",
        "\N{MODIFIER LETTER APOSTROPHE}": "'",
        "\N{PRIME}": "'",
        "\N{ACUTE ACCENT}": "'",
        "`": "'",
        "\N{LEFT DOUBLE QUOTATION MARK}": '"',
        "\N{RIGHT DOUBLE QUOTATION MARK}": '"',
        "\N{HYPHEN}": "-",
        "\N{NON-BREAKING HYPHEN}": "-",
    }
)

# --- what may stand around an answer ------------------------------------------------------------------------------

_PAIRS = (
    ("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]"), ("**", "**"), ("__", "__"), ("*", "*"), ("_", "_"),
    ("`", "`"), ('"', '"'), ("'", "'"), ("\N{LEFT DOUBLE QUOTATION MARK}", "\N{RIGHT DOUBLE QUOTATION MARK}"),
    ("\N{LEFT SINGLE QUOTATION MARK}", "\N{RIGHT SINGLE QUOTATION MARK}"),
    ("\N{DOUBLE LOW-9 QUOTATION MARK}", "\N{LEFT DOUBLE QUOTATION MARK}"),
    ("\N{LEFT-POINTING DOUBLE ANGLE QUOTATION MARK}", "\N{RIGHT-POINTING DOUBLE ANGLE QUOTATION MARK}"),
)  # fmt: skip
_BRACED = re.compile(
    r"\\(?:boxed|fbox|text|textbf|textit|textrm|texttt|textsf|mathrm|mathbf|mathit|mathsf|mathtt|mbox|emph|bm|bold"
    r"|boldsymbol|underline) ?\{"
)
_FENCED = re.compile(r"```[A-Za-z]*[ \t]*\n(?P<inner>(?:(?!```).)*)\n[ \t]*```", re.DOTALL)
_SAID = (
    r"(?:(?:so|thus|hence|therefore),? )?(?:the |my )?(?:(?:final |correct |right |best )?(?:answer|result|solution)"
    r"|(?:correct|right|best) (?:option|choice)|(?<=my )(?:option|choice)|ans\.?)"
)
_LEADING = re.compile(
    rf"(?:=(?![=>])|:(?![:=])|[=-]>|\N{{RIGHTWARDS ARROW}}|it(?: is|'s) "
    rf"|{_SAID}(?: ?[:=](?![:=])| is(?: ?:(?![:=]))?(?=\W))"
    rf"|(?P<bold>\*\*|__){_SAID} ?(?::(?P=bold)|(?P=bold) ?:)(?![:=]))[ \t]*",
    re.ASCII | re.IGNORECASE,
)
_SPACED = re.compile(rf"(?:[{WHITE}{SPACES}]|\\[,;:! ]|\\q?quad(?![A-Za-z])|\\displaystyle(?![A-Za-z]))+")
_TRAILING = re.compile(
    r"(?<=\S) (?:is|are) (?:correct|right|the (?:(?:correct|right|final) )?(?:answer|result|option|choice))\Z",
    re.IGNORECASE,
)
_DEEPEST = 6  # wrappers around one answer


def bare(text: str) -> str:
    """A text without what only marks it as an answer; the text itself where nothing would be left."""
    return unwrapped(text)[-1]


def unwrapped(text: str) -> list[str]:
    """A text, and what is left of it without its outermost mark, without the next one, and so on."""
    texts = [text.strip(WHITE + SPACES)]
    for _ in range(_DEEPEST):
        inner = _unwrapped(texts[-1])
        if inner in ("", texts[-1]):
            break
        texts.append(inner)
    return texts


def _unwrapped(text: str) -> str:
    """A text without its outermost mark."""
    leading = _LEADING.match(text)
    if leading:
        return text[leading.end() :].strip(WHITE)
    trailing = _TRAILING.search(text)
    if trailing:
        return text[: trailing.start()]
    if text.endswith((".", "\N{IDEOGRAPHIC FULL STOP}")):
        return without_stop(text)
    fenced = _FENCED.fullmatch(text)
    if fenced:
        return fenced["inner"].strip(WHITE)
    for opening, closing in _PAIRS:
        inner = text[len(opening) : -len(closing)]
        if text.startswith(opening) and text.endswith(closing) and len(text) > len(opening) + len(closing):
            other = inner.replace(r"\$", "") if opening == "$" else inner  # $\$18$ is a price between dollars
            unpaired = opening in other or closing in other or (opening == "$" and inner.endswith("\\"))
            return text if unpaired else inner.strip(WHITE)
    spaced = _SPACED.match(text)
    if spaced:
        return text[spaced.end() :]
    braced = _BRACED.match(text)
    if braced and closing_brace(text, braced.end() - 1) == len(text) - 1:
        return text[braced.end() : -1].strip(WHITE)
    return text


def without_stop(text: str) -> str:
    """A text without the full stop of its sentence: a single one, after a letter, a digit or a closing sign."""
    return text[:-1].rstrip(" ") if re.search(r"""[\w)\]}"'$*%°`] ?[.\u3002]\Z""", text) else text


def closing_brace(text: str, start: int) -> int:
    """Where the brace at `start` is closed; -1 where it is not."""
    depth = 0
    for place in range(start, len(text)):
        if text[place] in "{}" and (place == 0 or text[place - 1] != "\\"):
            depth += 1 if text[place] == "{" else -1
            if depth == 0:
                return place
    return -1


def plain_marks(text: str) -> str:
    """Curly quotation marks and apostrophes, and two kinds of hyphen, as ASCII has them."""
    return text if text.isascii() else text.translate(_QUOTES)


def plain_spaces(text: str) -> str:
    """The spaces of typography as plain ones."""
    return text if text.isascii() else text.translate(dict.fromkeys(map(ord, SPACES), " "))


def composed(text: str) -> str:
    """Letters with their accents as single characters, as far as none changes that has no accent (the Kelvin sign)."""
    if text.isascii():
        return text
    parts = re.split("([" + "".join(map(re.escape, _singletons(text))) + "])", text) if _singletons(text) else [text]
    return "".join(part if at % 2 else unicodedata.normalize("NFC", part) for at, part in enumerate(parts))


def _singletons(text: str) -> list[str]:
    """Characters that normalisation would exchange for a single other one."""
    kinds = {character: unicodedata.decomposition(character) for character in set(text) if not character.isascii()}
    return [character for character, kind in kinds.items() if kind and "<" not in kind and " " not in kind]


# --- units ----------------------------------------------------------------------------------------------------------

# Spellings of each unit. A spelling that two units share is either.
_UNITS = {
    "percent": "% \\% percent per-cent",
    "degree": "° º ˚ ^\\circ ^{\\circ} \\degree \\degrees ^° degree degrees deg",
    "dollar": "$ \\$ dollar dollars USD US$ US-dollars bucks",
    "euro": "€ euro euros EUR",
    "sterling": "£ GBP pound pounds",
    "yen": "¥ yen JPY",
    "rupee": "₹ rupee rupees Rs Rs. INR",
    "yuan": "yuan RMB CNY",
    "millimetre": "mm millimeter millimeters millimetre millimetres",
    "centimetre": "cm centimeter centimeters centimetre centimetres",
    "metre": "meter meters metre metres m",
    "kilometre": "km kilometer kilometers kilometre kilometres",
    "inch": "inch inches in",
    "foot": "foot feet ft",
    "yard": "yard yards yd",
    "mile": "mile miles mi",
    "second": "second seconds sec secs s",
    "minute": "minute minutes min mins",
    "hour": "hour hours hr hrs h",
    "day": "day days",
    "week": "week weeks",
    "month": "month months",
    "year": "year years yr yrs",
    "decade": "decade decades",
    "century": "century centuries",
    "milligram": "milligram milligrams mg",
    "gram": "gram grams g",
    "kilogram": "kilogram kilograms kg kgs",
    "ounce": "ounce ounces oz",
    "pound": "pound pounds lb lbs",
    "ton": "ton tons tonne tonnes",
    "millilitre": "milliliter milliliters millilitre millilitres ml mL",
    "litre": "liter liters litre litres L",
    "gallon": "gallon gallons gal",
    "quart": "quart quarts",
    "pint": "pint pints",
    "cup": "cup cups",
    "acre": "acre acres",
    "hectare": "hectare hectares ha",
    "micrometre": "micrometer micrometers micrometre micrometres μm µm",
    "nanometre": "nanometer nanometers nanometre nanometres nm",
    "calorie": "calorie calories cal",
    "joule": "joule joules",
    "newton": "newton newtons",
    "watt": "watt watts",
    "volt": "volt volts",
    "hertz": "hertz Hz",
    "byte": "byte bytes",
    "kilobyte": "kilobyte kilobytes KB kB",
    "megabyte": "megabyte megabytes MB",
    "gigabyte": "gigabyte gigabytes GB",
    "unit": "unit units",
    "mile/hour": "mph",
    "kilometre/hour": "kph km/h kmh",
}
# Read, and right only where the gold answer has the same: a bare number might be meant in the larger or other unit.
_DOUBTFUL = {
    "cent": "cent cents ¢ \\cent",
    "penny": "penny pennies pence p",
    "celsius": "°C ^\\circC ^{\\circ}C ^\\circ\\text{C} degrees-Celsius",
    "fahrenheit": "°F ^\\circF ^{\\circ}F ^\\circ\\text{F} degrees-Fahrenheit",
}
_SIGNS = re.compile(r"\\?\$|[€£¥₹]|US\$|(?:USD|EUR|GBP|INR|JPY|CNY|RMB|Rs\.?)(?= ?[0-9])")


def _table() -> dict[str, frozenset[str]]:
    table: dict[str, frozenset[str]] = {}
    for unit, spellings in (*_UNITS.items(), *_DOUBTFUL.items()):
        for spelling in spellings.split():
            spelled = spelling.replace("-", " ")
            table[spelled] = table.get(spelled, frozenset()) | {unit}
    return table


_SPELLED = _table()
_LOWER = {spelling.lower(): units for spelling, units in _SPELLED.items() if len(spelling) > 3}
_TEXT = re.compile(r"\\(?:text|mathrm|textrm|mbox|textbf|mathbf|rm) ?\{([^{}\\$]*)\}")
_POWER = re.compile(
    r"(?P<unit>.*?)(?: ?(?:\^ ?(?:\{(?P<braced>[23])\}|(?P<caret>[23]))|(?P<raised>[²³])| (?P<word>squared|cubed)))\Z"
)
_POWERS = {
    "2": 2,
    "3": 3,
    "²": 2,
    "³": 3,
    "squared": 2,
    "cubed": 3,
    "square": 2,
    "sq": 2,
    "sq.": 2,
    "cubic": 3,
    "cu": 3,
}


def unit(text: str) -> frozenset[str] | None:
    """What a text may mean as a unit: of one spelling sometimes two. None where it is none."""
    text = _TEXT.sub(r" \1 ", plain_spaces(text))
    text = re.sub(r"\\[ ,;:!]|~|\\quad", " ", text)
    # \text{ cm}^2 leaves a space before its power.
    text = re.sub(r" +(?=[\^²³])|(?<=\^) +", "", " ".join(text.split(" "))).strip(" ")
    text = re.sub(r"\^\{ *\\circ *\}", r"^\\circ", text)
    return _unit(" ".join(text.split()))


def _unit(text: str) -> frozenset[str] | None:
    units = _SPELLED.get(text) or _LOWER.get(text.lower())
    if units:
        return units
    above, mark, below = re.sub(r" ?/ ?| (?:per|an?|each|every) ", "/", text).partition("/")
    if mark:
        return None if "/" in below else _joined(_unit(above), "/", _unit(below))
    word, _, rest = text.partition(" ")
    if word.lower() in ("square", "sq", "sq.", "cubic", "cu") and rest:
        return _joined(_SPELLED.get(rest) or _LOWER.get(rest.lower()), "^", frozenset({str(_POWERS[word.lower()])}))
    power = _POWER.fullmatch(text)
    if power:
        mark = next(mark for mark in power.groups()[1:] if mark)
        known = _SPELLED.get(power["unit"]) or _LOWER.get(power["unit"].lower())
        return _joined(known, "^", frozenset({str(_POWERS[mark])}))
    return None


def _joined(above: frozenset[str] | None, sign: str, below: frozenset[str] | None) -> frozenset[str] | None:
    if above is None or below is None or any(part in _DOUBTFUL for part in (*above, *below)):
        return None
    return frozenset(f"{upper}{sign}{lower}" for upper in above for lower in below)


def agree(gold: frozenset[str], answer: frozenset[str], value: Decimal | Fraction) -> bool:
    """Whether an answer of this value may have its unit where the gold answer has that one: the same, or one has none.

    What the gold answer leaves unsaid may be said, but for cents, pence and degrees of temperature, and for percent up
    to one: 0.5% may be meant as half of one percent or as a half. Nothing is 0 and 0%.
    """
    if gold and answer:
        return bool(gold & answer)
    return not answer or not (answer & _DOUBTFUL.keys() or ("percent" in answer and 0 < abs(value) <= 1))


# --- numbers with units -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Measured:
    value: Decimal
    unit: frozenset[str] = frozenset()  # what its unit may mean; empty where there is none


_SIGN = "-\N{MINUS SIGN}+"
# What may separate thousands, besides the comma. The Swiss write 1'000.
_GROUP = r"(?:,\\! ?|\{,\}|\\[ ,;:]|~|['\N{RIGHT SINGLE QUOTATION MARK} " + SPACES + "])"
_NUMBER = re.compile(
    r"(?P<grouped>[0-9]{1,3}(?:,[0-9]{3})+|[1-9][0-9]{0,2}(?:(?P<mark>" + _GROUP + r")[0-9]{3})(?:(?P=mark)[0-9]{3})*"
    r"|[0-9]+)(?P<part>\.[0-9]+)?(?![0-9])|(?P<only>\.[0-9]+)"
)  # fmt: skip


def measured(text: str) -> Measured | None:
    """The number that a text is, with its unit; None where it is anything else or has more in it.

    A name may stand before it (x = 3). One sign, apart or not; a sign of currency before or after; thousands separated
    by commas or by one kind of space.
    """
    value = named(bare(text))[1]
    return None if named(value)[0] else unmarked(value)


_SKIP = r"(?: |\\[ ,;:!]|~)*"
_NAME = re.compile(
    r"(?P<name>(?:m ?)?\\angle ?[A-Z]{1,3}|[A-Z]{2,3}|[A-Za-z]\([0-9A-Za-z]\)"
    r"|(?:[A-Za-z]|\\(?:alpha|beta|gamma|delta|theta|lambda|mu|rho|sigma|phi|omega))(?:_(?:\w|\{\w+\}))?)"
    rf"{_SKIP}=(?!=){_SKIP}",
    re.ASCII,
)


def named(text: str) -> tuple[str, str]:
    """(x, 3) of "x = 3" and "x = \\boxed{3}", (AB, 3) of "AB = 3", likewise for an angle and P(2); else ("", text)."""
    match = _NAME.match(text)
    if match is None or _LEADING.match(text, match.end()):
        return "", text
    return re.sub(r"[ {}]", "", match["name"]), bare(text[match.end() :])


def unmarked(text: str) -> Measured | None:
    """The same of a text that has nothing else around its number: neither "= " nor "x = "."""
    sign = re.match(rf"[{_SIGN}] ?", text)
    rest = text[sign.end() :] if sign else text
    currency = _SIGNS.match(rest)
    if currency:
        rest = rest[currency.end() :].lstrip(" ")
        if not sign and (inner := re.match(rf"[{_SIGN}](?=[0-9.])", rest)):
            sign, rest = inner, rest[1:]
    number = _NUMBER.match(rest)
    if number is None:
        return None
    following = rest[number.end() :]
    if currency and re.match(r" ?(?:/|(?:per|an?|each|every) )", following):
        currency, following = None, f" {currency[0]}{following}"  # $72 per hour
    own = unit(currency[0].strip()) if currency else frozenset()
    trailing = unit(following) if following.strip(" ") else frozenset()
    if own is None or trailing is None or re.fullmatch("[A-Za-z]| m", following):
        return None  # "3d" is a product, "72 m" may be millions
    if own and trailing and not (own & trailing):
        return None
    whole = re.sub(r"[^0-9]", "", number["grouped"] or "0")
    value = Decimal(whole + (number["part"] or number["only"] or ""))
    negative = sign is not None and sign[0][0] != "+"
    return Measured(value.copy_negate() if negative else value, own & trailing or own or trailing)
