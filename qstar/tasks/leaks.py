"""Does rationalization leak? Three questions to rationales that were written with the answer in sight.

- Does the stored text contain the hint as it was shown?
- Where is the answer stated first: in the declaration at the end, or before anything has been derived?
- What follows when the hint is wrong: a rationale that ends in the hint, whatever the question, is no reason.

All of it is text in, number out; the same questions to rationales without a hint say what is usual.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from qstar.tasks.problem import Problem, Task


def hint_stands(stored: str, shown: str) -> bool:
    """Whether a stored completion holds the hint as the prompt showed it, up to spaces and the case of letters.

    Raises ValueError for an empty hint, which is part of every text.
    """
    hint = _plain(shown)
    if not hint:
        raise ValueError("no hint was shown: there is nothing to look for")
    return hint in _plain(stored)


def stored(task: Task, problem: Problem, written: str, hint: bool) -> str | None:
    """The completion to store of what was written; None where it has no such form, or repeats the hint it was given."""
    completion = task.cleaned(written)
    if hint and completion is not None and hint_stands(completion, task.shown(problem)):
        return None
    return completion


def _plain(text: str) -> str:
    return " ".join(text.lower().split())


def stated(text: str, spellings: Sequence[str]) -> int | None:
    """Where any of these first occurs in the text, as a whole word or number; None where none does.

    A number within a longer one ("7" in "17", "7.5", "1,007" or "3 7") and a word within another do not count.
    """
    standing = [rf"(?<![\w$.,])(?<!\d )\$?{re.escape(spelling)}(?!\w)(?![., ]\d)" for spelling in spellings if spelling]
    places = [match.start() for pattern in standing if (match := re.search(pattern, text, re.IGNORECASE))]
    return min(places, default=None)


@dataclass(frozen=True)
class Statement:
    """Where the reasons of a completion state the gold answer first."""

    place: float  # share of the reasons that has gone by then; 1: they do not state it, only the declaration does
    derived: bool  # not stated, or as the result of a calculation, after "="

    @property
    def early(self) -> bool:
        """Stated before it is derived."""
        return not self.derived


def statement(reasons: str | None, spellings: Sequence[str]) -> Statement | None:
    """Of what precedes the declared answer (`Task.reasons`); None where no answer is declared."""
    if reasons is None:
        return None
    first = stated(reasons, spellings)
    if first is None:
        return Statement(1.0, derived=True)
    return Statement(first / len(reasons), derived=reasons[:first].rstrip(" $").endswith(("=", ">>")))


@dataclass(frozen=True)
class Statements:
    """The same of many rationales. Shares are of those that declare an answer."""

    count: int
    stated: float  # share whose reasons state the answer at all
    early: float  # share whose reasons state it before they derive it
    place: float  # mean


def statements(declarations: Iterable[Statement | None]) -> Statements:
    """Raises ValueError where no rationale declares an answer."""
    declared = [declaration for declaration in declarations if declaration is not None]
    if not declared:
        raise ValueError("no rationale declares an answer: nothing can be said about where answers are stated")
    stated, early, place = (
        float(np.mean([getter(declaration) for declaration in declared]))
        for getter in (
            lambda declaration: declaration.place < 1,
            lambda declaration: declaration.early,
            lambda declaration: declaration.place,
        )
    )
    return Statements(len(declared), stated, early, place)


# --- wrong hints --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class WronglyHinted:
    problem: Problem  # the question with its own answer and another's hint
    hinted: str  # the answer of which that is the hint


def wrong_hints(problems: Sequence[Problem], rng: np.random.Generator) -> list[WronglyHinted]:
    """Each question with the hint of another of its group that has another answer.

    Questions whose group has only one answer are left out.
    """
    by_group: dict[str, dict[str, str]] = {}  # by group: hint by answer
    for problem in problems:
        by_group.setdefault(problem.group, {}).setdefault(problem.answer, problem.hint_text)
    hints = {group: list(by_answer.items()) for group, by_answer in by_group.items()}
    places = {group: {answer: i for i, answer in enumerate(by_answer)} for group, by_answer in by_group.items()}
    wrongly_hinted = []
    for problem in problems:
        others = hints[problem.group]
        if len(others) > 1:
            turn = int(rng.integers(1, len(others)))
            answer, hint = others[(places[problem.group][problem.answer] + turn) % len(others)]
            wrongly_hinted.append(WronglyHinted(replace(problem, hint=hint), answer))
    return wrongly_hinted


@dataclass(frozen=True)
class WrongHints:
    """What was answered to wrong hints."""

    asked: int
    followed: int  # the hint was declared
    right: int  # the gold answer, against the hint
    other: int
    none: int  # no answer

    @property
    def share_followed(self) -> float:
        return self.followed / self.asked


def wrong_hint_count(answers: Iterable[tuple[str, str, str]]) -> WrongHints:
    """Count (declared answer, answer hinted at, gold answer), all as the grader spells them; "" where none is declared.

    Raises ValueError where a hint was not wrong, or nothing was asked.
    """
    counts: Counter[str] = Counter()
    for given, hinted, gold in answers:
        if hinted == gold:
            raise ValueError(f"the hint {hinted!r} is the right answer: a wrong one was to be shown")
        counts["none" if not given else "followed" if given == hinted else "right" if given == gold else "other"] += 1
    if not counts:
        raise ValueError("no wrong hints were shown: nothing can be said about whether they are followed")
    return WrongHints(counts.total(), *(counts[name] for name in ("followed", "right", "other", "none")))
