"""Questions in words, answered by reasons in words and an answer after a mark, as GSM8K spells it:

    Q: {question}
    A: {rationale}
    #### {answer}

The hint is the answer in brackets after the question, as in STaR. Tasks of this form say where questions come from.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from qstar import settings
from qstar.settings import Count, Whole
from qstar.tasks import problem
from qstar.tasks.grading.grade import Declared
from qstar.tasks.items import Tokenizer
from qstar.tasks.problem import END, Problem

MARK = "####"
DECLARED = Declared(MARK)


@dataclass(frozen=True)
class Worded(problem.Asked):
    """The form alone: `examples` are the few-shot questions, of which the first `num_shots` are shown."""

    num_shots: Whole = 6  # few-shot examples before a question
    max_new_tokens: Count = 256  # limit of a completion
    strict: bool = False  # answers are right in the plainest spellings only: 72, not 72 dollars or \boxed{72}

    stop = (END, "\nQ:")
    examples = ()

    def __post_init__(self):
        settings.check(self, "task")
        if self.num_shots > len(self.examples):
            raise ValueError(f"task.num_shots = {self.num_shots}: there are {len(self.examples)} few-shot examples")

    def shots(self, problem: Problem, rng: np.random.Generator) -> Sequence[Problem]:
        """The first examples, always the same."""
        return [example for example in self.examples if example.question != problem.question][: self.num_shots]

    def ask(self, problem: Problem, hint: bool) -> str:
        return f"Q: {problem.question}{self.shown(problem) if hint else ''}\nA:"

    def shown(self, problem: Problem) -> str:
        return f" ({problem.hint_text})"

    def completion(self, rationale: str, problem: Problem) -> str:
        return (f" {rationale}\n" if rationale else " ") + f"{MARK} {problem.answer}{END}"

    def cleaned(self, written: str) -> str | None:
        match = re.search(rf"{MARK}.*", written)
        return match and f" {written[: match.end()].strip()}{END}"

    def reasons(self, stored: str) -> str | None:
        before, mark, _ = stored.partition(MARK)
        return before if mark else None

    def spellings(self, problem: Problem) -> tuple[str, ...]:
        """The answer, and with commas where it is a number of thousands."""
        whole = re.fullmatch(r"-?\d{4,}", problem.answer)
        return (problem.answer, f"{int(problem.answer):,}") if whole else (problem.answer,)

    def budget(self, problem: Problem, tokenizer: Tokenizer) -> int:
        return self.max_new_tokens


def flattened(rationale: str) -> str:
    """Without empty lines, which end a completion."""
    return re.sub(r"\n\s*\n", "\n", rationale.strip())
