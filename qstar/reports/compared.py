"""Two runs, two evaluations, or one evaluation with itself: what differs in settings, answers and curves.

qstar.compare("runs/a", "runs/b").settings()
qstar.compare("evaluations/control", "evaluations/mine").tests()     paired tests, as qstar-compare makes them
qstar.compare("evaluations/mine")                                    with thoughts against without
qstar.compare("runs/solve/majority", "runs/solve/beam").tests()      searches of the same questions are paired as well
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qstar import advice
from qstar import config as configs
from qstar.evals import intervals, journal, measure, paired
from qstar.evals.measure import ItemRow
from qstar.evals.paired import Comparison
from qstar.reports import directories, html, overview, summaries, sweeps
from qstar.reports.arrow import Frame
from qstar.reports.directories import EvaluationFolder, RunDirectory, SolveRun, TrainRun
from qstar.thoughts.thinking import Thinks

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
        """What both ended with, number by number; `difference` is second - first.

        Its interval is `intervals.difference`: that of samples of their own, where no answers can be paired.
        """
        sides = [f"{side}{end}" for side in ("first", "second", "difference") for end in ("", "_low", "_high")]
        return Frame.of(self._results(), ("result", *sides))

    def _results(self) -> list[dict]:
        if self.second is None:
            return []
        a: dict[str, Any] = sweeps.results(self.first)
        b: dict[str, Any] = sweeps.results(self.second)
        rows = []
        for name in a:
            if name.endswith(("_low", "_high")) or not (sweeps.finite(a[name]) and sweeps.finite(b.get(name))):
                continue
            if name == "reward" and _thinks(self.first) != _thinks(self.second):
                continue  # nats that a thought gains, and a grader's points
            row = {"result": name, "difference": b[name] - a[name]}
            ends: list[Any] = [(of[name], of.get(f"{name}_low"), of.get(f"{name}_high")) for of in (a, b)]
            first, second = ends
            if None not in (*first, *second):
                row["difference_low"], row["difference_high"] = intervals.difference(first, second)
            for side, figure in (("first", first), ("second", second)):
                row |= dict(zip((side, f"{side}_low", f"{side}_high"), figure, strict=True))
            rows.append(row)
        return rows

    def tests(self) -> Frame:
        """Paired tests on the items that both answered; `p` is two-sided, the difference is second - first.

        Raises FileNotFoundError for a folder without answers, ValueError where nothing can be paired.
        """
        rows = []
        for test in self._tests():
            row = {
                "task": test.task,
                "column": test.column,
                "ways": " / ".join(test.ways),
                "difference": test.difference,
            }
            row |= {"difference_low": test.low, "difference_high": test.high}
            rows.append(row | {name: getattr(test, name) for name in ("first", "second", "p", "test", "n")})
        return Frame.of(rows, TESTS)

    def _tests(self) -> list[Comparison]:
        return paired_tests(self.first.path, None if self.second is None else self.second.path)

    @property
    def answered(self) -> bool:
        """Whether both have answers to single questions."""
        return isinstance(self.first, EvaluationFolder | SolveRun)

    @property
    def names(self) -> tuple[str, str]:
        """What the two are called wherever they are shown."""
        return summaries.OWN if self.second is None else names(self.first.path, self.second.path)

    def __repr__(self) -> str:
        other = "with itself" if self.second is None else f"with {str(self.second.path)!r}"
        return f"Compared({str(self.first.path)!r} {other})"

    def _repr_html_(self) -> str:
        return html.fragment(self.html())

    def html(self) -> str:
        """Curves, tests, results and settings, without the style of a page."""
        parts = []
        if self.second is not None:
            runs = (self.first, self.second)
            parts.append(html.facts((name, run.path) for name, run in zip(self.names, runs, strict=True)))
            parts.append(sweeps.beside(runs, self.names))
        tested: set[str] = set()
        if self.answered:
            parts.append(html.heading("Paired tests on the same items"))
            try:
                tests = self._tests()
            except (FileNotFoundError, ValueError) as error:  # other questions, or not answered yet
                parts.append(f'<div class="soft">{html.escaped(error)}</div>')
            else:
                tested = {test.column for test in tests}
                second = None if self.second is None else self.second.path
                caption = summaries.of_difference(self.names, unpaired(self.first.path, second))
                parts.append(html.table(*summaries.paired(tests, self.names), caption))
        if not (tested and isinstance(self.first, EvaluationFolder)):  # whose results are these numbers
            parts.append(self._results_beside(tested))
        rows = [[row[name] for name in ("setting", "first", "second")] for row in self.settings().records()]
        if rows:
            parts += [html.heading("Settings that differ"), html.table(("setting", *self.names), rows)]
        return "".join(parts)

    def _results_beside(self, tested: set[str]) -> str:
        """A table of results but those that were tested."""
        rows = [
            [
                sweeps.title(row["result"]),
                *(overview.figure(row, side) for side in ("first", "second")),
                overview.figure(row, "difference", "+"),
            ]
            for row in self._results()
            if row["result"] not in tested
        ]
        first, second = self.names
        caption = (
            f"difference: {second} - {first}; 95 % intervals in brackets, those of differences as of independent "
            "samples: of the same questions a paired interval is narrower"
        )
        table = html.table(("result", first, second, "difference"), rows, caption)
        return html.heading("Results") + table + self._pairing() if rows else ""

    def _pairing(self) -> str:
        """The commands that make paired tests of two trainings, which record no answers to single questions."""
        runs = [run for run in (self.first, self.second) if isinstance(run, TrainRun) and run.steps]
        if len(runs) < 2 or type(runs[0].config.eval) is not type(runs[1].config.eval):
            return ""
        evaluation = configs.choice("eval", type(runs[0].config.eval))
        folders = [Path("evaluations", re.sub(r"[^\w.-]+", "_", name).strip("_.")) for name in self.names]
        lines = [
            advice.command("qstar-evaluate", advice.override("run", run.path), f"eval={evaluation}",
                           advice.override("out", folder))
            for run, folder in zip(runs, folders, strict=True)
        ]  # fmt: skip
        lines.append(advice.command("qstar-compare", *map(advice.path, folders)))
        shown = "".join(f"<div><code>{html.escaped(line)}</code></div>" for line in lines)
        return f'<div class="soft">Paired tests of the two:</div>{shown}' if evaluation != "none" else ""


def _thinks(run: RunDirectory) -> bool:
    return isinstance(run, TrainRun) and isinstance(run.config.method, Thinks)


def names(first: Path, second: Path) -> tuple[str, str]:
    """The parts of two paths in which they differ; `run 0` for a number, as jobs of a sweep have it."""
    both = zip(first.parts, second.parts, strict=False)
    within = min(len(first.parts), len(second.parts)) - 1  # one may lie in the other, as a control does
    same = next((i for i, (a, b) in enumerate(both) if a != b), max(within, 0))
    short = [str(Path(*path.parts[same:])) for path in (first, second)]
    a, b = (f"run {name}" if name.isdigit() else name for name in short)
    return a, b


def compare(first: str | Path | RunDirectory, second: str | Path | RunDirectory | None = None) -> Compared:
    """Two directories of the same kind, by their paths or opened already; or one evaluation with itself.

    Raises FileNotFoundError, TypeError and ValueError as `qstar.open`, and ValueError for directories of different
    kinds and for one that is given twice.
    """
    a = directories.open(first)
    b = None if second is None else directories.open(second)
    if b is None and not isinstance(a, EvaluationFolder):
        raise ValueError(
            f"{a.path} is a directory of {a.command}: give a second one to compare it with; only an evaluation is "
            "compared with itself, with thoughts against without"
        )
    if b is not None and type(a) is not type(b):
        raise ValueError(f"{a.path} is a directory of {a.command} and {b.path} one of {b.command}: give two of a kind")
    if b is not None and a.path.resolve() == b.path.resolve():
        raise ValueError(f"{a.path} is given twice: name another one to compare it with")
    return Compared(a, b)


def paired_tests(first: Path, second: Path | None) -> list[Comparison]:
    """Comparisons of all tasks that both evaluations, or searches, have.

    Raises FileNotFoundError for a folder without answers; ValueError where nothing can be paired.
    """
    first_rows = _answers(first)
    if second is None:
        comparisons = [comparison for task, rows in first_rows.items() for comparison in paired.within(task, rows)]
        if not comparisons:
            raise ValueError(f"{first} has answers in one way only: name a second folder to compare it with")
        return comparisons
    second_rows = _answers(second)
    tasks = [task for task in first_rows if task in second_rows]
    if not tasks:
        raise ValueError(
            f"{first} has {', '.join(first_rows)}, {second} has {', '.join(second_rows)}: no task in common"
        )
    return [comparison for task in tasks for comparison in paired.between(task, first_rows[task], second_rows[task])]


def unpaired(first: Path, second: Path | None) -> str:
    """A sentence about the items that one of two evaluations answered alone; empty where there are none."""
    if second is None:
        return ""
    a, b = _answers(first), _answers(second)
    counts = []
    for task in a.keys() & b.keys():
        items = [{row["item"] for row in rows[task]} for rows in (a, b)]
        if items[0] != items[1]:
            counts.append(f"{len(items[0] & items[1])} of {len(items[0])} and {len(items[1])} of {task}")
    return f"items that both answered: {', '.join(sorted(counts))}" if counts else ""


def _answers(folder: Path) -> dict[str, list[ItemRow]]:
    """Of every task, a row for each question; of a search, whether the solution that it chose is right."""
    if directories.kind_of(folder) is not SolveRun:
        return {task: table.to_pylist() for task, table in journal.load_step(folder).items()}
    run = SolveRun(folder)
    rows: list[ItemRow] = [
        {"item": row["problem"], "thoughts": measure.NONE, "draw": 0, "question": row["question"],
         "accuracy": row["correct"]}
        for row in run.rationales(columns=["problem", "question", "correct", "place"]).records()
        if row["place"]["chosen"]
    ]  # fmt: skip
    return {run.config.task.name: rows}
