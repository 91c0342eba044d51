"""Are two mathematical expressions equal? `math-verify` (extra `math`) asked so that it cannot be talked round or hang.

Its comparison is generous; what we hand it is not. An answer is one expression in LaTeX or plain notation, of known
commands and functions; no words, no chain of equations, one `x =` in front at most. Tuples, lists, sets and intervals
are taken apart here and compared part by part. Decimals are rewritten as fractions, so that 0.333333 is no third. The
signs of percent and degrees behind a number are dropped. Other relations (x < 3) are right in gold's spelling only.
Every comparison runs in a locked copy of a worker process with a bound on its time: any thread may ask.
"""

import dataclasses
import functools
import importlib.util
import re
from typing import ClassVar

from qstar.tasks import grade, worker

LONGEST = 300  # characters of an expression
_COMMANDS = frozenset(
    "frac dfrac tfrac sqrt pi sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh ln log exp left right cdot "
    "times div infty binom theta alpha beta gamma lambda mu phi omega sigma begin end pmatrix bmatrix cup cap".split()
)
_FUNCTIONS = ("arcsin", "arccos", "arctan", "sqrt", "sin", "cos", "tan", "log", "exp", "ln", "pi")
_PLAIN = re.compile(r"[0-9A-Za-z+\-*/^_=<>!|.,&\\{}()\[\] ]*")
# "7 2" is no 72, "72_3" no 72, and an angle's degrees inside of an expression would be dropped.
_DOUBTFUL = re.compile(r"[0-9.] +[0-9.]|[^A-Za-z]_|\\circ")
_DEGREES = re.compile(r" ?\^ ?(?:\\circ|\{ ?\\circ ?\})\Z")


@dataclasses.dataclass(frozen=True)
class Symbolic:
    """Equal expressions. `seconds` of processor time bound one comparison; a longer one is wrong ("timeout")."""

    declared: grade.Declared
    seconds: float = 5.0
    name: ClassVar[str] = "symbolic"
    version: ClassVar[int] = 1

    def __post_init__(self):
        if importlib.util.find_spec("math_verify") is None:
            raise ImportError('the symbolic grader needs math-verify: pip install ".[math]"')

    def canonical(self, gold: str) -> str:
        spelled = expression(gold)
        if spelled is None:
            raise ValueError(f"gold answer {gold[:200]!r} is no expression that the symbolic grader reads")
        if not _is_relation(spelled) and not self._same(spelled, spelled)[0]:
            raise ValueError(f"gold answer {gold[:200]!r} cannot be parsed, or has no value: grade it as exact")
        return spelled

    def __call__(self, written: str, gold: str) -> grade.Verdict:
        wanted = expression(gold)
        if wanted is None:
            raise ValueError(f"gold answer {gold[:200]!r} is no expression that the symbolic grader reads")
        answer, problem = grade.settle(written, self.declared, expression)
        if problem:
            return grade.Verdict(False, answer, problem)
        right, reason = self._same(wanted, answer)
        return grade.Verdict(right, answer, reason)

    def _same(self, gold: str, answer: str) -> tuple[bool, str]:
        if _is_relation(gold) or _is_relation(answer):
            equal = gold.replace(" ", "") == answer.replace(" ", "")
            return equal, "right" if equal else "wrong"
        reply = _worker(self.seconds)(gold, answer)
        if reply.status != "done":
            return False, reply.status
        return reply.text == "same", "right" if reply.text == "same" else "wrong"


@functools.cache
def _worker(seconds: float) -> worker.Worker:
    return worker.Worker("qstar.tasks.symbolic:compare", seconds)


def expression(text: str) -> str | None:
    """An answer as it is compared: without dollars, LaTeX's spaces, `x =` and percent; None for what is none."""
    text = text.strip(grade.WHITE)
    if len(text) > LONGEST:
        return None
    text = text.removesuffix(".")
    for opening, closing in (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]"), (r"\boxed{", "}")):
        if text.startswith(opening) and text.endswith(closing) and len(text) > len(opening) + len(closing) - 1:
            text = text[len(opening) : -len(closing)].strip(" ")
    text = text.removesuffix("%").removesuffix("\\").strip(" ")
    if grade.spelled_number(_DEGREES.sub("", text)) is not None:
        text = _DEGREES.sub("", text)
    text = re.sub(r"\\[,;! ]", " ", text.replace("**", "^").replace(r"\%", ""))
    text = re.sub(r"^[A-Za-z] ?= ?(?=[^=]*\Z)", "", re.sub(r"[ \t\r\n]+", " ", text))
    clear = _PLAIN.fullmatch(text) and not _DOUBTFUL.search(text) and ("&" not in text or "matrix" in text)
    return text if text and clear and _known_words(text) and _even(text) else None


def _known_words(text: str) -> bool:
    """Whether letters are commands and functions that are known, or variables of one letter."""
    for command in re.findall(r"\\([A-Za-z]+)", text):
        if command not in _COMMANDS:
            return False
    words = re.findall(r"[A-Za-z]{2,}", re.sub(r"\\[A-Za-z]+", " ", text))
    return all(word in ("pmatrix", "bmatrix", *_FUNCTIONS) or (len(word) == 2 and word.islower()) for word in words)


def _even(text: str) -> bool:
    """Whether brackets close in order; an interval's may be of two kinds."""
    depth = 0
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        if depth < 0:
            return False
    return depth == 0


def _is_relation(text: str) -> bool:
    return any(sign in text for sign in "<>=")


# Below: the worker's side, in a locked copy of a process of its own.


def prepare() -> None:
    """Load and warm up what comparisons need."""
    for gold, answer in (
        (r"\frac{1}{2} x", "x/3"),
        ("x^2+2x+1", "(x+1)^2"),
        (r"\sin x", "cos(x)"),
        (r"\sqrt 2", r"\pi"),
    ):
        _equal(gold, answer)


def compare(gold: str, answer: str) -> str:
    """ "same" or "different"."""
    return "same" if _equal(gold, answer) else "different"


def _equal(gold: str, answer: str) -> bool:
    wanted, found = _parts(gold), _parts(answer)
    if wanted is None and found is None:
        return _equal_values(gold, answer)
    if wanted is None or found is None or wanted[0] != found[0] or len(wanted[1]) != len(found[1]):
        return False
    if wanted[0] != "{}":
        return all(map(_equal, wanted[1], found[1]))
    rest = list(found[1])
    for one in wanted[1]:
        match = next((at for at, other in enumerate(rest) if _equal(one, other)), None)
        if match is None:
            return False
        rest.pop(match)
    return True


def _parts(text: str) -> tuple[str, list[str]] | None:
    r"""(brackets, parts) of a tuple (1, 2), a list 1, 2, a set \{1, 2\} or an interval [0, 1), None for a single value.

    A comma between three digits and others separates thousands in a single number only: 1,000.
    """
    text = re.sub(r"\\(?:left|right)(?![a-z])", "", text).strip(" ")
    if grade.spelled_number(text) is not None:
        return None
    brackets = ""
    is_set = text.startswith(r"\{") and text.endswith(r"\}")
    if is_set:
        brackets, text = "{}", text[2:-2]
    elif text[:1] in ("(", "[") and text[-1:] in (")", "]") and _even(text[1:-1]):
        brackets, text = text[0] + text[-1], text[1:-1]
    parts = _split(text)
    if len(parts) > 1 or is_set or "[" in brackets:
        return brackets, parts
    return None


def _split(text: str) -> list[str]:
    """At commas outside of brackets."""
    parts, depth = [""], 0
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip(" ") for part in parts]


def _equal_values(gold: str, answer: str) -> bool:
    import math_verify

    wanted, found = _parsed(gold), _parsed(answer)
    if wanted is None or found is None:
        return False
    # Fifty digits: an irrational number is not told by fifteen of its digits. The gold answer comes first.
    return math_verify.verify([wanted], [found], float_rounding=50, numeric_precision=50, timeout_seconds=None)


def _parsed(text: str):
    """A sympy expression with a value, or None."""
    import math_verify
    import sympy

    text = re.sub(r"\\(?:left|right)(?![a-z])", "", text)
    number = grade.spelled_number(text)
    text = (
        number if number is not None else re.sub(rf"(?<![\\A-Za-z])({'|'.join(_FUNCTIONS)})(?![A-Za-z])", r"\\\1", text)
    )
    text = re.sub(r"\\sqrt ?\(([^()]*)\)", r"\\sqrt{\1}", text)
    text = re.sub(r"([0-9]*)\.([0-9]+)", lambda found: _fraction(found[1], found[2]), text)
    parsed = math_verify.parse(
        f"${text}$",
        extraction_config=[math_verify.LatexExtractionConfig(boxed_match_priority=-1)],
        fallback_mode="no_fallback",
        extraction_mode="first_match",
        parsing_timeout=None,
    )
    if len(parsed) != 1 or not isinstance(parsed[0], sympy.Basic | sympy.MatrixBase):
        return None
    value = parsed[0]
    return None if value.has(sympy.nan, sympy.zoo) else value


def _fraction(whole: str, part: str) -> str:
    return rf"\frac{{{int(whole + part)}}}{{1{'0' * len(part)}}}"
