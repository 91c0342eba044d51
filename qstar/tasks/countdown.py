"""Countdown: a number is to be made from others by + - * /, each of them used exactly once.

Every intermediate result is a positive integer. Workings combine two numbers at a time, and say what is left:

    Make 44 from 3, 25, 7, 2.
    3 * 7 = 21, left 25, 2, 21
    25 + 21 = 46, left 2, 46
    46 - 2 = 44

A right answer is easy to recognise and hard to find, because the first steps must be chosen with the last one in mind:
the task on which search is studied (Gandhi et al. 2024, Stream of Search; with three and four numbers, TinyZero).
"""

import ast
import dataclasses
import functools
import itertools
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np

from qstar import settings
from qstar.settings import Count, Range, Seed, Whole
from qstar.tasks import problem as tasks
from qstar.tasks.grading import grade
from qstar.tasks.grading.grade import Grader, Verdict
from qstar.tasks.items import Tokenizer
from qstar.tasks.problem import END, Problem, Truth

ALPHABET = "0123456789 +-*/=,.\nMakefromlt()"
"""Every character of prompts and completions."""
WORDS = ("Make ", " from ", ", left ", " = ", " + ", " - ", " * ", " / ", ", ")
"""Tokens in addition to single characters: texts become less than half as long."""

LARGEST = 999  # intermediate result of a gold solution
MOST_DRAWS = 100_000  # in search of one problem
_QUESTION = re.compile(r"Make (\d+) from (\d+(?:, \d+)*)\.", re.ASCII)
_STEP = re.compile(r"(\d{1,18}) ?([-+*/]) ?(\d{1,18}) ?= ?(\d{1,18})(?:, left (\d{1,18}(?:, \d{1,18})*))?", re.ASCII)
_EXPRESSION = re.compile(r"([-+*/() 0-9]{1,500})(?:= ?([0-9]{1,18}))?")
_SPELLED = str.maketrans("\u00d7\u00b7\u00f7\u2212", "**/-")  # signs of multiplication, division and subtraction
_SIGNS = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/"}


def combined(a: int, sign: str, b: int) -> int | None:
    """The result of an operation; None where it is no positive integer."""
    if sign == "+":
        return a + b
    if sign == "-":
        return a - b if a > b else None
    if sign == "*":
        return a * b
    return a // b if a % b == 0 else None


def moves(numbers: Sequence[int]) -> Iterator[tuple[int, str, int, int, tuple[int, ...]]]:
    """Every step from these positive numbers: operands with the sign between them, result, what is left (with it)."""
    for small, large in map(sorted, itertools.combinations(numbers, 2)):
        rest = without(numbers, small, large)
        for a, sign, b in ((small, "+", large), (small, "*", large), (large, "-", small), (large, "/", small)):
            result = combined(a, sign, b)
            if result is not None:
                yield a, sign, b, result, (*rest, result)


def without(numbers: Sequence[int], *taken: int) -> tuple[int, ...] | None:
    """The numbers in their order without the first of each that is taken; None where one is not there."""
    rest = list(numbers)
    for number in taken:
        if number not in rest:
            return None
        rest.remove(number)
    return tuple(rest)


def can_make(numbers: Sequence[int], target: int) -> bool:
    """Whether the target can be made from all of these positive numbers."""
    return _can_make(tuple(sorted(numbers)), target)


@functools.lru_cache(maxsize=1 << 18)
def _can_make(numbers: tuple[int, ...], target: int) -> bool:
    if len(numbers) == 1:
        return numbers[0] == target
    return any(_can_make(tuple(sorted(left)), target) for *_, left in moves(numbers))


@dataclass(frozen=True)
class Goal:
    """What a question asks for."""

    target: int
    numbers: tuple[int, ...]

    @classmethod
    def of(cls, question: str) -> "Goal":
        """Raises ValueError for another text."""
        match = _QUESTION.fullmatch(question)
        if match is None:
            raise ValueError(f"gold answer {question[:80]!r} is no question such as 'Make 44 from 3, 25, 7, 2.'")
        return cls(int(match[1]), tuple(map(int, match[2].split(", "))))


@dataclass(frozen=True)
class Made:
    """A number that was made, and how."""

    value: int
    expression: str  # with parentheses around every operation; operands of + and * in a fixed order
    used: Counter[int]  # numbers

    @classmethod
    def given(cls, number: int) -> "Made":
        return cls(number, str(number), Counter([number]))

    def with_other(self, sign: str, other: "Made") -> "Made | None":
        """None where the result is no positive integer."""
        value = combined(self.value, sign, other.value) if self.value and other.value else None
        if value is None:
            return None
        sides = [self.expression, other.expression]
        if sign in "+*":
            sides.sort()
        return Made(value, f"({sides[0]} {sign} {sides[1]})", self.used + other.used)


def line(a: int, sign: str, b: int, result: int, left: Sequence[int]) -> str:
    """A step; `left` includes the result, and is not written where that is all."""
    return f"{a} {sign} {b} = {result}" + (f", left {', '.join(map(str, left))}" if len(left) > 1 else "")


@dataclass(frozen=True)
class Makes:
    """The last number of workings, or of an expression, is the target, and every number of the question is used once.

    Answers are the same if they are the same expression up to the order of summands and factors. What stands after
    "left" is not looked at. Workings that use numbers they do not have are an answer, and wrong.
    """

    name: ClassVar[str] = "countdown"
    version: ClassVar[int] = 1

    def canonical(self, gold: str) -> str:
        Goal.of(gold)
        return gold

    def __call__(self, written: str, gold: str) -> Verdict:
        goal, lines = Goal.of(gold), _lines(written)
        if lines is None:
            return Verdict(False, "", "no answer")
        steps = list(map(_STEP.fullmatch, lines))
        made = _followed(steps, goal.numbers) if steps[0] else _read(lines[0])
        if made is None:
            return Verdict(False, grade.one_space("; ".join(step.partition(", left")[0] for step in lines)), "wrong")
        right = made.value == goal.target and made.used == Counter(goal.numbers)
        return Verdict(right, made.expression, "right" if right else "wrong")


def _lines(written: str) -> list[str] | None:
    """The lines of workings, or the expression alone, which may say its value; None where it is neither."""
    lines = [text.strip() for text in written.translate(_SPELLED).strip().split("\n")]
    if all(map(_STEP.fullmatch, lines)):
        return lines
    return lines if len(lines) == 1 and _EXPRESSION.fullmatch(lines[0]) else None


def _followed(steps: Sequence[re.Match], numbers: Sequence[int]) -> Made | None:
    """What workings make in their last line; None where a step uses what it does not have, or miscalculates."""
    have, made = list(map(Made.given, numbers)), None
    for step in steps:
        operands = [_taken(have, int(step[place])) for place in (1, 3)]
        made = operands[0].with_other(step[2], operands[1]) if all(operands) else None
        if made is None or made.value != int(step[4]):
            return None
        have.append(made)
    return made


def _taken(have: list[Made], value: int) -> Made | None:
    """The last number of this value, which is taken out."""
    for place in reversed(range(len(have))):
        if have[place].value == value:
            return have.pop(place)
    return None


def _read(text: str) -> Made | None:
    """An expression; None for what is none, where a result is no positive integer, or not the value that is said."""
    expression, said = _EXPRESSION.fullmatch(text).groups()
    try:
        made = _evaluated(ast.parse(expression.strip(), mode="eval").body)
    except (SyntaxError, RecursionError, MemoryError):
        return None
    return made if made is None or said is None or made.value == int(said) else None


def _evaluated(node: ast.AST) -> Made | None:
    if isinstance(node, ast.Constant) and type(node.value) is int:
        return Made.given(node.value)
    if not isinstance(node, ast.BinOp) or type(node.op) not in _SIGNS:
        return None
    left, right = _evaluated(node.left), _evaluated(node.right)
    return left.with_other(_SIGNS[type(node.op)], right) if left and right else None


@dataclass(frozen=True)
class Countdown(tasks.Asked):
    """Problems that have a solution, made from a seed: numbers are drawn, and steps until one number is left.

    A tenth of all problems is dev, another test, by a hash of the target and the sorted numbers. Problems of train are
    drawn independently, so some come more than once; questions of dev and test are all different, but many differ in
    the order of their numbers alone: by default the 200 of dev are 175 problems, the 1,000 of test 586, which is what
    an interval over questions should count. The hint is an expression for the target.
    """

    numbers: tuple[Annotated[int, Range(2, 6)], ...] = (3, 4)  # how many are given
    largest: Annotated[int, Range(2, 100)] = 10  # number that is given
    min_target: Count = 10  # smallest number to be made
    max_target: Annotated[int, Range(1, LARGEST)] = 99  # largest number to be made
    train: Count = 2000  # problems of each count of numbers
    dev: Count = 100  # problems of each count of numbers
    test: Count = 500  # problems of each count of numbers
    num_shots: Whole = 0  # examples before a question, with as many numbers
    seed: Seed = 0  # of the problems

    def __post_init__(self):
        object.__setattr__(self, "numbers", tuple(self.numbers))
        settings.check(self, "task")
        if not self.numbers or len(set(self.numbers)) < len(self.numbers):
            raise ValueError(f"task.numbers = {list(self.numbers)}: expected different numbers from 2 to 6")
        if self.min_target > self.max_target:
            raise ValueError(
                f"task.min_target = {self.min_target}, task.max_target = {self.max_target}: expected min <= max"
            )

    @property
    def name(self) -> str:
        return f"countdown, {','.join(map(str, self.numbers))} numbers up to {self.largest}, seed {self.seed}"

    @property
    def grader(self) -> Grader:
        return Makes()

    def problems(self, split: str) -> Sequence[Problem]:
        """Of every count of numbers the same. Raises ValueError where dev or test has fewer different ones."""
        size, number = getattr(self, tasks.known(split)), tasks.SPLITS.index(split)
        return [
            dataclasses.replace(problem, id=f"{split}-{count}-{i}")
            for count in self.numbers
            for i, problem in enumerate(self._of(count, split, size, np.random.default_rng((self.seed, count, number))))
        ]

    def _of(self, count: int, split: str, size: int, rng: np.random.Generator) -> Sequence[Problem]:
        """So many problems of a count of numbers."""
        draws = self._draws(count, split, rng)
        if split == "train":
            return list(itertools.islice(draws, size))
        problems = tasks.different(draws, size)
        if len(problems) < size:
            raise ValueError(
                f"task.{split} = {size}: there are hardly more than {len(problems)} different problems like "
                f"{problems[0].question!r} in {split}; ask for fewer, or for more or larger numbers"
            )
        return problems

    def _draws(self, count: int, split: str, rng: np.random.Generator) -> Iterator[Problem]:
        """Independent problems of a split without end. Raises ValueError where there is hardly one."""
        in_vain = 0
        while in_vain < MOST_DRAWS:
            made, in_vain = self._drawn(count, rng), in_vain + 1
            if made is not None and split_of(made.question) == split:
                in_vain = 0
                yield made
        raise ValueError(
            f"task.numbers = {list(self.numbers)}: {MOST_DRAWS:,} draws of {count} numbers up to {self.largest} made "
            f"no number from {self.min_target} to {self.max_target}; allow more or larger numbers, or other targets"
        )

    def _drawn(self, count: int, rng: np.random.Generator) -> Problem | None:
        """A problem with a random solution; None where its result is too large, too small, or its steps are."""
        numbers = tuple(rng.integers(1, self.largest + 1, size=count).tolist())
        have, left, lines = list(map(Made.given, numbers)), numbers, []
        while len(left) > 1:
            steps = [step for step in moves(left) if step[3] <= LARGEST]
            if not steps:
                return None
            a, sign, b, result, left = steps[rng.integers(len(steps))]
            made = _taken(have, a).with_other(sign, _taken(have, b))
            have.append(made)
            lines.append(line(a, sign, b, result, left))
        if not self.min_target <= left[0] <= self.max_target:
            return None
        question = f"Make {left[0]} from {', '.join(map(str, numbers))}."
        expression = have[0].expression[1:-1]
        return Problem("", question, expression, rationale="\n".join(lines), group=str(count), key=question)

    def shots(self, problem: Problem, rng: np.random.Generator) -> Sequence[Problem]:
        """Problems of the train split with as many numbers, none of them the question."""
        others = (made for made in self._draws(int(problem.group), "train", rng) if made.question != problem.question)
        return [
            dataclasses.replace(made, id=f"shot-{i}") for i, made in enumerate(itertools.islice(others, self.num_shots))
        ]

    def ask(self, problem: Problem, hint: bool) -> str:
        return problem.question + (self.shown(problem) if hint else "") + "\n"

    def shown(self, problem: Problem) -> str:
        return f" {problem.hint_text}"

    def completion(self, rationale: str, problem: Problem) -> str:
        """Workings declare their answer themselves."""
        return (rationale or problem.answer) + END

    def cleaned(self, written: str) -> str | None:
        lines = _lines(written.strip().split("\n\n")[0])
        return None if lines is None else "\n".join(lines) + END

    def reasons(self, stored: str) -> str | None:
        """The lines before the last one."""
        lines = _lines(stored)
        return None if lines is None else "\n".join(lines[:-1])

    def budget(self, problem: Problem, tokenizer: Tokenizer) -> int:
        """Tokens of workings whose every number has three digits."""
        count = int(problem.group)
        longest = [line(LARGEST, "*", LARGEST, LARGEST, [LARGEST] * left) for left in reversed(range(1, count))]
        return len(tokenizer.encode("\n".join(longest))) + tasks.stop_tokens(tokenizer)

    def truth(self, problem: Problem, steps: Sequence[str]) -> Truth:
        """Of the lines of workings; or of the answer alone, where there are none.

        A step is right where it uses numbers that the line before says are left, calculates rightly, and says nothing
        else than what is left now. The target is reachable where it can be made of the numbers that really are left.
        """
        texts = [step.strip().translate(_SPELLED) for step in steps]
        if len(texts) == 1 and not _STEP.fullmatch(texts[0]):
            right = (self.grader(texts[0], problem.gold).correct,)
            return Truth(right, right)
        goal = Goal.of(problem.gold)
        said: Sequence[int] | None = goal.numbers  # what the lines say is left
        have: Sequence[int] | None = goal.numbers  # what is; None after a step that cannot be
        right, reachable = [], []
        for text in texts:
            step = _STEP.fullmatch(text)
            have = _left(step, have)
            expected = _left(step, said)
            said = tuple(map(int, step[5].split(", "))) if step and step[5] else expected
            right.append(expected is not None and sorted(said) == sorted(expected))
            reachable.append(have is not None and can_make(have, goal.target))
        return Truth(tuple(right), tuple(reachable))


def _left(step: re.Match | None, numbers: Sequence[int] | None) -> tuple[int, ...] | None:
    """What a step leaves of these numbers, its result last; None where it cannot be made of them."""
    if step is None or numbers is None:
        return None
    a, b, result = (int(step[place]) for place in (1, 3, 4))
    rest = without(numbers, a, b)
    return (*rest, result) if rest is not None and a and b and combined(a, step[2], b) == result else None


def split_of(question: str) -> str:
    """A tenth of all problems is dev, another test; the order of the numbers does not matter."""
    goal = Goal.of(question)
    share = tasks.share(f"countdown {sorted(goal.numbers)} {goal.target}")
    return {0: "test", 1: "dev"}.get(int(10 * share), "train")
