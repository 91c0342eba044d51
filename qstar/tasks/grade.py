"""Is what a model wrote right? Graders that look at the declared answer only, and never raise or hang for a text.

A task says how an answer is declared (`Declared`: "#### 72", the line behind </scratch>, "The answer is (c)."). All
that is declared is read: nothing, something unreadable or two different answers are wrong, whatever else is written.
No grader looks for the right answer inside what is written. Digits and letters are ASCII: other scripts' digits,
superscripts and invisible characters make an answer unreadable. White space is space, tab, return and newline.
`numeric`, `exact` and `choice` are here, others in `symbolic.py`, `program.py` and `gym.py`.
"""

import dataclasses
import functools
import re
import string
from collections.abc import Callable
from typing import ClassVar, Protocol

from qstar.tasks import extract

LONGEST = 100_000  # characters of what is written; a generation of thousands of tokens has tens of thousands
LONGEST_ANSWER = 1000  # characters of one declared answer
SHOWN = 200  # characters of an answer that a verdict keeps
WHITE = " \t\r\n"
_SMALL = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)
# "not (c)" and "(b) or (c)" name a letter and do not choose it.
_HEDGES = re.compile(r"\b(?:not|nor|neither|either|or|never|except|unless|cannot)\b|n't\b", re.ASCII | re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What a grader found."""

    correct: bool
    answer: str  # what was declared, in the grader's canonical spelling; "" where there is none
    reason: str  # right | wrong | no answer | unreadable | several answers | too long | timeout | crashed | forbidden

    def __post_init__(self):
        # Half a surrogate pair, as a tokenizer's bytes may give, could not be stored.
        clean = self.answer[:SHOWN].encode("utf-8", "replace").decode("utf-8")
        object.__setattr__(self, "answer", clean)


class Grader(Protocol):
    """Compares what was written with a right answer."""

    name: ClassVar[str]
    version: ClassVar[int]  # goes up when a verdict may change; stored beside every verdict

    def canonical(self, gold: str) -> str:
        """The one spelling of a right answer. ValueError where it cannot be read."""
        ...

    def __call__(self, written: str, gold: str) -> Verdict:
        """The verdict; from any thread. Raises ValueError for a gold answer that cannot be read, for nothing else."""
        ...


@dataclasses.dataclass(frozen=True)
class Declared:
    """How an answer is marked: it stands between a prefix and a suffix, without a suffix the line's end.

    Capital or small ASCII letters are the same in both. A prefix that ends in a newline takes the line behind it. A
    suffix that never comes leaves nothing declared.
    """

    prefix: str
    suffix: str = ""

    def __post_init__(self):
        if not self.prefix.strip(WHITE):
            raise ValueError(
                f"Declared.prefix = {self.prefix!r}: an answer needs a text in front of it, such as '#### '; without "
                "one every word would be an answer"
            )

    def answers(self, written: str) -> list[str]:
        """All that is declared, in order, without the white space around it."""
        prefix, suffix = _patterns(self.prefix, self.suffix)
        found = []
        for match in prefix.finditer(written):
            end = suffix.search(written, match.end())
            if end is not None:
                found.append(written[match.end() : end.start()].strip(WHITE))
        return found


@functools.cache
def _patterns(prefix: str, suffix: str) -> tuple[re.Pattern, re.Pattern]:
    flags = re.ASCII | re.IGNORECASE
    return re.compile(re.escape(prefix), flags), re.compile(re.escape(suffix) if suffix else r"\n|\Z", flags)


def settle(
    written: str, declared: Declared, canonical: Callable[[str], str | None], longest: int = LONGEST_ANSWER
) -> tuple[str, str]:
    """(the one declared answer in canonical spelling, ""), or ("" or what was unreadable, why there is none).

    `canonical` gives None for what it cannot read.
    """
    if len(written) > LONGEST:
        return "", "too long"
    answers = declared.answers(written)
    if not any(answers):
        return "", "no answer"
    if max(map(len, answers)) > longest:
        return "", "too long"
    read = {answer: canonical(answer) for answer in answers}
    if len({(answer if value is None else value, value is None) for answer, value in read.items()}) > 1:
        return "", "several answers"
    answer, value = next(iter(read.items()))
    return (answer, "unreadable") if value is None else (value, "")


def _compared(written: str, gold: str, declared: Declared, canonical: Callable[[str], str | None]) -> Verdict:
    answer, problem = settle(written, declared, canonical)
    if problem:
        return Verdict(False, answer, problem)
    return Verdict(answer == gold, answer, "right" if answer == gold else "wrong")


def one_space(text: str) -> str:
    """ASCII letters small, runs of white space one space, none around: the spelling that `Exact` compares."""
    return " ".join(re.split(r"[ \t\r\n]+", text.strip(WHITE))).translate(_SMALL)


@dataclasses.dataclass(frozen=True)
class Exact:
    """The same text, as STaR compares the sums' last line (its checker: small letters, exact string).

    Differs from the official code: runs of white space count as one space, and only ASCII letters lose their size (the
    Kelvin sign is no k).
    """

    declared: Declared
    name: ClassVar[str] = "exact"
    version: ClassVar[int] = 1

    def canonical(self, gold: str) -> str:
        if not one_space(gold):
            raise ValueError(f"gold answer {gold!r} is empty: an exact answer needs a text")
        return one_space(gold)

    def __call__(self, written: str, gold: str) -> Verdict:
        return _compared(written, self.canonical(gold), self.declared, one_space)


def spelled_number(text: str) -> str | None:
    """The canonical spelling of a number, `extract.plain`; one final full stop belongs to the sentence."""
    value = extract.only_number(text)
    if value is None and text.endswith("."):
        value = extract.only_number(text[:-1])
    return None if value is None else extract.plain(value)


@dataclasses.dataclass(frozen=True)
class Numeric:
    """The same number: 72, 72.0, $72, 72%, 0072 and 1,000 = 1000 are read; exact decimal arithmetic, no tolerance.

    Signs of currency and percent are dropped, never computed with (50% is 50). All else is unreadable: units, words,
    fractions, exponents, nan and inf. Nothing is ever evaluated.
    """

    declared: Declared
    name: ClassVar[str] = "numeric"
    version: ClassVar[int] = 1

    def canonical(self, gold: str) -> str:
        spelled = spelled_number(gold) if len(gold) <= LONGEST_ANSWER else None
        if spelled is None:
            raise ValueError(f"gold answer {gold[:SHOWN]!r} is no number: write it as 72, -1.5 or 1,000")
        return spelled

    def __call__(self, written: str, gold: str) -> Verdict:
        return _compared(written, self.canonical(gold), self.declared, spelled_number)


@dataclasses.dataclass(frozen=True)
class Choice:
    """The same letter: C, c, (C), c) and C. are read.

    With `labelled` the option's text may stand before a letter in brackets, as in STaR's "The answer is ink (c).",
    unless it names another letter or hedges ("not (c)", "(b) or (c)"). The letter is graded, not the text.
    """

    declared: Declared
    letters: str = "ABCDE"
    labelled: bool = False
    name: ClassVar[str] = "choice"
    version: ClassVar[int] = 1

    def __post_init__(self):
        if len(set(self.letters)) != len(self.letters) or not set(self.letters) <= set(string.ascii_uppercase):
            raise ValueError(f"Choice.letters = {self.letters!r}: different capital letters A to Z are wanted")

    def canonical(self, gold: str) -> str:
        letter = self._letter(gold.strip(WHITE))
        if letter is None:
            raise ValueError(f"gold answer {gold[:SHOWN]!r} is none of the letters {self.letters}")
        return letter

    def __call__(self, written: str, gold: str) -> Verdict:
        return _compared(written, self.canonical(gold), self.declared, self._letter)

    def _letter(self, text: str) -> str | None:
        one = f"[{self.letters}{self.letters.lower()}]"
        found = re.fullmatch(rf"(?P<label>.*?)\s?(?:\((?P<bracketed>{one})\)|(?P<bare>{one})\)?)\.?", text, re.ASCII)
        if found is None:
            return None
        letter = (found["bracketed"] or found["bare"]).upper()
        if found["label"] and not (self.labelled and found["bracketed"] and self._is_label(found["label"], letter)):
            return None
        return letter

    def _is_label(self, label: str, letter: str) -> bool:
        """Whether a text in front of a letter leaves no doubt that this letter is chosen. "a" is an article there."""
        others = self.letters.replace(letter, "")
        small, near = others.lower(), rf"[\w{extract.APOSTROPHES}]"
        alone = rf"(?<!{near})[{others}{small.replace('a', '')}](?!{near})|\([{others}{small}]\)"
        named = others and re.search(alone, label)
        return label.isprintable() and not named and not _HEDGES.search(label)
