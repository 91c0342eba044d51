"""What the study of reinforcement learning is done on: a task, rationales to begin with, and a model to teach them.

cups   2,000 workings of a writer with errors of his own, for the bundled model of cups.
sums   few gold scratchpads of sums of three digits, for the bundled model of sums, which adds two.
gym    few gold workings of reasoning_gym's chain_sum, three or four terms of one digit, for a model from scratch.

On sums and gym every method asks the questions of the rationales and no others, as in ReFT's paper (Luong et al. 2024);
on cups others of the same kind. Every base has rationales of its own, and on sums and gym its own questions.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np

from qstar import config as configs
from qstar import files
from qstar.data import tokenizer as tokenizers
from qstar.tasks import cups
from qstar.tasks.problem import Problem, Task

ROUGH = 0.15  # share of the facts that a writer confuses more often than not


def trained(source: Path | str) -> tuple[str, ...]:
    """Settings of a model to go on from."""
    return ("model=pretrained", f"model.source={source}")


class Ground:
    """A task with a base for every number; sizes are in tokens."""

    name: ClassVar[str]
    task: ClassVar[tuple[str, ...]]  # settings
    questions: ClassVar[int]  # of a base, with rationales
    steps: ClassVar[int]  # of teaching the rationales, 16 at a time
    rate: ClassVar[str]  # of that
    longest: ClassVar[int]  # an answer
    length: ClassVar[int]  # a question with its answer
    row: ClassVar[int]  # of examples, one beside another
    own: ClassVar[bool] = True  # methods that learn from their own answers ask the questions of the rationales
    scorer: ClassVar[str] = ""  # a model that scores steps, where there is one

    def settings(self, base: int) -> tuple[str, ...]:
        """Of the task that is asked in training, on dev and at the end; without its splits' sizes."""
        return (*self.task, f"task.seed={base + 100}")

    def asks(self, base: int, **splits: int) -> Task:
        """The task with these splits."""
        sizes = [f"task.{split}={size}" for split, size in splits.items()]
        model = trained("bundled:cups")  # which the task does not depend on
        return configs.composed("improve", [*self.settings(base), *sizes, *model]).task

    def rationales(self, base: int, questions: int) -> list[dict]:
        """Prompts, completions, and whether their answers are right."""
        task = self.asks(base, train=questions)
        return [
            {
                "prompt": task.prompt(problem),
                "completion": task.completion(self.worked(problem), problem),
                "right": True,
            }
            for problem in task.problems("train")
        ]

    def worked(self, problem: Problem) -> str:
        """The gold rationale."""
        return problem.rationale

    def model(self, folder: Path) -> tuple[str, ...]:
        """Settings of the model that the rationales are taught to; what it needs is written to the folder."""
        raise NotImplementedError


class Cups(Ground):
    """Four to six moves; most questions have right and wrong answers among the samples of a base."""

    name, task = "cups", ("task=cups", "task.min_moves=4", "task.max_moves=6")
    questions, steps, rate = 2000, 240, "1e-3"
    longest, length, row = 16, 24, 48
    own, scorer = False, "bundled:cups_prm"

    def settings(self, base: int) -> tuple[str, ...]:
        return self.task

    def rationales(self, base: int, questions: int) -> list[dict]:
        task = cups.Cups(4, 6, train=questions, seed=base + 100)
        return Writer(base).examples(task, task.problems("train"))

    def model(self, folder: Path) -> tuple[str, ...]:
        return trained("bundled:cups")


class Sums(Ground):
    """Three digits."""

    name, task = "sums", ("task=arithmetic", "task.digits=[3]")
    questions, steps, rate = 100, 30, "1e-4"
    longest, length, row = 64, 96, 96

    def model(self, folder: Path) -> tuple[str, ...]:
        return trained("bundled:sums")


class Gym(Ground):
    """Terms are added up one after another: 7 + 5 - 2 is worked as 7 + 5 = 12, 12 - 2 = 10."""

    name = "gym"
    task = (
        "task=reasoning_gym", "task.task=chain_sum", "+task.options.min_terms=3", "+task.options.max_terms=4",
        "+task.options.min_digits=1", "+task.options.max_digits=1", "task.max_new_tokens=48",
    )  # fmt: skip
    questions, steps, rate = 600, 300, "2e-3"
    longest, length, row = 48, 80, 80
    alphabet = "".join(map(chr, range(32, 127))) + "\n"
    words = (
        "Q: State the final answer to the following arithmetic problem: ", "\nA:", " + ", " - ", " = ", "<answer>",
        "</answer>",
    )  # fmt: skip

    def worked(self, problem: Problem) -> str:
        first, *rest = re.findall(r"(?:[-+] )?\d+", problem.question)
        lines, value = [], int(first)
        for term in rest:
            before, value = value, value + int(term.replace(" ", ""))
            lines.append(f"{before} {term} = {value}")
        return "\n".join(lines)

    def model(self, folder: Path) -> tuple[str, ...]:
        files.make(folder)
        tokenizer = folder / "tokenizer.json"
        tokenizer.write_text(tokenizers.characters(self.alphabet, self.words).to_json(), encoding="utf-8")
        sizes = ("width=128", "layers=3", "heads=4", "kv_heads=4", "head_size=32", "ff=384", "max_len=512")
        return ("model=scratch", f"model.tokenizer={tokenizer}", *(f"model.{size}" for size in sizes))


GROUNDS = {ground.name: ground for ground in (Cups(), Sums(), Gym())}


class Writer:
    """Writes workings in which some moves lead to a wrong cup, with a fixed probability for each cup and move."""

    def __init__(self, number: int):
        self._rng = np.random.default_rng((2024, number))
        facts = [(place, move) for move in cups.MOVES for place in range(1, cups.NUMBER_OF_CUPS + 1)]
        shares = self._rng.uniform(0.0, 0.3, len(facts))
        rough = self._rng.permutation(len(facts))[: round(ROUGH * len(facts))]
        shares[rough] = self._rng.uniform(0.5, 0.8, len(rough))
        self._errors = dict(zip(facts, shares, strict=True))
        self._instead = {
            (place, move): int(self._rng.choice([other for other in range(1, 6) if other != self._right(place, move)]))
            for place, move in facts
        }

    @staticmethod
    def _right(place: int, move: str) -> int:
        return int(cups.MOVES[move][place - 1])

    def examples(self, task: Task, problems: Sequence[Problem]) -> list[dict]:
        rows = []
        for problem in problems:
            place, places = int(problem.question[0]), ""
            for move in problem.question[1:-1]:
                slips = self._rng.random() < self._errors[place, move]
                place = self._instead[place, move] if slips else self._right(place, move)
                places += str(place)
            right = str(place) == problem.answer
            rows.append({"prompt": task.prompt(problem), "completion": f"-{places}-{place};", "right": right})
        return rows
