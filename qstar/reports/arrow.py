"""Records as one Arrow table that notebooks show: `Frame`, which numpy, pandas and polars take as it is.

frame["nll"]              a column as a numpy array, nan where a record lacks it
frame.where(task="cups")  the rows with these values
frame.records()           plain dicts
frame.head(5)             the first rows, `tail` the last; iterating gives dicts
frame.to_pandas()         where pandas is installed; polars.DataFrame(frame) and duckdb need nothing
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from qstar.reports import html

FEW = 10  # rows that a notebook shows of a longer frame, half from either end
WIDE = 14  # columns that it shows


@dataclass(frozen=True, repr=False)
class Frame:
    """Rows with named columns; immutable."""

    arrow: pa.Table

    @classmethod
    def of(cls, records: Iterable[Mapping[str, object]], columns: Sequence[str] = ()) -> "Frame":
        """Of plain records, whose keys need not be the same: what one lacks is null. `columns` are there in any case.

        A column of values that have no common type is text.
        """
        rows = list(records)
        names = list(dict.fromkeys((*columns, *(name for row in rows for name in row))))
        return Frame(pa.table({name: _array([row.get(name) for row in rows]) for name in names}))

    @property
    def columns(self) -> list[str]:
        return list(self.arrow.column_names)

    def __len__(self) -> int:
        return int(self.arrow.num_rows)

    def __getitem__(self, name: str) -> np.ndarray:
        """A column: numbers (nan where there is none), or objects. Raises KeyError that names the columns."""
        self._check(name)
        column = self.arrow[name]
        if pa.types.is_null(column.type):
            return np.full(len(self), np.nan)
        return np.asarray(column.to_numpy())

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """The rows as plain dicts."""
        return iter(self.records())

    def head(self, rows: int = FEW) -> "Frame":
        """The first rows; with a negative number all but the last."""
        return Frame(self.arrow.slice(0, min(rows, len(self)) if rows >= 0 else max(len(self) + rows, 0)))

    def tail(self, rows: int = FEW) -> "Frame":
        """The last rows; with a negative number all but the first."""
        return Frame(self.arrow.slice(max(len(self) - rows, 0) if rows >= 0 else min(-rows, len(self))))

    def where(self, **values: object) -> "Frame":
        """The rows whose columns have these values. Raises KeyError for a column that is not there."""
        chosen = self.arrow
        for name, value in values.items():
            self._check(name)
            chosen = chosen.filter(pc.is_null(chosen[name]) if value is None else pc.equal(chosen[name], value))
        return Frame(chosen)

    def select(self, *names: str) -> "Frame":
        """These columns. Raises KeyError for one that is not there."""
        for name in names:
            self._check(name)
        return Frame(self.arrow.select(list(names)))

    def sorted(self, name: str, descending: bool = False) -> "Frame":
        """The rows by a column, equal ones in their order. Raises KeyError for a column that is not there."""
        self._check(name)
        order = [(name, "descending" if descending else "ascending")]
        return Frame(self.arrow.take(pc.sort_indices(self.arrow, order)))

    def records(self) -> list[dict[str, Any]]:
        return self.arrow.to_pylist()

    def to_pandas(self) -> Any:
        """A pandas data frame. Raises ModuleNotFoundError that says what to install where pandas is not there."""
        try:
            import pandas  # noqa: F401
        except ModuleNotFoundError as error:
            message = (
                "to_pandas() needs pandas, which is not installed: pip install pandas. Without it: frame['NAME'] is a "
                "column as an array, frame.records() gives dicts, frame.arrow is a pyarrow table"
            )
            raise ModuleNotFoundError(message, name="pandas") from error
        return self.arrow.to_pandas()

    def _check(self, name: str) -> None:
        if name not in self.columns:
            raise KeyError(f"no column {name!r}; there are {', '.join(self.columns)}")

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        return self.arrow.__arrow_c_stream__(requested_schema)

    def __repr__(self) -> str:
        shown = ", ".join(self.columns[:WIDE]) + (", ..." if len(self.columns) > WIDE else "")
        return f"Frame of {len(self)} rows: {shown}"

    def _repr_html_(self) -> str:
        return html.fragment(self.html())

    def html(self, rows: int = FEW) -> str:
        """A table of the first and last rows and the first columns, without the style of a page."""
        return self._table(rows, WIDE)

    def wide(self, rows: int = FEW) -> str:
        """The same with all columns."""
        return self._table(rows, len(self.columns))

    def _table(self, rows: int, columns: int) -> str:
        names = self.columns[:columns]
        head = self.arrow if len(self) <= rows else self.arrow.slice(0, rows // 2)
        tail = self.arrow.slice(len(self), 0) if len(self) <= rows else self.arrow.slice(len(self) - rows // 2)
        cells: Callable[[dict], list] = lambda row: [row[name] for name in names]  # noqa: E731
        shown = [cells(row) for row in head.to_pylist()]
        if len(tail):
            shown += [["…"] * len(names), *(cells(row) for row in tail.to_pylist())]
        left = [f"{len(self)} rows"] if len(self) > rows else []
        left += [f"{len(self.columns)} columns"] if len(self.columns) > columns else []
        return html.table(names, shown, caption=", ".join(left))


def _array(values: list) -> pa.Array:
    try:
        return pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        return pa.array([None if value is None else str(value) for value in values])
