"""Programs as answers: what is declared is run in the sandbox, and what its `solution()` returns is compared here.

As in program-aided language models (Gao et al., 2022): the model writes `def solution(): ...`, Python computes. The
right answer never enters the program's process, so nothing that happens there can make a wrong value right.
"""

import dataclasses
import decimal
import fractions
from typing import ClassVar

from qstar.tasks.grading import grade, sandbox

LONGEST = 20_000  # characters of a program
LARGEST_EXPONENT = 400  # of a Decimal; a float ends at 308
FENCED = grade.Declared("```python\n", "```")


@dataclasses.dataclass(frozen=True)
class Program:
    """The value that a program's `solution()` returns, against a number or a text.

    For a number: int, Fraction, Decimal and texts that spell a number are compared exactly; a float may be off by
    `tolerance`, relative and absolute, for its own rounding. For a text: `Exact`'s spelling. bool, None, containers and
    objects are no values.
    """

    declared: grade.Declared = FENCED
    limits: sandbox.Limits = dataclasses.field(default_factory=sandbox.Limits)
    tolerance: float = 1e-9
    name: ClassVar[str] = "program"
    version: ClassVar[int] = 1

    def __post_init__(self):
        if not 0 <= self.tolerance < 1:
            raise ValueError(f"Program.tolerance = {self.tolerance}: expected a number from 0 to below 1")

    def canonical(self, gold: str) -> str:
        sandbox.ready()  # when questions are read, before a model is
        return self._spelled(gold)

    def _spelled(self, gold: str) -> str:
        spelled = grade.spelled_number(gold) if len(gold) <= grade.LONGEST_ANSWER else None
        return spelled if spelled is not None else grade.Exact(self.declared).canonical(gold)

    def __call__(self, written: str, gold: str) -> grade.Verdict:
        expected = self._spelled(gold)
        program, problem = grade.settle(written, self.declared, lambda text: text or None, LONGEST)
        if problem:
            return grade.Verdict(False, program, problem)
        outcome = sandbox.run(program, self.limits)
        if outcome.status != "value":
            return grade.Verdict(False, outcome.detail, outcome.status)
        right = self.equal(outcome.kind, outcome.text, expected)
        return grade.Verdict(right, outcome.text, "right" if right else "wrong")

    def equal(self, kind: str, text: str, expected: str) -> bool:
        """Whether a value of a kind, as Python spells it, equals the expected one in canonical spelling."""
        number = grade.spelled_number(expected)
        if number is None:
            return kind == "str" and grade.one_space(text) == expected
        value = _value(kind, text)
        if value is None:
            return False
        right = fractions.Fraction(number)
        slack = fractions.Fraction(self.tolerance) * max(1, abs(right)) if kind == "float" else 0
        return abs(value - right) <= slack


def _value(kind: str, text: str) -> fractions.Fraction | None:
    """A number's value, None for what is none, is not finite or would take more memory than it is worth."""
    if kind not in sandbox.KINDS:
        return None
    if kind == "str":
        spelled = grade.spelled_number(text) if len(text) <= grade.LONGEST_ANSWER else None
        return None if spelled is None else fractions.Fraction(spelled)
    try:
        if kind == "Fraction":
            above, _, below = text.partition("/")
            return fractions.Fraction(int(above), int(below or "1"))
        value = decimal.Decimal(text)
    except (ValueError, ZeroDivisionError, decimal.InvalidOperation):
        return None
    return (
        fractions.Fraction(value)
        if value.is_finite() and abs(value.adjusted()) <= max(LARGEST_EXPONENT, len(text))
        else None
    )
