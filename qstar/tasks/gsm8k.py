"""GSM8K (Cobbe et al., 2021): grade-school word problems whose answer is a number.

`direct` are the items that Quiet-STaR scores, `GSM8K` the task that STaR trains itself on.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from qstar.settings import Count
from qstar.tasks import items, lines, problem, worded
from qstar.tasks.grading import grade
from qstar.tasks.grading.grade import Grader
from qstar.tasks.items import Item, Tokenizer
from qstar.tasks.problem import Problem
from qstar.tasks.worded import Worded

SPLITS = ("train", "test")  # of the files


def gold(answer: str) -> str:
    """The number after "####", as written: "1,000" keeps its comma."""
    return answer.split("####")[-1].strip()


def direct(
    rows: Iterable[Mapping[str, str]], tokenizer: Tokenizer, limit: int = items.LIMIT, bos: int | None = None
) -> list[Item]:
    """Zero-shot direct items "Q: {question}\\nA: {number}\\n" of rows {question, answer}, and id where they have one.

    Differs from the official code: a number with a sign is scored by its digits like any other; there it is taken for
    a letter and only its newline is scored (2 of the 1,319 test items).
    """
    valid = items.digit_tokens(tokenizer)
    return [
        items.item(row["question"], gold(row["answer"]), tokenizer, valid, limit, bos, row.get("id", str(number)))
        for number, row in enumerate(rows)
    ]


# --- the task of self-training ------------------------------------------------------------------------------------

DEV = 0.1  # of the training file: there is no other

# Questions of our own, worked out with the data set's annotations <<...>>.
EXAMPLES = tuple(
    Problem(f"shot-{i}", question, answer, rationale=rationale)
    for i, (question, rationale, answer) in enumerate(
        [
            (
                "A ferry crosses the bay 6 times a day. It carries 14 cars on each crossing and charges $5 for a car. "
                "How many dollars does the ferry take in a day?",
                "The ferry carries 6 * 14 = <<6*14=84>>84 cars in a day.\nIt takes 84 * 5 = $<<84*5=420>>420 for them.",
                "420",
            ),
            (
                "Ines baked 36 rolls. She froze a third of them and gave half of the remaining rolls to her neighbour. "
                "How many rolls does she have left to eat today?",
                "She froze 36 / 3 = <<36/3=12>>12 rolls.\n"
                "That leaves 36 - 12 = <<36-12=24>>24 rolls.\n"
                "Her neighbour got 24 / 2 = <<24/2=12>>12 rolls.\n"
                "She has 24 - 12 = <<24-12=12>>12 rolls to eat today.",
                "12",
            ),
            (
                "A rain barrel holds 200 litres and is filled to one quarter. A storm adds 35 litres an hour. How many "
                "litres are in the barrel after 3 hours of storm?",
                "Before the storm there are 200 / 4 = <<200/4=50>>50 litres in the barrel.\n"
                "The storm adds 35 * 3 = <<35*3=105>>105 litres.\n"
                "Afterwards there are 50 + 105 = <<50+105=155>>155 litres.",
                "155",
            ),
            (
                "Petra gets into a lift. It takes her up 8 floors, then down 4, and stops on floor 20. On which floor "
                "did she get in?",
                "Before it went down, the lift was on floor 20 + 4 = <<20+4=24>>24.\n"
                "Petra got in 8 floors below, on floor 24 - 8 = <<24-8=16>>16.",
                "16",
            ),
            (
                "A choir has 48 singers, of whom 25% are basses and 18 are sopranos. The others are altos and tenors, "
                "as many of the one as of the other. How many tenors are there?",
                "There are 48 * 25 / 100 = <<48*25/100=12>>12 basses.\n"
                "Altos and tenors together are 48 - 12 - 18 = <<48-12-18=18>>18 singers.\n"
                "So there are 18 / 2 = <<18/2=9>>9 tenors.",
                "9",
            ),
            (
                "Notebooks cost $3 each, and every fourth notebook is free. Mr Okafor needs 20 notebooks for his class "
                "and has $60. How many dollars does he keep?",
                "Of 20 notebooks 20 / 4 = <<20/4=5>>5 are free.\n"
                "He pays for 20 - 5 = <<20-5=15>>15 notebooks.\n"
                "They cost 15 * 3 = $<<15*3=45>>45.\n"
                "He keeps 60 - 45 = $<<60-45=15>>15.",
                "15",
            ),
        ]
    )
)


@dataclass(frozen=True)
class GSM8K(Worded):
    """train.jsonl and test.jsonl of `folder`; dev is a fixed tenth of the former, by a hash of the question."""

    folder: str = ""  # that holds train.jsonl and test.jsonl
    # limit of a completion; 99 % of human rationales are shorter in SmolLM2's tokens
    max_new_tokens: Count = 320

    name = "gsm8k"
    examples = EXAMPLES

    @property
    def grader(self) -> Grader:
        return grade.Numeric(worded.DECLARED, self.strict)

    def problems(self, split: str) -> Sequence[Problem]:
        file = "test" if problem.known(split) == "test" else "train"
        path = lines.in_folder(self.folder, f"{file}.jsonl")
        problems = problem.checked(_rows(path), self.grader)
        return problems if split == "test" else [example for example in problems if _part(example) == split]


def _part(example: Problem) -> str:
    return "dev" if problem.share(example.question) < DEV else "train"


def _rows(path: Path) -> Iterator[tuple[str, Problem]]:
    for number, (where, record) in enumerate(lines.json_lines(path)):
        rationale, mark, answer = lines.member(record, "answer", where).rpartition(worded.MARK)
        if not mark:
            raise ValueError(f"{where}: the answer has no '{worded.MARK} NUMBER' at its end")
        question = lines.member(record, "question", where).strip()
        example = Problem(f"{path.stem}-{number}", question, answer.strip(), rationale=worded.flattened(rationale))
        yield where, example
