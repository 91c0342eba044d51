"""SVAMP (Patel et al., 2021): 1,000 short word problems of one or two operations, variations of about a hundred.

The data set has one file. By a hash of the question nine in ten test problems would have a variation of themselves in
train (more than six in ten words in common; counted on that file). So families of problems that share their words are
kept together: of about three in ten families the problems are test, of one in ten dev.
"""

import ast
import functools
import operator
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

from qstar import files
from qstar.settings import Count
from qstar.tasks import lines, problem, worded
from qstar.tasks.grading import extract, grade
from qstar.tasks.grading.grade import Grader
from qstar.tasks.problem import Problem
from qstar.tasks.worded import Worded

TEST, DEV = 0.3, 0.1  # of the families
# Words that unrelated problems share.
COMMON = frozenset(
    "the a an of in on to and his her their he she they him had has have was were is are there if each with for at "
    "some more many how much did do does it that then be by from all now one".split()
)

# Questions of our own, worked out.
EXAMPLES = tuple(
    Problem(f"shot-{i}", question, answer, rationale=rationale)
    for i, (question, rationale, answer) in enumerate(
        [
            (
                "A baker put 8 loaves on each of 7 trays. How many loaves are on the trays?",
                "There are 7 trays with 8 loaves each. That makes 7 * 8 = 56 loaves.",
                "56",
            ),
            (
                "Lena had 31 stamps. She gave 12 of them to her brother and kept 4 torn ones apart. How many stamps "
                "did her brother get?",
                "Lena gave 12 stamps to her brother. The torn stamps do not matter. So he got 12 stamps.",
                "12",
            ),
            (
                "On a shelf there are 45 red books and 28 blue books. How many more red than blue books are there?",
                "There are 45 red books and 28 blue books. The difference is 45 - 28 = 17 books.",
                "17",
            ),
            (
                "A tank held 90 litres. 35 litres were used and then 20 litres were added. How many litres are in the "
                "tank now?",
                "After use there were 90 - 35 = 55 litres. With what was added there are 55 + 20 = 75 litres.",
                "75",
            ),
            (
                "72 chairs are set up in rows of 9. How many rows are there?",
                "Each row takes 9 of the 72 chairs. That makes 72 / 9 = 8 rows.",
                "8",
            ),
            (
                "Some birds sat on a roof. 14 flew away, and 19 stayed. How many birds sat there at first?",
                "The birds at first are those that stayed and those that flew away. That makes 19 + 14 = 33 birds.",
                "33",
            ),
        ]
    )
)
# What parsing and computing raise for any other text; for deep nesting, MemoryError.
NO_CALCULATION = (
    SyntaxError, ArithmeticError, LookupError, TypeError, ValueError, AttributeError, RecursionError, MemoryError
)  # fmt: skip
OPERATIONS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}


@dataclass(frozen=True)
class SVAMP(Worded):
    """SVAMP.json of `folder`. The kind of operation is a problem's group, its equation its rationale."""

    folder: str = ""  # that holds SVAMP.json
    max_new_tokens: Count = 128  # limit of a completion

    name = "svamp"
    examples = EXAMPLES

    @property
    def grader(self) -> Grader:
        return grade.Numeric(worded.DECLARED, self.strict)

    def problems(self, split: str) -> Sequence[Problem]:
        problem.known(split)
        path = lines.in_folder(self.folder, "SVAMP.json")
        rows = list(_rows(path))
        problems = problem.checked([(where, example) for where, example, _ in rows], self.grader)
        first = families(tuple(body for _, _, body in rows))
        return [
            example for example, place in zip(problems, first, strict=True) if split_of(problems[place].id) == split
        ]


def split_of(family: str) -> str:
    """By the id of the first problem of a family."""
    place = problem.share(family)
    return "test" if place < TEST else "dev" if place < TEST + DEV else "train"


@functools.lru_cache(maxsize=4)
def families(bodies: tuple[str, ...]) -> list[int]:
    """For every text the place of the first in its family: two belong together where they share half their words.

    So do two that belong with a third.
    """
    words = [frozenset(re.findall(r"[a-z]+", body.lower())) - COMMON for body in bodies]
    first = list(range(len(words)))
    for i, mine in enumerate(words):
        near = {first[j] for j in range(i) if 2 * len(mine & words[j]) >= len(mine | words[j])}
        if near:
            joined = min(near)
            first[: i + 1] = [joined if place in near or place == i else place for place in first[: i + 1]]
    return first


def _rows(path: Path) -> Iterator[tuple[str, Problem, str]]:
    records = files.parsed(files.text(path), str(path))
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise ValueError(f"{path}: expected a list of problems, [{{...}}, ...]")
    for number, record in enumerate(records, 1):
        where = f"{path}, problem {number}"
        body = lines.member(record, "Body", where).strip()
        question = _joined(body, lines.member(record, "Question", where).strip())
        answer = lines.member(record, "Answer", where, float)
        # Two spellings of it are in the file.
        kind = lines.member(record, "Type", where).replace("Divison", "Division")
        rationale = worked(lines.member(record, "Equation", where), answer)
        yield where, Problem(lines.member(record, "ID", where), question, _spelled(answer), "", rationale, kind), body


def _joined(body: str, question: str) -> str:
    """Some bodies are conditions without a full stop, which the question ends."""
    if not body or not question or body.endswith((".", "?", "!")):
        return f"{body} {question}".strip()
    return f"{body.rstrip(',')}, {question[0].lower()}{question[1:]}"


def worked(equation: str, answer: float) -> str:
    """ "( ( 3.0 + 5.0 ) + 2.0 )" as "(3 + 5) + 2 = 10"; "" where its value is not the answer."""
    try:
        value = _value(ast.parse(equation.strip(), mode="eval").body)
    except NO_CALCULATION:
        return ""
    if value != Fraction(answer):
        return ""
    text = re.sub(r"\.0\b", "", equation).strip()
    text = text[1:-1] if text.startswith("(") and text.endswith(")") else text
    text = re.sub(r"\( ", "(", re.sub(r" \)", ")", text.strip()))
    return f"{text} = {_spelled(answer)}"


def _spelled(answer: float) -> str:
    return extract.plain(Decimal(str(answer)))


def _value(node: ast.expr) -> Fraction:
    if isinstance(node, ast.BinOp):
        return OPERATIONS[type(node.op)](_value(node.left), _value(node.right))
    return Fraction(node.value)
