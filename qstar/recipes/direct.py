"""Fine-tuning on answers alone, without rationales: the baseline that shows what a rationale is worth."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from qstar.recipes import kept as keeping
from qstar.recipes.kept import Kept
from qstar.recipes.recipe import Recipe, Target
from qstar.settings import Count
from qstar.tasks.problem import Problem, Task


@dataclass(frozen=True)
class Direct(Recipe):
    """Fine-tuning on answers alone."""

    asks_itself: ClassVar[bool] = False
    made_by: ClassVar[dict[str, object]] = {"target": "direct"}

    target: Target = "direct"
    steps: Count = 5000

    def given(self, task: Task, problems: Sequence[Problem]) -> list[Kept]:
        return keeping.answers(task, problems)

    def after_hints(self, kept: Sequence[Kept], iteration: int, seed: int) -> list[Kept]:
        return []
