"""Training data from a file of records (`data/record_files.py`), packed into rows of one length."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

from qstar import settings
from qstar.data import overlong, pipeline, record_files
from qstar.data.dataset import Data, RandomAccess
from qstar.data.overlong import OVERLONG, Record
from qstar.settings import OneOf, Range
from qstar.structs import Batch, Pairs

if TYPE_CHECKING:  # its library takes a while to import
    from qstar.data.tokenizer import Tokenizer


@dataclass(frozen=True)
class FileData(Data):
    """The base of the formats; each defines `parsed` and `packed`."""

    expected: ClassVar[str]  # fields of a record, for messages
    records: ClassVar[str]  # what is read, in the plural

    path: str  # of the file: JSON lines, Parquet, or a folder of Dataset.save_to_disk
    length: Annotated[int, Range(2)] = 256  # tokens in a row
    # records that are longer than a row: error, or skip (left out and counted)
    overlong: Annotated[str, OneOf(OVERLONG)] = "error"

    def __post_init__(self):
        settings.check(self, "data")

    def files(self) -> Sequence[Path]:
        return record_files.listed(self.path, self.expected)

    def read(self, tokenizer: "Tokenizer") -> list[Record]:
        """The records of the file, as token ids.

        Raises FileNotFoundError; ValueError for one that is not a record of this format.
        """
        return [
            record
            for where, line in record_files.read(self.path, self.expected)
            for record in self._placed(line, where, tokenizer)
        ]

    def _placed(self, line: dict, where: str, tokenizer: "Tokenizer") -> list[Record]:
        """As `parsed`; errors of the tokenizer, which knows no lines, name the line too."""
        try:
            return list(self.parsed(line, where, tokenizer))
        except ValueError as error:
            if where in str(error):
                raise
            raise ValueError(f"{where}: {error}") from error

    def build(
        self, tokenizer: "Tokenizer", batch_size: int, seed: int, say: Callable[[str], None] = print
    ) -> RandomAccess:
        records = self.read(tokenizer)
        if not records:
            raise ValueError(
                f"data.path = {self.path!r} holds no {self.records}: expected records with {self.expected}"
            )
        if self.overlong == "skip":
            records = self.fitting(records, say)
        return pipeline.source_dataset(self.packed(records, seed), batch_size, seed)

    def fitting(self, records: Sequence[Record], say: Callable[[str], None]) -> list[Record]:
        """The records that fit into a row; the number of the others is said."""
        return overlong.fitting(records, self.length, self.records, say)

    def parsed(self, line: dict, where: str, tokenizer: "Tokenizer") -> Iterable[Record]:
        """The records of a line or row. Raises ValueError, with `where` in it, where there is none."""
        raise NotImplementedError(f"{type(self).__name__} does not define parsed")

    def packed(self, records: Sequence[Record], seed: int) -> Sequence[Batch | Pairs]:
        """Rows [S = length] that hold every record once. Raises ValueError for no records, and for overlong ones."""
        raise NotImplementedError(f"{type(self).__name__} does not define packed")
