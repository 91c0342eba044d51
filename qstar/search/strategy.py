"""How trees are grown and a solution is chosen: the base of all strategies."""

import dataclasses
from typing import ClassVar

from qstar import settings
from qstar.search.interface import Solutions
from qstar.search.trees import Trees


class Strategy:
    """A frozen dataclass of hyper-parameters; `n` is the number of candidates of the first round."""

    guided: ClassVar[bool] = False  # whether it needs a scorer
    shown: ClassVar[int] = 0  # earlier solutions that a prompt shows, at most
    stepwise: ClassVar[bool] = False  # whether `propose` is to give one step at a time; else a whole solution serves

    n: int

    def __post_init__(self):
        settings.check(self, "search")

    @property
    def branching(self) -> int:
        """Candidates of a problem that the first round proposes."""
        return self.n

    @property
    def size(self) -> int | None:
        """Whole solutions of a question; None where that is no one number: solutions that are made step by step."""
        return None if self.stepwise else self.n

    def resized(self, size: int) -> "Strategy":
        """The strategy with so many whole solutions of a question."""
        return dataclasses.replace(self, n=size)

    def __call__(self, trees: Trees) -> Solutions:
        raise NotImplementedError(f"{type(self).__name__} does not define __call__")
