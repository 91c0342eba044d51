"""Two runs, two evaluations, or one evaluation with itself: what differs in settings, answers and curves.

qstar.compare("runs/a", "runs/b").settings()
qstar.compare("evaluations/control", "evaluations/mine").tests()     paired tests, as qstar-compare makes them
qstar.compare("evaluations/mine")                                    with thoughts against without
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from qstar import config as configs
from qstar.evals import journal, paired
from qstar.evals.paired import Comparison
from qstar.reports import directories, html, overview, sweeps
from qstar.reports.arrow import Frame
from qstar.reports.directories import EvaluationFolder, RunDirectory

TESTS = (
    "task",
    "column",
    "ways",
    "first",
    "second",
    "difference",
    "difference_low",
    "difference_high",
    "p",
    "test",
    "n",
)


@dataclass(frozen=True, repr=False)
class Compared:
    """The second beside the first; of one evaluation `second` is None."""

    first: RunDirectory
    second: RunDirectory | None

    def settings(self) -> Frame:
        """Settings that differ; of evaluations none are kept that could be compared."""
        columns = ("setting", "first", "second")
        if self.second is None or EvaluationFolder in (type(self.first), type(self.second)):
            return Frame.of([], columns)
        a, b = (configs.flat(run.config) for run in (self.first, self.second))
        names = [name for name in {**a, **b} if name not in sweeps.PLACES and a.get(name) != b.get(name)]
        return Frame.of(
            ({"setting": name, "first": str(a.get(name)), "second": str(b.get(name))} for name in names), columns
        )

    def results(self) -> Frame:
        """What both ended with, number by number; `difference` is second - first."""
        columns = ("result", "first", "first_low", "first_high", "second", "second_low", "second_high", "difference")
        if self.second is None:
            return Frame.of([], columns)
        a, b = sweeps.results(self.first), sweeps.results(self.second)
        rows = []
        for name in a:
            if name in b and not name.endswith(("_low", "_high")) and sweeps.finite(a[name]) and sweeps.finite(b[name]):
                row = {"result": name, "difference": b[name] - a[name]}  # type: ignore[operator]
                for side, ended in (("first", a), ("second", b)):
                    row[side] = ended[name]
                    row |= {f"{side}{end}": ended.get(f"{name}{end}") for end in ("_low", "_high")}
                rows.append(row)
        return Frame.of(rows, columns)

    def tests(self) -> Frame:
        """Paired tests on the items that both answered; `p` is two-sided, the difference is second - first.

        Raises FileNotFoundError for a folder without answers, ValueError where nothing can be paired.
        """
        second = None if self.second is None else self.second.path
        rows = []
        for test in paired_tests(self.first.path, second):
            row = {
                "task": test.task,
                "column": test.column,
                "ways": " / ".join(test.ways),
                "difference": test.difference,
            }
            row |= {"difference_low": test.low, "difference_high": test.high}
            rows.append(row | {name: getattr(test, name) for name in ("first", "second", "p", "test", "n")})
        return Frame.of(rows, TESTS)

    @property
    def answered(self) -> bool:
        """Whether both have answers to single questions."""
        return all(isinstance(run, EvaluationFolder) for run in (self.first, self.second or self.first))

    def __repr__(self) -> str:
        other = "with itself" if self.second is None else f"with {str(self.second.path)!r}"
        return f"Compared({str(self.first.path)!r} {other})"

    def _repr_html_(self) -> str:
        return html.fragment(self.html())

    def html(self) -> str:
        """Curves, results, tests and settings, without the style of a page."""
        parts = []
        if self.second is not None:
            names = _names(self.first.path, self.second.path)
            parts += [html.facts([("first", self.first.path), ("second", self.second.path)])]
            parts.append(sweeps.beside([self.first, self.second], names))
        if self.answered:
            parts += [html.heading("Paired tests on the same items"), overview.with_intervals(self.tests()).html(60)]
        elif len(self.results()):
            parts += [html.heading("Results"), overview.with_intervals(self.results()).html(60)]
        if len(self.settings()):
            parts += [html.heading("Settings that differ"), self.settings().html(60)]
        return "".join(parts)


def _names(first: Path, second: Path) -> Sequence[str]:
    """The parts of two paths in which they differ."""
    same = next((i for i, (a, b) in enumerate(zip(first.parts, second.parts, strict=False)) if a != b), 0)
    return [str(Path(*path.parts[same:])) if len(path.parts) > same else str(path) for path in (first, second)]


def compare(first: str | Path, second: str | Path | None = None) -> Compared:
    """Two directories of the same kind, or one evaluation with itself.

    Raises FileNotFoundError and ValueError as `qstar.open`, and ValueError for directories of different kinds.
    """
    a, b = (None if path is None else directories.open(path) for path in (first, second))
    assert a is not None
    if b is None and not isinstance(a, EvaluationFolder):
        raise ValueError(
            f"{first} is a directory of {a.command}: give a second one to compare it with; only an evaluation is "
            "compared with itself, with thoughts against without"
        )
    if b is not None and type(a) is not type(b):
        raise ValueError(f"{first} is a directory of {a.command} and {second} one of {b.command}: give two of a kind")
    return Compared(a, b)


def paired_tests(first: Path, second: Path | None) -> list[Comparison]:
    """Comparisons of all tasks that both folders have.

    Raises FileNotFoundError for a folder without answers; ValueError where nothing can be paired.
    """
    first_rows = {task: table.to_pylist() for task, table in journal.load_step(first).items()}
    if second is None:
        comparisons = [comparison for task, rows in first_rows.items() for comparison in paired.within(task, rows)]
        if not comparisons:
            raise ValueError(f"{first} has answers in one way only: name a second folder to compare it with")
        return comparisons
    second_rows = {task: table.to_pylist() for task, table in journal.load_step(second).items()}
    tasks = [task for task in first_rows if task in second_rows]
    if not tasks:
        raise ValueError(
            f"{first} has {', '.join(first_rows)}, {second} has {', '.join(second_rows)}: no task in common"
        )
    return [comparison for task in tasks for comparison in paired.between(task, first_rows[task], second_rows[task])]
