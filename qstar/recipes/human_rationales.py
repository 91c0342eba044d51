"""Fine-tuning on human rationales: the baseline for a model that writes its own."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from qstar.recipes import kept as keeping
from qstar.recipes.kept import Kept
from qstar.recipes.recipe import Recipe, Target
from qstar.settings import Count
from qstar.tasks.problem import Problem, Task


@dataclass(frozen=True)
class HumanRationales(Recipe):
    """Fine-tuning on human rationales."""

    asks_itself: ClassVar[bool] = False
    made_by: ClassVar[dict[str, object]] = {"target": "human"}

    target: Target = "human"
    steps: Count = 500

    def check_questions(self, name: str, problems: Sequence[Problem]) -> None:
        if not any(problem.rationale for problem in problems):
            raise ValueError(f"improve.target=human: no problem of {name} has a human rationale; choose own or direct")

    def given(self, task: Task, problems: Sequence[Problem]) -> list[Kept]:
        return keeping.human(task, problems)

    def after_hints(self, kept: Sequence[Kept], iteration: int, seed: int) -> list[Kept]:
        return []
