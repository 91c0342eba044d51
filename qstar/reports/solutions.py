"""Tables of searches: what accuracy a budget buys, and what it is spent on."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.table import Table

from qstar.reports import tables

COLUMNS = (
    "strategy", "budget", "accuracy", "questions", "candidates", "tokens written", "tokens scored", "FLOPs", "seconds"
)  # fmt: skip


@dataclass(frozen=True)
class Line:
    """A strategy with a budget; costs are means over questions."""

    strategy: str
    budget: str
    questions: int
    accuracy: float
    low: float  # of its 95 % interval
    high: float
    candidates: float
    written: float  # tokens
    scored: float  # tokens that scorers read
    flops: float
    seconds: float | None = None  # where it was measured


def table(lines: Sequence[Line]) -> Table:
    """For a terminal."""
    out = tables.screen(COLUMNS, _cells(lines), text=2)
    out.caption = "costs are means over questions; 95 % intervals in brackets"
    return out


def markdown(lines: Sequence[Line]) -> str:
    return tables.markdown(COLUMNS, _cells(lines))


def _cells(lines: Sequence[Line]) -> Iterator[tuple[str, ...]]:
    for line in lines:
        yield (
            line.strategy,
            line.budget,
            tables.interval(line.accuracy, line.low, line.high),
            str(line.questions),
            f"{line.candidates:.1f}",
            f"{line.written:.1f}",
            f"{line.scored:.1f}",
            f"{line.flops:.3g}",
            "" if line.seconds is None else f"{line.seconds:.3f}",
        )
