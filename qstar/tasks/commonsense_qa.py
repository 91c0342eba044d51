"""CommonsenseQA (Talmor et al., 2019): five-choice questions answered by a letter.

`direct` and `texts` are the items that Quiet-STaR scores, `CommonsenseQA` the task that STaR trains itself on.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from qstar.files import Json
from qstar.settings import Count, Whole
from qstar.tasks import items, lines, problem
from qstar.tasks.grading import grade
from qstar.tasks.grading.grade import Declared, Grader
from qstar.tasks.items import Choices, Item, Tokenizer
from qstar.tasks.problem import END, Problem
from qstar.tasks.worded import Worded

LETTERS = "ABCDE"


def question(row: Mapping[str, Json]) -> str:
    """The question and its five choices, one a line: "(A) ...", "(B) ..."."""
    choices = [f"({letter}) {choice}" for letter, choice in zip(LETTERS, row["choices"], strict=True)]
    return "\n".join([row["question"], *choices])


def direct(
    rows: Iterable[Mapping[str, Json]], tokenizer: Tokenizer, limit: int = items.LIMIT, bos: int | None = None
) -> list[Item]:
    """Zero-shot direct items "Q: {question}\\n(A) ...\\nA: {letter}\\n" of rows {question, choices, answer}.

    Rows may have an id as well; without one it is their number.
    """
    valid = items.valid_tokens(tokenizer, LETTERS)
    return [
        items.item(question(row), row["answer"], tokenizer, valid, limit, bos, row.get("id", str(number)))
        for number, row in enumerate(rows)
    ]


def texts(
    rows: Iterable[Mapping[str, Json]], tokenizer: Tokenizer, limit: int = items.LIMIT, bos: int | None = None
) -> list[Choices]:
    """The same questions answered by a choice's text instead of its letter: the choices are not listed before."""
    return [
        items.choices(
            row["question"],
            row["choices"],
            LETTERS.index(row["answer"]),
            tokenizer,
            limit,
            bos,
            row.get("id", str(number)),
        )
        for number, row in enumerate(rows)
    ]


# --- the task of self-training ------------------------------------------------------------------------------------

DEV = 0.1  # of the training file
FILES = {"train": "train_rand_split.jsonl", "dev": "train_rand_split.jsonl", "test": "dev_rand_split.jsonl"}
CORRECT = " (CORRECT)"
ENDING = r"[Tt]herefore, the answer is \([A-Ea-e]\)\.?"
LINE = r"[Tt]herefore, the answer is [^\n]*[^\s]"
DECLARED = Declared("therefore, the answer is ")


def listed(stem: str, choices: Sequence[str]) -> str:
    """The question as STaR asks it: "Answer Choices:", then one a line, with small letters."""
    options = [f"({letter.lower()}) {choice}" for letter, choice in zip(LETTERS, choices, strict=True)]
    return "\n".join([stem, "Answer Choices:", *options])


# Questions of our own.
EXAMPLES = tuple(
    Problem(f"shot-{i}", listed(stem, choices), answer, rationale=rationale)
    for i, (stem, choices, rationale, answer) in enumerate(
        [
            (
                "Where would you put a letter so that the postman takes it along?",
                ("drawer", "envelope", "mailbox", "bookshelf", "kitchen"),
                "The answer must be a place that postmen empty. A mailbox is where people post letters, and postmen "
                "come by to collect them.",
                "C",
            ),
            (
                "The gardener wanted shade by next summer, so what did she plant?",
                ("moss", "a fast-growing tree", "radishes", "a lawn", "tulip bulbs"),
                "The answer must be tall enough to keep off the sun. Moss, radishes, a lawn and tulips stay close to "
                "the ground. A tree that grows fast can give shade after a year.",
                "B",
            ),
            (
                "What does a person usually feel on finding that the last train has left?",
                ("annoyance", "hunger", "pride", "thirst", "relief"),
                "The answer must be a feeling about a missed chance to get home. Without a train one has to wait or to "
                "find another way, which annoys most people.",
                "A",
            ),
            (
                "What would you use to carry soup to a friend's house?",
                ("plate", "paper bag", "fork", "napkin", "jar with a lid"),
                "The answer must hold a liquid without spilling it on the way. Soup runs off a plate and through "
                "paper. A jar with a lid is tight and can be carried.",
                "E",
            ),
            (
                "The hikers saw dark clouds and heard thunder, so where did they hurry?",
                ("summit", "open field", "lake shore", "mountain hut", "lone tree"),
                "The answer must be a place that is safe in a thunderstorm. Lightning strikes summits, open ground, "
                "water and lone trees. A hut has a roof and walls.",
                "D",
            ),
            (
                "Why might somebody wear gloves in a museum's archive?",
                ("to type faster", "to protect old paper", "to be noticed", "to stay awake", "to save money"),
                "The answer must be a reason that fits an archive. Archives keep old documents, and the grease "
                "of bare hands damages them. Gloves protect the paper.",
                "B",
            ),
            (
                "What is a cellar without windows likely to be when the lamp is broken?",
                ("noisy", "crowded", "dark", "windy", "warm"),
                "The answer must follow from having no light. No daylight comes in without windows, and the lamp gives "
                "none. So nothing can be seen there.",
                "C",
            ),
        ]
    )
)


@dataclass(frozen=True)
class CommonsenseQA(Worded):
    """train_rand_split.jsonl and dev_rand_split.jsonl of `folder`.

    The answers of the official test are not public: the official dev is test here, and dev a fixed tenth of train, by
    a hash of the question.
    """

    folder: str = ""  # that holds the two files
    num_shots: Whole = 7  # few-shot examples before a question
    max_new_tokens: Count = 128  # limit of a completion

    name = "commonsense_qa"
    examples = EXAMPLES
    delimiters = ()  # a rationale is a sentence or two, with the answer in the last

    @property
    def grader(self) -> Grader:
        return grade.Choice(DECLARED, LETTERS, strict=self.strict)

    def problems(self, split: str) -> Sequence[Problem]:
        path = lines.in_folder(self.folder, FILES[problem.known(split)])
        problems = [
            problem.with_listed_options(example, self.grader) for example in problem.checked(_rows(path), self.grader)
        ]
        return problems if split == "test" else [example for example in problems if _part(example) == split]

    def ask(self, problem: Problem, hint: bool) -> str:
        """With a hint, the right option is marked."""
        option = rf"^(\({problem.hint_text.lower()}\) .*)$"
        question = re.sub(option, rf"\1{CORRECT}", problem.question, flags=re.MULTILINE) if hint else problem.question
        return f"Q: {question}\nA:"

    def shown(self, problem: Problem) -> str:
        return CORRECT

    def completion(self, rationale: str, problem: Problem) -> str:
        return (f" {rationale}" if rationale else "") + f" Therefore, the answer is ({problem.answer.lower()}).{END}"

    def cleaned(self, written: str) -> str | None:
        ending = self._ending(written)
        return ending and f" {written[: ending.end()].strip()}{END}"

    def reasons(self, stored: str) -> str | None:
        ending = self._ending(stored)
        return ending and stored[: ending.start()]

    def _ending(self, text: str) -> re.Match | None:
        """The declared answer: STaR's form, or any other to the end of its line."""
        return re.search(ENDING, text) or (None if self.strict else re.search(LINE, text))

    def spellings(self, problem: Problem) -> tuple[str, ...]:
        """The letter in brackets, and the choice itself."""
        letter = f"({problem.answer.lower()})"
        choice = next(line for line in problem.question.split("\n") if line.startswith(letter))
        return (letter, choice.removeprefix(letter).strip())


def _part(example: Problem) -> str:
    return "dev" if problem.share(example.question) < DEV else "train"


def _rows(path: Path) -> Iterator[tuple[str, Problem]]:
    for where, record in lines.json_lines(path):
        asked = lines.member(record, "question", where, dict)
        choices = lines.member(asked, "choices", where, list)
        if [isinstance(choice, dict) and choice.get("label") for choice in choices] != list(LETTERS):
            raise ValueError(f"{where}: the choices are not labelled A to E in order")
        stem, texts = lines.member(asked, "stem", where), [lines.member(choice, "text", where) for choice in choices]
        answer = lines.member(record, "answerKey", where)
        yield where, Problem(lines.member(record, "id", where), listed(stem, texts), answer)
