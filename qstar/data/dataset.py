"""What a configuration of training data is: it says which rows it makes, and makes them.

The batch of step k is a function of (seed, k) alone. Which methods a format serves follows from the struct of its rows
and from the batch that their losses take.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Protocol

from qstar.structs import Batch, Pairs

if TYPE_CHECKING:  # its library takes a while to import
    from qstar.data.tokenizer import Tokenizer

FAR = 2**20  # a batch that no run comes to


class RandomAccess(Protocol):
    """source[i] is one row of a batch, whose leaves are numpy arrays [S]; dataset[k] the batch of step k."""

    def __getitem__(self, index: int) -> Batch | Pairs: ...


class Data:
    """A frozen dataclass whose fields say which data, and how rows are made of it; the base of those in `SCHEMAS`."""

    rows: ClassVar[tuple[type, ...]] = (Batch,)  # structs that its batches are, the most special one first
    holds: ClassVar[str] = "text"  # in words, for messages
    example: ClassVar[str] = ""  # a line of a small file, of formats that read `data.path`
    beside: ClassVar[str] = ""  # what else the command line of a first run needs

    length: int  # tokens in a row

    def files(self) -> Sequence[Path]:
        """What it reads; nothing where the rows are made."""
        return ()

    def build(
        self, tokenizer: "Tokenizer", batch_size: int, seed: int, say: Callable[[str], None] = print
    ) -> RandomAccess:
        """dataset[k] is the batch of step k, without end.

        Args:
            say: told in a line what was left out.

        Raises FileNotFoundError and ValueError for files that are not there, or make no rows.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define build")

    def held_out(self, tokenizer: "Tokenizer", training: RandomAccess, batch_size: int, seed: int) -> Batch | Pairs:
        """A batch that training does not reach."""
        return training[FAR]
