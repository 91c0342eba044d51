"""What self-training needs from a task: questions kept apart by split, prompts with and without a hint, and a grader.

A training text is a prompt and its completion: question, rationale, declared answer, the stop after it. Few-shot
examples are such texts one after another, in hinted prompts with their hints. What a model writes is graded by its
declared answer alone. The test split is for numbers that are reported: `logged_test` writes down each time it is read.
"""

import datetime
import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np

from qstar import files
from qstar.settings import shown
from qstar.tasks.grading.grade import Choice, Grader, Verdict, listed
from qstar.tasks.items import Tokenizer

SPLITS = ("train", "dev", "test")
END = "\n\n"  # after every completion; no rationale holds an empty line
TOUCHES = "test_touches.jsonl"  # of a run directory


@dataclass(frozen=True)
class Problem:
    """One question. Its id is unique in its data set; answers are spelled as the task's grader does."""

    id: str
    question: str
    answer: str
    hint: str = ""  # what is shown to rationalise; "": the answer
    rationale: str = ""  # a human or generated one, where there is one; without the declared answer
    group: str = ""  # for tables: number of digits, a level
    key: str = ""  # the answer with what the grader has to know besides, such as the options; "": the answer

    @property
    def gold(self) -> str:
        """What the grader compares with."""
        return self.key or self.answer

    @property
    def hint_text(self) -> str:
        """What a hint shows."""
        return self.hint or self.answer


class HasQuestion(Protocol):
    @property
    def question(self) -> str: ...


Asking = TypeVar("Asking", bound=HasQuestion)


@dataclass(frozen=True)
class Truth:
    """What is known exactly of the steps of a solution, an entry each."""

    right: tuple[bool, ...]  # it is what the rules give from the steps before it
    reachable: tuple[bool, ...]  # who follows the rules from here on arrives at the right answer

    @property
    def first_wrong(self) -> int | None:
        """The first step that is not right; None where all are."""
        return next((i for i, right in enumerate(self.right) if not right), None)


class Task(Protocol):
    """A frozen dataclass whose fields say which questions, and how they are asked."""

    @property
    def name(self) -> str: ...

    @property
    def stop(self) -> tuple[str, ...]:
        """Texts that end a generation."""

    @property
    def grader(self) -> Grader: ...

    def problems(self, split: str) -> Sequence[Problem]:
        """Questions of train, dev or test. FileNotFoundError, ValueError where files are bad: place and field named."""

    def prompt(self, problem: Problem, shots: Sequence[Problem] = ()) -> str:
        """What the model continues. A shot without a rationale shows its answer alone."""

    def hinted(self, problem: Problem, shots: Sequence[Problem] = ()) -> str:
        """The same with the hint shown; shots show theirs too."""

    def shown(self, problem: Problem) -> str:
        """The hint as `hinted` shows it: what must not be in a stored completion."""

    def shots(self, problem: Problem, rng: np.random.Generator) -> Sequence[Problem]:
        """Few-shot examples for this question; never the question itself."""

    def completion(self, rationale: str, problem: Problem) -> str:
        """What a training text holds after the prompt: rationale, declared answer, stop."""

    def direct(self, problem: Problem) -> str:
        """The completion of direct-answer training: the declared answer and the stop."""

    def cleaned(self, written: str) -> str | None:
        """The completion to store of what a model wrote: cut after the declared answer, with the stop.

        None where it declares no answer.
        """

    def budget(self, problem: Problem, tokenizer: Tokenizer) -> int:
        """Tokens that a right completion may need."""

    def spellings(self, problem: Problem) -> tuple[str, ...]:
        """How the gold answer may be stated within a rationale."""

    def reasons(self, stored: str) -> str | None:
        """The part of a completion that derives the answer; None where none is declared."""

    @property
    def delimiters(self) -> tuple[str, ...]:
        """Texts with which a step ends while it is written; none where solutions have no steps."""

    def steps(self, written: str) -> tuple[str, ...]:
        """How what a model wrote splits into steps; joined they are the text again. The last one has the answer."""

    def truth(self, problem: Problem, steps: Sequence[str]) -> Truth | None:
        """Which of these steps are right, where the task knows it exactly; elsewhere None."""


class Asked:
    """Prompts of a task that says how a single question is `ask`ed."""

    stop = (END,)
    delimiters = ("\n",)

    def ask(self, problem: Problem, hint: bool) -> str:
        raise NotImplementedError

    def completion(self, rationale: str, problem: Problem) -> str:
        raise NotImplementedError

    def prompt(self, problem: Problem, shots: Sequence[Problem] = ()) -> str:
        return self._asked(problem, shots, hint=False)

    def hinted(self, problem: Problem, shots: Sequence[Problem] = ()) -> str:
        return self._asked(problem, shots, hint=True)

    def _asked(self, problem: Problem, shots: Sequence[Problem], hint: bool) -> str:
        before = "".join(self.ask(shot, hint) + self.completion(shot.rationale, shot) for shot in shots)
        return before + self.ask(problem, hint)

    def direct(self, problem: Problem) -> str:
        return self.completion("", problem)

    def spellings(self, problem: Problem) -> tuple[str, ...]:
        return (problem.answer,)

    def steps(self, written: str) -> tuple[str, ...]:
        """A line each; empty lines belong to the one before them."""
        return tuple(re.findall(r"[^\n]+\n*|\n+", written))

    def truth(self, problem: Problem, steps: Sequence[str]) -> Truth | None:
        return None


def graded(task: Task, problem: Problem, written: str, finished: bool) -> Verdict:
    """The verdict on what was written up to a stop; what was cut off is no answer: the rest could declare another."""
    return task.grader(written, problem.gold) if finished else Verdict(False, "", "too long")


def before_stop(text: str, stop: Sequence[str]) -> str:
    """A text without the stop at its end."""
    return next((text.removesuffix(ending) for ending in stop if text.endswith(ending)), text)


def known(split: str) -> str:
    """The split itself. Raises ValueError where there is none of that name."""
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}, expected one of {', '.join(SPLITS)}")
    return split


def no_questions(task: str, split: str) -> str:
    """What to say of a task that has no questions of a split."""
    more = "lower task.dev and task.test" if split == "train" else f"raise task.{split}"
    file = "" if split == "train" else f", or with task=jsonl give task.{split}_path=FILE"
    return f"{task} has no {split} questions: expected some; {more}{file}"


def share(text: str) -> float:
    """A fixed number in [0, 1) for a text: which part of a data set it falls into."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") / 2**32


def checked(problems: Iterable[tuple[str, Problem]], grader: Grader) -> list[Problem]:
    """Problems with their answers as the grader spells them.

    Args:
        problems: with the place that each comes from, for errors.

    Raises ValueError for ids that occur twice and answers that the grader cannot parse.
    """
    places: dict[str, str] = {}
    canonical = []
    for where, problem in problems:
        if problem.id in places:
            raise ValueError(
                f"{where}: id {shown(problem.id)} stands at {places[problem.id]} already; ids must be unique"
            )
        places[problem.id] = where
        canonical.append(_canonical(problem, grader, where))
    return canonical


def with_listed_options(problem: Problem, grader: Choice) -> Problem:
    """With the options in its key, where the question lists them on lines of their own: "A. ...", "(A) ..."."""
    options = listed(problem.question, grader.letters)
    return replace(problem, key=grader.with_options(problem.answer, options)) if options else problem


def _canonical(problem: Problem, grader: Grader, where: str) -> Problem:
    try:
        answer = grader.canonical(problem.answer)
    except ValueError as error:
        raise ValueError(f"{where}: answer {shown(problem.answer)} is none that can be graded ({error})") from error
    values = {**problem.__dict__, "answer": answer}
    return Problem(**values)


def different(draws: Iterator[Asking], count: int) -> list[Asking]:
    """The first `count` draws whose questions are different; fewer where there are hardly more."""
    by_question: dict[str, Asking] = {}
    in_vain = 0  # draws since the last new one: of n different ones the last is missed 10 n times once in 20,000
    while len(by_question) < count and in_vain < 10 * (len(by_question) + 20):
        draw = next(draws)
        in_vain = in_vain + 1 if draw.question in by_question else 0
        by_question.setdefault(draw.question, draw)
    return list(by_question.values())


def stop_tokens(tokenizer: Tokenizer) -> int:
    """Tokens of `END`, a character each: where its two newlines are a token, a model may still write two."""
    return sum(len(tokenizer.encode(character)) for character in END)


def drawn(problems: Sequence[Problem], count: int, seed: int) -> list[Problem]:
    """`count` of the problems in their order, drawn with a fixed seed; 0: all."""
    order = np.random.default_rng(seed).permutation(len(problems))
    return [problems[i] for i in sorted(order[: count or None].tolist())]


def logged_test(task: Task, run_directory: str | Path, reason: str) -> Sequence[Problem]:
    """The test split, and a line in the run directory's test_touches.jsonl that says when and what for."""
    if not reason.strip():
        raise ValueError("the test split is read for a number that is reported: reason must say which")
    problems = task.problems("test")
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    touch = {"when": now, "task": task.name, "problems": len(problems), "reason": reason}
    files.append(Path(run_directory) / TOUCHES, [touch], durable=True)
    return problems
