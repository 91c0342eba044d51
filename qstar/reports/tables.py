"""Tables for pages and terminals: rows, the figures in their cells, and the places of tables on a page.

A page keeps the place of a table between `<!-- table NAME -->` and `<!-- end -->`. A page or record that a script wrote
is replaced on request only, and never by less than it holds (`evals/records.py`).
"""

import math
import re
import statistics
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from qstar import files
from qstar.evals import intervals, records
from qstar.evals.intervals import Across

PLACE = re.compile(r"<!-- table ([^\n]+?) -->\n(.*?)<!-- end -->", re.DOTALL)

Runs = Mapping[tuple[int, int], float]
"""A figure of every run, by base and seed."""


# --- rows ---------------------------------------------------------------------------------------------------------


def row(cells: Iterable[object]) -> str:
    """A line of a Markdown table, for scripts that print it as it comes."""
    return f"| {' | '.join(map(str, cells))} |"


def head(names: Sequence[str]) -> str:
    """The first two lines of a Markdown table."""
    return f"{row(names)}\n{row(['---'] * len(names))}"


def markdown(names: Sequence[str], rows: Iterable[Iterable[object]]) -> str:
    """A table in Markdown, every line with its end."""
    return "".join(f"{line}\n" for line in (head(names), *map(row, rows)))


def section(title: str, names: Sequence[str], rows: Sequence[Iterable[object]]) -> str:
    """A table under its heading; nothing where it has no rows."""
    return f"## {title}\n\n{markdown(names, rows)}" if rows else ""


def cells(text: str) -> list[list[str]]:
    """The rows of a Markdown table, without the two lines of its head."""
    return [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in text.splitlines()[2:]]


def screen(names: Sequence[str], rows: Iterable[Iterable[object]], title: str | None = None, text: int = 0) -> Table:
    """A table for a terminal; if `text` is not 0, all columns after the first `text` ones are aligned right."""
    out = Table(title=title)
    for number, name in enumerate(names):
        out.add_column(name, justify="right" if text and number >= text else "left")
    for line in rows:
        out.add_row(*map(str, line))
    return out


def fitting(
    names: Sequence[str],
    rows: Sequence[Sequence[object]],
    width: int,
    title: str | None = None,
    text: int = 1,
    repeated: int = 1,
) -> list[Table | Text]:
    """A table for a terminal of so many columns, as several below one another where it is wider.

    Each has the first `repeated` columns, and as many of the others as fit without a line break in a cell; names are
    wrapped between words. The first `text` columns are aligned left. Where not even one of the others fits, every row
    is a list of its cells.
    """
    whole, rows = rows, [[shortened(str(cell)) for cell in row] for row in rows]
    needed = [
        max([0, *map(cell_len, name.split()), *(cell_len(row[i]) for row in rows)]) + EDGE
        for i, name in enumerate(names)
    ]
    if 1 + sum(needed[:repeated]) + max(needed[repeated:], default=0) > width:
        return [_listed(names, whole, title)]
    blocks: list[list[int]] = []
    for column in range(repeated, len(names)):
        if not blocks or 1 + sum(needed[:repeated]) + sum(needed[i] for i in blocks[-1]) + needed[column] > width:
            blocks.append([])
        blocks[-1].append(column)
    out = []
    for block in blocks or [[]]:
        shown = Table(title=None if out else title, title_justify="left")
        chosen = (*range(repeated), *block)
        for i in chosen:
            shown.add_column(names[i], justify="left" if i < text else "right", width=needed[i] - EDGE)
        for row in rows:
            shown.add_row(*(row[i] for i in chosen))
        out.append(shown)
    return out


def _listed(names: Sequence[str], rows: Sequence[Sequence[object]], title: str | None) -> Text:
    """Every cell on a line of its own after its column's name, which is folded where it is longer than the line."""
    lines = [[f"{name}: {cell}" if name else str(cell) for name, cell in zip(names, row, strict=True)] for row in rows]
    text = "\n\n".join("\n".join(line) for line in lines) if rows else "\n".join(f"{name}:" for name in names)
    return Text.assemble(*([(f"{title}\n\n", "table.title")] if title else []), text, "\n", overflow="fold")


@dataclass(frozen=True)
class Fitted:
    """A table for a terminal of any width: as it is where it fits, else as `fitting` divides it.

    The first columns that are aligned left say what a row is of, and are repeated.
    """

    table: Table

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Table | Text]:
        if Measurement.get(console, options.update(max_width=UNBOUND), self.table).maximum <= options.max_width:
            yield self.table
            return
        columns = self.table.columns
        names = [str(column.header) for column in columns]
        rows = list(zip(*([str(cell) for cell in column.cells] for column in columns), strict=True))
        left = sum(column.justify == "left" for column in columns)
        yield from fitting(names, rows, options.max_width, self.table.title, text=left, repeated=max(left, 1))
        if self.table.caption:
            yield Text(str(self.table.caption), style="table.caption")


UNBOUND = 10_000  # columns: wider than any table
EDGE = 3  # columns of a terminal around a cell, with one line
LONGEST = 28  # characters of a cell in a table that has to fit


def shortened(text: str) -> str:
    """A long text without its middle."""
    return text if len(text) <= LONGEST else f"{text[: LONGEST // 2 - 1]}…{text[-LONGEST // 2 :]}"


def short_names(names: Sequence[str]) -> list[str]:
    """Dotted names by as many of their last parts as tell them apart."""
    parts = [name.split(".") for name in names]
    longest = max(map(len, parts), default=1)
    ends = [[".".join(part[-count:]) for part in parts] for count in range(1, longest + 1)]
    return [next(end[i] for end in ends if end.count(end[i]) == 1 or end is ends[-1]) for i in range(len(names))]


# --- figures in cells ---------------------------------------------------------------------------------------------


def interval(value: float, low: float, high: float, form: str = ".3f") -> str:
    """`0.812 [0.780, 0.841]`, and the mean alone where it has no interval; a sign in `form` is that of all three."""
    return f"{value:{form}}" if low != low else f"{value:{form}} [{low:{form}}, {high:{form}}]"


def figure(record: Mapping[str, float], name: str, form: str = ".3f") -> str:
    """`name` of a line of evals.jsonl with its interval; empty where the line lacks it."""
    return interval(record[name], record[f"{name}_low"], record[f"{name}_high"], form) if name in record else ""


def share(record: Mapping) -> str:
    """A share as iterations.jsonl has it: `0.812 [0.780, 0.841] of 500`."""
    return f"{interval(record['share'], record['low'], record['high'])} of {record['n']}"


def counted_share(right: Sequence[bool]) -> str:
    """`12/40 = 0.300 [0.181, 0.454]`, with Wilson's interval."""
    count, n = sum(right), len(right)
    return f"{count}/{n} = {interval(count / n, *intervals.wilson(count, n))}"


def fraction(record: Mapping, part: str, whole: str) -> str:
    """`3/8` of two counts of a record; empty where it lacks the whole."""
    return f"{record[part]}/{record[whole]}" if whole in record else ""


def over_runs(values: Runs, sign: str = "", questions: int = 0, form: str = "") -> str:
    """`0.812 ± 0.030`, of shares of so many questions `0.812 [0.780, 0.841]`; empty where there is no value.

    `sign` and `form` as in `Across.written`.
    """
    return intervals.across(values, questions).written(sign, form) if values else ""


def mean(lines: Iterable[Mapping], name: str, sign: str = "", questions: int = 0, form: str = "") -> str:
    """`over_runs` of a field of records by their `base` and `seed`; a record without the value is left out."""
    return over_runs({_run(line): line[name] for line in lines if _has(line, name)}, sign, questions, form)


def share_mean(lines: Iterable[Mapping], name: str, questions: Callable[[Mapping], int]) -> str:
    """`mean` of shares; where several runs all stand at 0, or all at 1, with `share_across`'s interval.

    There Student's t has no width. `questions` says how many a record's share is of; the least of all records counts.
    """
    lines = [line for line in lines if _has(line, name)]
    at_bound = len(lines) > 1 and {line[name] for line in lines} in ({0}, {1})
    return mean(lines, name, questions=min(map(questions, lines)) if at_bound else 0)


def gain(lines: Iterable[Mapping], name: str, others: Iterable[Mapping], other: str = "", form: str = "") -> str:
    """The mean difference between a field of records and `other` (`name` by default) of the record of the same run."""
    theirs = {_run(line): line[other or name] for line in others}
    gains = {_run(line): line[name] - theirs[_run(line)] for line in lines if _run(line) in theirs}
    return over_runs(gains, "+", form=form)


def _run(line: Mapping) -> tuple[int, int]:
    return line.get("base", 0), line.get("seed", 0)


def _has(line: Mapping, name: str) -> bool:
    return name in line and not math.isnan(line[name])


def shares_over_runs(by_run: Mapping[tuple[int, int], Mapping]) -> str:
    """The same of the shares of iterations.jsonl, `{"share": 0.9, "n": 100}`; n may be missing."""
    questions = min((record.get("n", 0) for record in by_run.values()), default=0)
    return over_runs({run: record["share"] for run, record in by_run.items()}, questions=questions)


def varied(groups: Mapping[str, Iterable[tuple[int, int]]]) -> str:
    """A list of what the intervals are over; `groups` has the base and seed of every run of every arm."""
    kinds: dict[str, list[str]] = {}
    for name, runs in groups.items():
        across: Across = intervals.across(dict.fromkeys(runs, 0.0))
        kinds.setdefault(across.varied, []).append(name)
    return "".join(f"- {kind}: {', '.join(names)}\n" for kind, names in kinds.items())


def spread(values: Iterable[float], form: str = ".1f") -> str:
    """`1.2 to 3.4`."""
    values = list(values)
    return f"{min(values):{form}} to {max(values):{form}}"


def median_and_spread(values: Sequence[float], form: str = ".1f") -> tuple[str, str]:
    """Two cells: `2.0` and `1.2 to 3.4`."""
    return f"{statistics.median(values):{form}}", spread(values, form)


def tokens(count: float) -> str:
    """`1,234,567`."""
    return f"{count:,.0f}"


def flops(count: float) -> str:
    """`1.23e+15`."""
    return f"{count:.2e}"


# --- pages --------------------------------------------------------------------------------------------------------


def places(page: str) -> list[str]:
    """The tables that a page has a place for, as they come."""
    return [name for name, _ in PLACE.findall(page)]


def placed(page: str, name: str) -> str:
    """The table in a place of the page; empty if there is no such place."""
    return dict(PLACE.findall(page)).get(name, "")


def filled(page: str, texts: Mapping[str, str]) -> str:
    """The page with each text in its place, from the line after one mark to the line of the other.

    Raises ValueError where a text has no place on the page.
    """
    missing = [name for name in texts if name not in places(page)]
    if missing:
        raise ValueError(f"the page has no place for {missing[0]}: <!-- table {missing[0]} --> and <!-- end -->")
    text = lambda match: texts.get(match[1], match[2])  # noqa: E731
    return PLACE.sub(lambda match: f"<!-- table {match[1]} -->\n{text(match)}<!-- end -->", page)


def fill(file: Path, texts: Mapping[str, str]) -> None:
    """Write each text into its place on the page in this file. Raises as `filled`."""
    files.write(file, filled(file.read_text(encoding="utf-8"), texts))


def rewrite(file: Path, text: str, held: Callable[[str], Mapping[Hashable, float]], replace: bool) -> None:
    """Write a table into a file of its own. `held` tells of such a text how much each entry of it holds.

    Raises ValueError, and leaves the file as it is, if it has another text and `replace` is false, or if an
    entry would be lost.
    """
    old = file.read_text(encoding="utf-8") if file.is_file() else ""
    if text != old:
        records.check_replaced(held(old), held(text), str(file), replace)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
