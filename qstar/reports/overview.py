"""What is worth seeing of a run first: its curves, its last table, and one line of text."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from qstar.evals import intervals, measure
from qstar.reports import charts, html, tables
from qstar.reports.arrow import Frame
from qstar.reports.figures import COLOURS, GREY, Curve

SHARES = ("accuracy", "probability", "exact", "answered", "gate_open", "dead", "helped")


@dataclass(frozen=True, repr=False)
class Panel:
    """Curves with one pair of axes."""

    title: str
    x: str
    curves: Sequence[Curve]
    shares: bool = False

    def svg(self) -> str:
        return charts.chart(self.curves, self.title, self.x, self.shares)

    def __repr__(self) -> str:
        names = ", ".join(curve.label for curve in self.curves if curve.label)
        return f"Panel({self.title!r} over {self.x}{': ' if names else ''}{names})"

    def _repr_html_(self) -> str:
        return html.fragment(panels([self]))


def summary(name: object, about: Sequence[tuple[str, object]], shown: Sequence[Panel], table: Frame | str) -> str:
    """What a notebook shows of a run: name, curves, and the last table or why there is none."""
    parts = [f'<div class="title">{html.escaped(name)}</div>', html.facts(about), panels(shown)]
    last = f'<div class="soft">{html.escaped(table)}</div>' if isinstance(table, str) else table.html()
    return "".join((*parts, last))


def panels(shown: Iterable[Panel]) -> str:
    return f'<div class="panels">{"".join(panel.svg() for panel in shown)}</div>'


def with_intervals(frame: Frame) -> Frame:
    """The same rows as a table for readers: each figure and its interval in one column, ways of answering in words."""
    ends = {f"{name}{side}" for name in figures(frame) for side in ("_low", "_high")}
    left_out = {*ends, "thoughts"} if "way" in frame.columns else ends  # whether there are thoughts: the way says it
    names = {name: "thoughts" if name == "way" else name for name in frame.columns if name not in left_out}
    rows = ({shown: _cell(row, name) for name, shown in names.items()} for row in frame.records())
    return Frame.of(rows, list(names.values()))


def _cell(row: dict, name: str) -> object:
    if name == "way":
        return measure.NAMES.get(row[name], row[name])
    if f"{name}_low" not in row or row[name] is None:
        return row[name]
    return figure(row, name)


def figure(row: Mapping, name: str, sign: str = "") -> str:
    """A figure of a record with its interval, where it has one; "+" as `sign` also before what is above zero."""
    value, low = row[name], row.get(f"{name}_low")
    if low is None:
        return f"{sign if sign and value > 0 else ''}{html.written(value)}"
    return tables.interval(value, low, row[f"{name}_high"], f"{sign}.3f")


def figures(frame: Frame) -> list[str]:
    """Columns that have an interval."""
    return [name for name in frame.columns if f"{name}_low" in frame.columns]


# --- training -------------------------------------------------------------------------------------------------------


def training(frame: Frame, headline: Sequence[str], control: Frame | None = None) -> list[Panel]:
    """The metrics to steer by, those in nats in one panel with the loss of the control."""
    names = [name for name in headline if name in frame.columns]
    losses = [name for name in names if name.startswith(("nll", "loss"))]
    shown = []
    if losses:
        curves = [_metric(frame, name, name, COLOURS[number]) for number, name in enumerate(losses)]
        if control is not None:
            curves.append(_metric(control, "loss", "control: loss", GREY, "--"))
        shown.append(Panel("Loss, nats a token", "step", curves))
    for number, name in enumerate(name for name in names if name not in losses):
        curve = _metric(frame, name, "", COLOURS[(2 + number) % len(COLOURS)])
        shown.append(Panel(name.replace("_", " "), "step", [curve], name in SHARES))
    parts = [name for name in frame.columns if name.startswith("reward_")]
    if len(parts) > 1:
        colours = zip(parts, COLOURS, strict=False)
        curves = [_metric(frame, name, name.removeprefix("reward_"), colour) for name, colour in colours]
        shown.append(Panel("Reward by part", "step", curves))
    return shown


def _metric(frame: Frame, name: str, label: str, colour: str, line: str = "-") -> Curve:
    if name not in frame.columns:
        return Curve(label, [], [], colour)
    known = [(x, y) for x, y in zip(frame["step"], frame[name], strict=True) if math.isfinite(y)]
    return Curve(label, [x for x, _ in known], [y for _, y in known], colour, line=line)


def answered(frame: Frame) -> list[Panel]:
    """The first figure of every task over steps, a curve for every model and way of answering."""
    shown = []
    for task in dict.fromkeys(row["task"] for row in frame.records()):
        rows = frame.where(task=task).records()
        name = next((figure for figure in figures(frame) if rows[0].get(figure) is not None), None)
        if name is None or len({row["step"] for row in rows}) < 2:
            continue
        curves = []
        for number, (model, way) in enumerate(dict.fromkeys((row.get("model"), row["way"]) for row in rows)):
            mine = [row for row in rows if (row.get("model"), row["way"]) == (model, way)]
            label = "control" if model == "control" else measure.PHRASES.get(way, way)
            colour = GREY if model == "control" else COLOURS[number]
            curves.append(_with_band(label, "step", name, mine, colour))
        shown.append(Panel(f"{task}: {name.replace('_', ' ')}", "step", curves, name in SHARES))
    return shown


def _with_band(label: str, x: str, name: str, rows: Sequence[dict], colour: str, line: str = "-") -> Curve:
    rows = [row for row in rows if row.get(name) is not None]
    low, high = ([_number(row.get(f"{name}_{side}")) for row in rows] for side in ("low", "high"))
    return Curve(label, [row[x] for row in rows], [row[name] for row in rows], colour, low, high, line=line)


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def last_answers(frame: Frame) -> Frame:
    """The first and the last answers of the run, and the last of its control."""
    rows = frame.records()
    steps = {model: [row["step"] for row in rows if row["model"] == model] for model in ("run", "control")}
    ends = {("run", step) for step in (min(steps["run"], default=0), max(steps["run"], default=0))}
    ends.add(("control", max(steps["control"], default=0)))
    names = ["task", "model", "step", "thoughts", *figures(frame), "n"]
    shown = with_intervals(Frame.of(row for row in rows if (row["model"], row["step"]) in ends))
    return shown.select(*(name for name in names if name in shown.columns))


def headlines(frame: Frame) -> list[tuple[str, object]]:
    """The first figure of every task, as answered in the last way: before and after."""
    facts: list[tuple[str, object]] = []
    own = frame.where(model="run") if len(frame) else frame
    for task in dict.fromkeys(row["task"] for row in own.records()):
        rows = own.where(task=task).records()
        name = next((figure for figure in figures(frame) if rows[0].get(figure) is not None), None)
        if name is not None:
            way = rows[-1]["way"]
            values = [row[name] for row in rows if row["way"] == way]
            shown = " to ".join(f"{value:.3f}" for value in (values if len(values) == 1 else (values[0], values[-1])))
            facts.append((f"{task} {measure.titled(name, way)}", shown))
    return facts


# --- self-training --------------------------------------------------------------------------------------------------


def improvement(lines: Sequence[dict], frame: Frame) -> list[Panel]:
    """Accuracy over iterations, by group too, and shares of samples that were right.

    Args:
        lines: of iterations.jsonl.
        frame: of `ImproveRun.evals`.
    """
    by_group = frame.where(split="dev").records()
    groups = list(lines[-1]["groups"])
    curves = [
        _with_band(str(group), "iteration", "accuracy", [row for row in by_group if row["group"] == group], colour)
        for group, colour in zip(groups, COLOURS, strict=False)
        if len(groups) > 1
    ]
    whole = _with_band("all", "iteration", "accuracy", [row for row in by_group if row["group"] is None], GREY, "--")
    shown = [Panel("Dev accuracy" + (" by group" if curves else ""), "iteration", [*curves, whole], True)]
    sampled = [
        _right(lines, "right", "sampled", "samples", COLOURS[0]),
        _right(lines, "right_hinted", "hinted", "with a hint", COLOURS[1]),
    ]
    if any(curve.x for curve in sampled):
        shown.append(Panel("Samples that are right", "iteration", [curve for curve in sampled if curve.x], True))
    return shown


def _right(lines: Sequence[dict], part: str, whole: str, label: str, colour: str) -> Curve:
    rows = []
    for line in lines:
        if line.get(whole):
            low, high = intervals.wilson(line[part], line[whole])
            rows.append(
                {
                    "iteration": line["iteration"],
                    "share": line[part] / line[whole],
                    "share_low": low,
                    "share_high": high,
                }
            )
    return _with_band(label, "iteration", "share", rows, colour)


def iterations(lines: Sequence[dict]) -> Frame:
    """A row for every iteration: what was sampled, kept, trained on and answered."""
    rows = []
    for line in lines:
        row = {"iteration": line["iteration"], "right": tables.fraction(line, "right", "sampled")}
        row["right with hint"] = tables.fraction(line, "right_hinted", "hinted")
        row |= {name: line[name] for name in ("examples", "steps") if name in line}
        row["dev accuracy"] = _share(line["accuracy"])
        row |= {name: f"{share['share']:.3f}" for name, share in line["groups"].items() if len(line["groups"]) > 1}
        if "test" in line:
            row["test accuracy"] = _share(line["test"]["accuracy"])
        rows.append(row)
    return Frame.of(rows)


def _share(record: dict) -> str:
    return tables.interval(record["share"], record["low"], record["high"])


# --- search ---------------------------------------------------------------------------------------------------------


def search(frame: Frame) -> list[Panel]:
    """What accuracy a budget buys, of `SolveRun.evals`; nothing where only one budget is known."""
    rows = sorted(frame.records(), key=lambda row: row["written"])
    if len(rows) < 2:
        return []
    curve = _with_band("", "written", "accuracy", rows, COLOURS[0])
    return [Panel("Accuracy", "tokens written for a question", [curve], True)]
