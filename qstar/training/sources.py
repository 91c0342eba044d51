"""Where the batches of a training come from: text that was prepared, or what the model itself generates.

The batch of step k is a function of the seed, of k and, where the model generates it, of the state after k - 1 steps. A
checkpoint keeps the state and the position, and a run that was killed ends with the same bits.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol

from qstar import files
from qstar.structs import Batch, TrainState

if TYPE_CHECKING:  # grain takes a second to import
    import grain

Position = files.JsonObject
"""A source's position in its data."""


class Source(Protocol):
    """Batches in order, each drawn once."""

    def next(self, state: TrainState) -> Batch:
        """The batch [B S] of the step that `state` takes next: numpy arrays, in every process all of the rows.

        Raises StopIteration where the data has ended.
        """

    def position(self) -> Position:
        """After the batches that were drawn."""

    def restore(self, position: Position) -> None:
        """Go to a position of another source of the same data."""


class Stream:
    """Batches that do not depend on the weights, of an iterator that knows its position."""

    def __init__(self, batches: "grain.DatasetIterator"):
        self._batches = batches

    def next(self, state: TrainState | None = None) -> Batch:
        return next(self._batches)

    def __iter__(self) -> Iterator[Batch]:
        return self._batches

    def position(self) -> Position:
        return self._batches.get_state()

    def restore(self, position: Position) -> None:
        self._batches.set_state(position)
