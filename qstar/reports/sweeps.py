"""A sweep as one frame: a row for every run of a folder, its overrides as columns, and what it ended with.

sweep = qstar.sweep("runs/tiny/sweep-20250101-120000")
sweep["method.thought_len"], sweep["cups greedy accuracy"]
sweep.over("seed")       means over seeds with their intervals, a row for every other setting
"""

import contextlib
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qstar import config as configs
from qstar.evals import intervals, measure
from qstar.reports import directories, faithfulness, frames, html, overview
from qstar.reports.arrow import Frame
from qstar.reports.charts import chart
from qstar.reports.directories import EvaluationFolder, ImproveRun, RunDirectory, SolveRun, TrainRun
from qstar.reports.faithfulness import Held
from qstar.reports.figures import COLOURS, Curve
from qstar.reports.overview import Panel

PLACES = ("name", "run_dir", "resume")  # settings that say where a run lies
OF = "_questions"  # after the name of a share: how many it is of
OF_A_WAY = re.compile(rf"(\S+) ({'|'.join(measure.WAYS)}) (\w+)")  # a column of results: task, way, figure
COUNTERS = ("step", "iteration")  # of results: how far a run is
MOST = len(COLOURS)  # runs whose curves are shown
BANDS = 4  # runs that are shown with their intervals
LABEL = 48  # characters of a label of a curve
LISTED = 10  # names in a title


@dataclass(frozen=True, repr=False)
class Sweep(Frame):
    """The frame of a sweep, with its runs in the order of the rows."""

    runs: tuple[RunDirectory, ...] = ()
    overrides: tuple[str, ...] = ()  # columns that are settings in which the runs differ

    @property
    def results(self) -> list[str]:
        """Columns that say what the runs ended with."""
        around = {f"{name}{side}" for name in self.columns for side in ("_low", "_high")}
        return [name for name in self.columns if name not in ("run", *self.overrides) and name not in around]

    @property
    def chosen(self) -> list[str]:
        """The overrides but those that follow from the choice in their group, as a method's own settings from it."""
        rows = self.records()
        groups = {name: [other for other in self.overrides if name.startswith(f"{other}.")] for name in self.overrides}
        return [name for name, of in groups.items() if not any(_follows(rows, name, group) for group in of)]

    def shown(self) -> Frame:
        """The rows as a table for readers: figures with their intervals, settings as one gives them."""
        frame = overview.with_intervals(self)
        rows = frame.records()
        return Frame.of(
            ({name: _given(row[name]) if name in self.overrides else row[name] for name in row} for row in rows),
            frame.columns,
        )

    def folded(self) -> tuple[list[tuple[str, object]], list[str]]:
        """Results that all runs share, with their values, and the columns that tell the runs apart."""
        shown = self.shown()
        rows, names = shown.records(), [name for name in self.results if name in shown.columns]
        same = [name for name in names if len(rows) > 1 and len({repr(row[name]) for row in rows}) == 1]
        return [(name, rows[0][name]) for name in same], [
            "run", *self.chosen, *(name for name in names if name not in same)
        ]  # fmt: skip

    def over(self, varied: str = "seed", results: Sequence[str] = ()) -> Frame:
        """Means over runs that differ in `varied` alone, with 95 % intervals; `runs` counts them.

        The interval is Student's t; of shares of questions it is `intervals.share_across`, which stays within 0 and 1.

        Args:
            results: columns of results (default: all that are numbers).

        Raises KeyError for a setting in which the runs do not differ.
        """
        if varied not in self.overrides:
            raise KeyError(
                f"the runs do not differ in {varied!r}; they differ in {', '.join(self.overrides) or 'nothing'}"
            )
        others = [name for name in self.overrides if name != varied]
        asked = [questions(run) for run in self.runs]
        rows = []
        groups = frames.grouped(self.records(), lambda row: tuple(repr(row[name]) for name in others))
        for same in groups.values():
            row = {name: same[0][name] for name in others} | {"runs": len(same)}
            for name in results or [name for name in self.results if name not in COUNTERS]:
                values = [float(run[name]) for run in same if isinstance(run[name], int | float)]
                if values:
                    mean, half = intervals.student(values)
                    low, high = mean - half, mean + half
                    if len(values) > 1 and (count := min(run.get(name, 0) for run in asked)):
                        low, high = intervals.share_across(values, count)
                    row |= {name: mean, f"{name}_low": low, f"{name}_high": high}
            rows.append(row)
        return Frame.of(rows)

    def panel(self, x: str, result: str, varied: str = "seed") -> Panel:
        """A result over a setting, as a chart: means over `varied` with their intervals, a curve for other settings.

        Raises KeyError for what is no column, ValueError for a setting that is not a number.
        """
        if not all(isinstance(value, int | float) for value in self.arrow[x].to_pylist()):
            raise ValueError(f"x = {x!r}: expected a setting whose values are numbers, got {self[x].tolist()}")
        means = self.over(varied, [result]).sorted(x)
        others = [name for name in self.overrides if name not in (x, varied)]
        curves = []
        groups = frames.grouped(means.records(), lambda row: tuple(row[name] for name in others))
        for number, (values, rows) in enumerate(groups.items()):
            label = _label(dict(zip(others, values, strict=True)))
            y, low, high = ([row[f"{result}{end}"] for row in rows] for end in ("", "_low", "_high"))
            curves.append(Curve(label, [row[x] for row in rows], y, COLOURS[number % len(COLOURS)], low, high))
        return Panel(f"{title(result)}, over {varied}", x, curves)

    def faithfulness(self) -> Held:
        """What was measured of the thoughts of its runs, each by its label; of those of which something was.

        Raises FileNotFoundError where nothing was.
        """
        named = zip(self.runs, self.labels(), strict=True)
        measured = [(run, name) for run, name in named if (run.path / faithfulness.FILE).is_file()] or [
            (self.runs[0], "")
        ]
        lines = [{**line, "arm": name} for run, name in measured for line in run.faithfulness().lines]
        return Held(lines, self.runs[0].path.parent)

    def __repr__(self) -> str:
        return f"Sweep of {self.title()}; results: {_listed(self.results)}"

    def title(self) -> str:
        """How many runs, and in what they differ."""
        if len(self) == 1:
            return "one run"
        return f"{len(self)} runs, " + (
            f"which differ in {_listed(self.chosen)}" if self.overrides else "with the same settings"
        )

    def html(self, rows: int = 50) -> str:
        """Curves of the first runs beside each other, what all share in a line, and the table with intervals."""
        same, names = self.folded()
        facts = html.facts((f"{'' if i else 'all runs: '}{title(name)}", value) for i, (name, value) in enumerate(same))
        table = titled(self.shown().select(*names)).wide(rows)
        return f"{beside(self.runs, self.labels())}{facts if same else ''}{table}"

    def labels(self) -> list[str]:
        """A short name for every run: its overrides, or its folder where they are none or too many for a legend."""
        labels = [_label({name: row[name] for name in self.chosen}) for row in self.records()]
        if not all(0 < len(label) <= LABEL for label in labels):
            return [str(name) for name in self["run"]]
        return labels


def title(column: str) -> str:
    """What a column is called for readers: `cups accuracy (likeliest thoughts)` of `cups greedy accuracy`."""
    of = OF_A_WAY.fullmatch(column)
    return f"{of[1]} {measure.titled(of[3], of[2])}" if of else column


def titled(frame: Frame) -> Frame:
    """The same with the titles of its columns."""
    return Frame(frame.arrow.rename_columns([title(name) for name in frame.columns]))


def _follows(rows: Sequence[dict], name: str, group: str) -> bool:
    """Whether runs with the same value of `group` have the same of `name`."""
    by_group = frames.grouped(rows, lambda row: repr(row[group]))
    return all(len({repr(row[name]) for row in of}) == 1 for of in by_group.values())


def _listed(names: Sequence[str]) -> str:
    more = f", ... ({len(names)} in all)" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more if names else "nothing"


def _label(overrides: Mapping[str, object]) -> str:
    return " ".join(f"{name.rpartition('.')[2]}={html.written(_given(value))}" for name, value in overrides.items())


def _given(value: object) -> object:
    return f"{value:g}" if isinstance(value, float) else value


def sweep(folder: str | Path) -> Sweep:
    """All runs below a folder, as `qstar-train -m` and its like leave them.

    Columns are `run`, the settings in which the runs differ, and results: the step, the last headline metrics, and the
    last figures of every task and way of answering, those with an interval also as `_low` and `_high`.

    Raises FileNotFoundError where there is no run below the folder, ValueError for a run and for runs of different
    commands.
    """
    folder = Path(folder)
    if folder.is_dir() and (kind := directories.kind_of(folder)) is not None:
        raise ValueError(
            f"{folder} is itself a directory of {kind.command}: open it with qstar.open({str(folder)!r}), or name the "
            "folder of several"
        )
    paths = directories.run_folders(folder) if folder.is_dir() else []
    if not paths:
        raise FileNotFoundError(f"no runs below {folder}: expected the folder of a sweep, as qstar-train -m leaves it")
    return of_runs([directories.open(path) for path in paths], folder)


def of_runs(runs: Sequence[RunDirectory], folder: Path | None = None) -> Sweep:
    """Of runs that are open already. Raises ValueError for runs of different commands."""
    commands = {run.command for run in runs}
    if len(commands) > 1:
        raise ValueError(f"these are runs of {' and '.join(sorted(commands))}: make a sweep of one kind")
    settings = [configs.flat(run.config) if not isinstance(run, EvaluationFolder) else {} for run in runs]
    names = list(dict.fromkeys(name for flat in settings for name in flat if name not in PLACES))
    differ = [name for name in names if len({repr(flat.get(name)) for flat in settings}) > 1]
    rows = [
        {"run": str(run.path.relative_to(folder) if folder else run.path)}
        | {name: _plain(flat.get(name)) for name in differ}
        | results(run)
        for run, flat in zip(runs, settings, strict=True)
    ]
    return Sweep(Frame.of(rows).arrow, tuple(runs), tuple(differ))


def results(run: RunDirectory) -> dict[str, object]:
    """What a run ended with, so far; empty where it has only begun. One that was not asked has its metrics alone."""
    return {name: value for name, value in _known(run).items() if not name.endswith(OF)}


def questions(run: RunDirectory) -> dict[str, int]:
    """Of every share of questions that a run ended with, of how many it is."""
    return {name.removesuffix(OF): int(value) for name, value in _known(run).items() if name.endswith(OF)}


def _known(run: RunDirectory) -> dict[str, Any]:
    known: dict[str, Any] = {}
    with contextlib.suppress(FileNotFoundError):
        for name, value in _results(run):
            known[name] = value
    return known


def _results(run: RunDirectory) -> Iterable[tuple[str, object]]:
    if isinstance(run, TrainRun):
        frame = run.metrics()
        yield "step", int(frame["step"][-1])
        for name in run.config.method.headline:
            if name in frame.columns:
                yield name, float(frame[name][-1])
        yield from _last_figures(run.evals().where(model="run"), "step")
    elif isinstance(run, ImproveRun):
        rows = run.evals().records()
        last = [row for row in rows if row["iteration"] == rows[-1]["iteration"]]
        yield "iteration", rows[-1]["iteration"]
        for row in last:
            name = f"{row['split']} accuracy" + ("" if row["group"] is None else f" of {row['group']}")
            yield from _figure(row, "accuracy", name)
    elif isinstance(run, SolveRun):
        line = run.evals().records()[-1]
        yield from _figure(line, "accuracy", "accuracy")
        yield from ((name, line[name]) for name in ("questions", "candidates", "written", "flops"))
    elif isinstance(run, EvaluationFolder):
        yield from _last_figures(run.evals(), "step")


def _last_figures(frame: Frame, order: str) -> Iterable[tuple[str, object]]:
    last = max(frame[order], default=0)
    for row in frame.where(**{order: int(last)}).records() if len(frame) else []:
        for name in overview.figures(frame):
            if row[name] is not None:
                yield from _figure(row, name, f"{row['task']} {row['way']} {name}")


def _figure(row: dict, figure: str, name: str) -> Iterable[tuple[str, object]]:
    yield name, row[figure]
    for side in ("_low", "_high"):
        if row.get(f"{figure}{side}") is not None:
            yield f"{name}{side}", row[f"{figure}{side}"]
    count = row.get("n") or row.get("questions")
    if figure in overview.SHARES and count:
        yield f"{name}{OF}", count


def _plain(value: object) -> object:
    return value if isinstance(value, int | float | str) or value is None else str(value)


def beside(runs: Sequence[RunDirectory], labels: Sequence[str]) -> str:
    """The curves of several runs in the same panels, a colour for each run; of every panel its last curve.

    In panels of losses and answers the last curve of a run is the one with thoughts.
    """
    panels: dict[str, list[Curve]] = {}
    axes: dict[str, tuple[str, bool]] = {}
    for number, (run, label) in enumerate(zip(runs[:MOST], labels, strict=False)):
        for panel in run.panels():
            own = [curve for curve in panel.curves if not curve.label.startswith("control")]
            if own:
                curve = own[-1]
                named = f"{panel.title} ({curve.label})" if curve.label and curve.label != "all" else panel.title
                axes[named] = (panel.x, panel.shares)
                band = ((), ()) if len(runs) > BANDS else (curve.low, curve.high)
                panels.setdefault(named, []).append(Curve(label, curve.x, curve.y, COLOURS[number], *band))
    shown = "".join(chart(curves, title, *axes[title]) for title, curves in panels.items())
    left = f'<div class="soft">curves of the first {MOST} runs</div>' if len(runs) > MOST else ""
    return f'<div class="panels">{shown}</div>{left}' if shown else ""


def finite(value: object) -> bool:
    """Whether this is a number that is known."""
    return isinstance(value, int | float) and math.isfinite(value)
