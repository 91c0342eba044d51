"""STaR's arithmetic (Zelikman et al., 2022): sums of two n-digit numbers, worked out on a scratchpad.

The first line of a scratchpad is the sum; each further one adds one pair of digits, from the right, and shows what has
been computed so far and the carry before it; the last one always begins with the carry, the answer never with a zero:

    Input:
    5 8 + 4 1
    Target:
    <scratch>
    5 8 + 4 1 , C: 0
    5 + 4 , 9 C: 0
    , 9 9 C: 0
    0 9 9
    </scratch>
    9 9

The hint shows the scratchpad's last line after "Target:", as in the official code.
"""

import functools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np

from qstar import settings
from qstar.settings import Count, Range, Seed, Whole
from qstar.tasks import problem
from qstar.tasks.grading import grade
from qstar.tasks.grading.grade import Declared, Grader, Verdict
from qstar.tasks.items import Tokenizer
from qstar.tasks.problem import END, Problem, Truth

ALPHABET = "0123456789 +,:\n" + "".join(sorted(set("InputTargetC<scratch></scratch>")))
"""Every character of prompts and completions."""
WORDS = ("Input:\n", "Target:", "<scratch>\n", "</scratch>\n", " C:", " ,", " +", *(f" {digit}" for digit in range(10)))
"""Tokens in addition to single characters: texts become less than half as long."""

DECLARED = Declared("</scratch>\n")
MOST = 20_000  # problems of one number of digits in dev and test: there are as many from three digits on


@dataclass(frozen=True)
class Sums:
    """The line after the scratchpad, or the first line where there is no scratchpad, as in the official checker.

    Its digits are separated by spaces, as in the paper. `strict` is the official checker's exact text.
    """

    strict: bool = False
    name: ClassVar[str] = "sums"
    version: ClassVar[int] = 2

    def canonical(self, gold: str) -> str:
        spelled = grade.one_space(gold)
        if not re.fullmatch(r"[0-9]( [0-9])*", spelled):
            raise ValueError(f"gold answer {gold!r} is not a number in spaced digits, such as '1 0 5'")
        return spelled

    def __call__(self, written: str, gold: str) -> Verdict:
        direct = not written.lstrip(grade.WHITE).startswith("<scratch>")
        if direct:
            written = DECLARED.prefix + written.lstrip(grade.WHITE)
        return grade.Exact(DECLARED, self.strict)(written, gold)


@dataclass(frozen=True)
class Arithmetic(problem.Asked):
    """Sums of these numbers of digits, made from a seed.

    A tenth of all sums is dev, another tenth test, by a hash that a + b and b + a share. Problems of train are drawn
    independently, so short sums come more than once, as in the paper; those of dev and test are all different.
    """

    digits: tuple[Annotated[int, Range(1, 18)], ...] = (1, 2, 3, 4, 5)  # digits of the numbers that are added
    train: Count = 10_000  # problems of each number of digits
    # Problems of each number of digits, at most: of one digit there are 11 sums in dev, 10 in test.
    dev: Annotated[int, Range(1, MOST)] = 100
    test: Annotated[int, Range(1, MOST)] = 500  # problems of each number of digits, at most
    num_shots: Whole = 10  # few-shot examples, with as many digits as the question
    seed: Seed = 0  # of the problems
    strict: bool = False  # compare answers as the official checker does, only

    def __post_init__(self):
        object.__setattr__(self, "digits", tuple(self.digits))
        settings.check(self, "task")
        if not self.digits or len(set(self.digits)) < len(self.digits):
            raise ValueError(f"task.digits = {list(self.digits)}: expected different numbers from 1 to 18")

    @property
    def name(self) -> str:
        return f"arithmetic, digits {','.join(map(str, self.digits))}, seed {self.seed}"

    @property
    def grader(self) -> Grader:
        return Sums(self.strict)

    def problems(self, split: str) -> Sequence[Problem]:
        """Of every number of digits the same count, where there are as many sums."""
        count, number = getattr(self, problem.known(split)), problem.SPLITS.index(split)
        drawn = _repeated if split == "train" else _different
        return [
            _problem(f"{split}-{digits}-{i}", a, b)
            for digits in self.digits
            for i, (a, b) in enumerate(drawn(digits, split, count, np.random.default_rng((self.seed, digits, number))))
        ]

    def shots(self, problem: Problem, rng: np.random.Generator) -> Sequence[Problem]:
        """Sums of the train split with as many digits, none of them the question."""
        draws = _draws(int(problem.group), "train", rng)
        others = (_problem(f"shot-{i}", a, b) for i, (a, b) in enumerate(draws))
        return [next(other for other in others if other.question != problem.question) for _ in range(self.num_shots)]

    def ask(self, problem: Problem, hint: bool) -> str:
        return f"Input:\n{problem.question}\n{self.shown(problem) if hint else 'Target:'}\n"

    def shown(self, problem: Problem) -> str:
        return f"Target: {problem.hint_text}"

    def completion(self, rationale: str, problem: Problem) -> str:
        return (f"{rationale}\n" if rationale else "") + problem.answer + END

    def cleaned(self, written: str) -> str | None:
        match = re.match(r"\s*(<scratch>\n(?:.*\n)*?</scratch>\n[0-9][0-9 ]*)(?:\n|\Z)", written)
        return match and match[1].rstrip(" ") + END

    def reasons(self, stored: str) -> str | None:
        """Up to the line after the last pair of digits, which is the answer with its carry apart."""
        before, line, _ = stored.partition("\n, ")
        return before if line else None

    def truth(self, problem: Problem, steps: Sequence[str]) -> Truth:
        """Of the lines of a scratchpad; or of the answer alone, where there is none.

        A line is right where it follows from the question and the line before it, which may be wrong itself; the answer
        can be reached from it where it is the line of the right scratchpad. Without scratchpad there is one step.
        """
        lines = [" ".join(step.split()) for step in steps]
        if lines and lines[0] != "<scratch>":
            right = tuple(self.grader(step, problem.answer).correct for step in steps)
            return Truth(right, right)
        gold = [*problem.rationale.split("\n"), problem.answer]
        reachable = tuple(i < len(gold) and line == gold[i] for i, line in enumerate(lines))
        expected = (follows(lines[:i], gold) for i in range(len(lines)))
        return Truth(tuple(line == next_line for line, next_line in zip(lines, expected, strict=True)), reachable)

    def budget(self, problem: Problem, tokenizer: Tokenizer) -> int:
        """Tokens of the longest right completion with as many digits, carries everywhere."""
        return _longest(int(problem.group), tokenizer)


def scratchpad(a: int, b: int) -> str:
    """The workings of a + b, numbers of as many digits each, from <scratch> to </scratch>."""
    lines, so_far, carry = [f"{_spaced(a)} + {_spaced(b)} , C: 0"], "", 0
    for place, (p, q) in enumerate(zip(reversed(str(a)), reversed(str(b)), strict=True)):
        if place:  # the first pair can be read off the sum
            lines.append(f"{p} + {q} , {so_far}C: {carry}")
        carry, digit = divmod(int(p) + int(q) + carry, 10)
        so_far = f"{digit} {so_far}"
    lines += [f", {so_far}C: {carry}", f"{carry} {so_far}".strip()]
    return "\n".join(["<scratch>", *lines, "</scratch>"])


_STATE = re.compile(r"(?:([0-9]) \+ ([0-9]) |(?:[0-9] )+\+ (?:[0-9] )+)?, ((?:[0-9] )*)C: ([01])")
"""A line of a scratchpad: a pair of digits (or the sum), what has been computed so far, and the carry."""


def follows(before: Sequence[str], gold: Sequence[str]) -> str | None:
    """The line that the rules give after these lines of a scratchpad; None where none follows from them.

    `gold` are the lines of the right one, with the answer: the sum and each pair of digits are the question's.
    """
    place = len(before)
    if place >= len(gold):
        return None
    if place in (0, 1) or gold[place] == "</scratch>":
        return gold[place]
    if place == len(gold) - 1:  # the answer: the last line of the scratchpad without the zero before it
        digits = before[-2]
        return re.sub(r"^0 (?=[0-9])", "", digits) if re.fullmatch(r"[0-9]( [0-9])*", digits) else None
    state = _STATE.fullmatch(before[-1])
    if state is None:
        return None
    p, q, so_far, carry = state.groups()
    if place == len(gold) - 3:  # the carry before all digits computed so far
        return f"{carry} {so_far}".strip() if before[-1].startswith(",") else None
    if place == 2:  # the first pair can be read off the sum
        p, q = (number.split()[-1] for number in gold[1].partition(" ,")[0].split("+"))
    if p is None:
        return None
    carry, digit = divmod(int(p) + int(q) + int(carry), 10)
    pair = gold[place].partition(",")[0]
    return f"{pair}, {digit} {so_far}C: {carry}"


def _spaced(number: int) -> str:
    return " ".join(str(number))


def _problem(id: str, a: int, b: int) -> Problem:
    rationale = scratchpad(a, b)
    question = f"{_spaced(a)} + {_spaced(b)}"
    return Problem(id, question, _spaced(a + b), rationale.split("\n")[-2], rationale, str(len(str(a))))


def split_of(a: int, b: int) -> str:
    """A tenth of all sums is dev, another test; the order of the summands does not matter."""
    return {0: "test", 1: "dev"}.get(int(10 * problem.share(f"sum of {min(a, b)}+{max(a, b)}")), "train")


def _draws(digits: int, split: str, rng: np.random.Generator) -> Iterator[tuple[int, int]]:
    """Independent sums of a split without end."""
    while True:
        for a, b in rng.integers(10 ** (digits - 1), 10**digits, size=(64, 2)).tolist():
            if split_of(a, b) == split:
                yield a, b


def _repeated(digits: int, split: str, count: int, rng: np.random.Generator) -> list[tuple[int, int]]:
    draws = _draws(digits, split, rng)
    return [next(draws) for _ in range(count)]


def _different(digits: int, split: str, count: int, rng: np.random.Generator) -> list[tuple[int, int]]:
    """`count` different sums, or all where there are fewer."""
    if digits <= 2:
        numbers = range(10 ** (digits - 1), 10**digits)
        every = [(a, b) for a in numbers for b in numbers if split_of(a, b) == split]
        return [every[i] for i in rng.permutation(len(every))[:count]]
    sums: dict[tuple[int, int], None] = {}
    draws = _draws(digits, split, rng)
    while len(sums) < count:
        sums[next(draws)] = None
    return list(sums)


@functools.lru_cache(maxsize=256)
def _longest(digits: int, tokenizer: Tokenizer) -> int:
    """Counted on sums whose digits repeat and that carry everywhere: the answer has one digit more."""
    nines = 10**digits - 1
    problems = [_problem("", nines // 9 * digit, nines) for digit in range(1, 10)]
    return max(
        len(tokenizer.encode(f"{example.rationale}\n{example.answer}")) for example in problems
    ) + problem.stop_tokens(tokenizer)
