"""How trees are grown and a solution is chosen: the base of all strategies."""

from typing import ClassVar

from qstar import settings
from qstar.search.interface import Solutions
from qstar.search.trees import Trees


class Strategy:
    """A frozen dataclass of hyper-parameters; `n` is the number of candidates of the first round."""

    guided: ClassVar[bool] = False  # whether it needs a scorer
    stepwise: ClassVar[bool] = False  # whether `propose` is to give one step at a time; else a whole solution serves

    n: int

    def __post_init__(self):
        settings.check(self, "search")

    @property
    def branching(self) -> int:
        """Candidates of a problem that the first round proposes."""
        return self.n

    def __call__(self, trees: Trees) -> Solutions:
        raise NotImplementedError(f"{type(self).__name__} does not define __call__")
