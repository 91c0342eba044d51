"""Do the splits of a task share questions, or questions that differ in their order, names or numbers alone?

    QSTAR_DATA=FOLDER python experiments/checks/splits.py

Without the folder the data sets are left out, and without the extra `gym` its task. Prints a row for every task and
every way in which two questions are called the same: how many questions a split has, how many of test are different,
and how many questions of dev and test are in an earlier split too.
"""

import importlib.util
import os
import re
from collections.abc import Callable, Hashable, Iterator

from qstar.cli import flags
from qstar.reports import tables
from qstar.tasks.arithmetic import Arithmetic
from qstar.tasks.commonsense_qa import CommonsenseQA
from qstar.tasks.countdown import Countdown, Goal
from qstar.tasks.cups import Cups
from qstar.tasks.gsm8k import GSM8K
from qstar.tasks.problem import SPLITS, Task
from qstar.tasks.puzzles import Puzzles
from qstar.tasks.svamp import SVAMP

NAMES = (
    "task", "the same if", "train", "dev", "test", "different in test", "dev in train", "test in train", "test in dev"
)  # fmt: skip
Same = Callable[[str], Hashable]
"""Of a question what another has as well that is called the same."""


def exact(question: str) -> str:
    return question


def terms(question: str) -> tuple[str, ...]:
    """Numbers with their signs, in a fixed order."""
    return tuple(sorted(re.findall(r"[-+]\d+", "+" + question.rpartition(": ")[2].replace(" ", ""))))


def goal(question: str) -> tuple[int, ...]:
    asked = Goal.of(question)
    return (asked.target, *sorted(asked.numbers))


def moves(question: str) -> str:
    return question[1:]


def words(question: str) -> str:
    """Without capitalised words and numbers."""
    return re.sub(r"\b[A-Z][a-z]*\b|\d[\d,.]*", "", question)


def stem(question: str) -> tuple[str, ...]:
    return tuple(re.findall("[a-z]+", question.partition("\n")[0].lower()))


def options(question: str) -> tuple[str, ...]:
    return tuple(sorted(line.partition(") ")[2] for line in question.split("\n")[2:]))


def asked(folder: str) -> Iterator[tuple[str, Task, dict[str, Same]]]:
    yield "arithmetic", Arithmetic(), {"exact": exact, "terms in any order": terms}
    yield "countdown", Countdown(), {"exact": exact, "numbers in any order": goal}
    yield "cups", Cups(), {"exact": exact, "moves from any start": moves}
    if importlib.util.find_spec("reasoning_gym"):
        sums = Puzzles(options={"min_terms": 3, "max_terms": 4, "min_digits": 1, "max_digits": 1})
        yield "chain_sum of 3 or 4 terms", sums, {"exact": exact, "terms in any order": terms}
    if folder:
        yield "gsm8k", GSM8K(folder=f"{folder}/gsm8k"), {"exact": exact, "but for names and numbers": words}
        yield "svamp", SVAMP(folder=f"{folder}/svamp"), {"exact": exact, "but for names and numbers": words}
        choices = {"exact": exact, "words of the stem": stem, "options in any order": options}
        yield "commonsense_qa", CommonsenseQA(folder=f"{folder}/commonsenseqa"), choices


def rows(folder: str) -> Iterator[tuple]:
    for name, task, ways in asked(folder):
        questions = {split: [problem.question for problem in task.problems(split)] for split in SPLITS}
        for way, same in ways.items():
            train, dev, test = ([same(question) for question in questions[split]] for split in SPLITS)
            pairs = ((dev, set(train)), (test, set(train)), (test, set(dev)))
            shared = [sum(question in earlier for question in mine) for mine, earlier in pairs]
            yield name, way, len(train), len(dev), len(test), len(set(test)), *shared


def main() -> None:
    flags.parser(__doc__).parse_args()
    print(tables.markdown(NAMES, rows(os.environ.get("QSTAR_DATA", ""))), end="")


if __name__ == "__main__":
    main()
