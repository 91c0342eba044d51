"""Figures of experiments in one style: curves with their intervals, points with intervals in rows, histograms.

They need matplotlib (pip install '.[figures]'), which is imported when the first one is drawn. Colours are those of
Okabe and Ito and two of Tol's, which colour-blind readers tell apart.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from qstar import files

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#882255", "#666666", "#000000", "#56b4e9", "#e69f00")
GREY = "#999999"
Colour = str | tuple[float, float, float, float]


@dataclass(frozen=True)
class Curve:
    """One line of a figure."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    colour: Colour
    low: Sequence[float] = ()  # the interval at every x; empty where there is none
    high: Sequence[float] = ()
    runs: Sequence[Sequence[float]] = ()  # of which `y` is the mean, drawn faintly from the first x on
    line: str = "-"


@dataclass(frozen=True)
class Point:
    """A figure with its interval, in a row of a panel."""

    row: int
    mean: float
    low: float
    high: float
    colour: str
    marker: str = "o"
    above: float = 0.0  # how far above the middle of its row


def grid(
    count: int, across: int, width: float, height: float, heights: Sequence[float] = (), shared: bool = False
) -> "tuple[Figure, list[Axes]]":
    """So many panels, `across` in a row, each of this size in inches; `heights`: of the rows, relative to each other.

    Raises ModuleNotFoundError without matplotlib.
    """
    pyplot = _pyplot()
    down = -(-count // across)
    ratios = {"height_ratios": heights} if heights else None
    size = (width * across, height * (sum(heights) if heights else down))
    figure, axes = pyplot.subplots(
        down, across, figsize=size, layout="constrained", squeeze=False, gridspec_kw=ratios, sharey=shared
    )
    for unused in axes.flat[count:]:
        unused.remove()
    for used in axes.flat[:count]:
        used.spines[["top", "right"]].set_visible(False)
        used.tick_params(labelsize=8)
    return figure, list(axes.flat[:count])


def _pyplot() -> ModuleType:
    try:
        import matplotlib
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"{error}: figures need it, pip install '.[figures]'") from error
    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def shades(count: int) -> list[Colour]:
    """Colours of an order, from dark to light."""
    return [_pyplot().get_cmap("viridis")(number / count) for number in range(count)]


def curves(axes: "Axes", shown: Sequence[Curve], x: str, y: str, limits: tuple[float, float] | None = None) -> None:
    """Every curve with its band and the runs that it is the mean of; `limits` of the y axis."""
    for curve in shown:
        for run in curve.runs:
            axes.plot(curve.x[: len(run)], run, color=curve.colour, linewidth=0.6, alpha=0.4)
        style = {"color": curve.colour, "linestyle": curve.line, "linewidth": 1.4, "marker": "o", "markersize": 3}
        axes.plot(curve.x, curve.y, label=curve.label, **style)
        if len(curve.low):
            axes.fill_between(curve.x, curve.low, curve.high, color=curve.colour, alpha=0.18, linewidth=0)
    axes.set_xlabel(x, fontsize=9)
    axes.set_ylabel(y, fontsize=9)
    if limits:
        axes.set_ylim(*limits)


def mean_of_runs(runs: Sequence[Sequence[float]]) -> list[float]:
    """The mean at every place, of those runs that reach it."""
    at = ([run[i] for run in runs if i < len(run)] for i in range(max(map(len, runs))))
    return [sum(values) / len(values) for values in at]


def points(axes: "Axes", names: Sequence[str], shown: Sequence[Point], bold: str, limits: tuple[float, float]) -> None:
    """Points with horizontal intervals, a row for every name from above; the name `bold` stands out."""
    for point in shown:
        around = [[point.mean - point.low], [point.high - point.mean]]
        height = len(names) - 1 - point.row + point.above
        axes.errorbar(point.mean, height, xerr=around, fmt=point.marker, color=point.colour, markersize=4, linewidth=1)
    axes.set_yticks(range(len(names)), list(reversed(names)), fontsize=8)
    for label in axes.get_yticklabels():
        label.set_fontweight("bold" if label.get_text() == bold else "normal")
    axes.set_ylim(-0.6, len(names) - 0.4)
    axes.set_xlim(*limits)


def histogram(axes: "Axes", values: np.ndarray, x: str, y: str, outer: float = 0.005, bins: int = 81) -> None:
    """Numbers of values on a logarithmic axis; the `outer` share farthest from 0 is counted in the last bars."""
    reach = np.quantile(np.abs(values), 1 - outer)
    axes.hist(np.clip(values, -reach, reach), bins=bins, color=COLOURS[0])
    axes.set_yscale("log")
    axes.set_xlabel(x, fontsize=9)
    axes.set_ylabel(y, fontsize=9)


def level(axes: "Axes", value: float, text: str = "", upright: bool = False) -> None:
    """A dotted line for what a figure is compared with (chance, a published number), across or `upright`."""
    (axes.axvline if upright else axes.axhline)(value, color="#bbbbbb", linewidth=0.8, linestyle=":")
    if text:  # at the left edge, whatever the scale of x: a logarithmic one has no 0
        at_edge = axes.get_yaxis_transform()
        axes.text(0.01, value + 0.005, text, fontsize=7, color="0.4", va="bottom", transform=at_edge)


def legend(figure: "Figure", names: Sequence[str], colours: Sequence[str], markers: Sequence[str]) -> None:
    """One legend for all panels, above them."""
    lines = [
        _pyplot().Line2D([], [], color=colour, marker=marker, markersize=4)
        for colour, marker in zip(colours, markers, strict=True)
    ]
    figure.legend(lines, names, loc="outside upper right", ncols=len(names), fontsize=8, frameon=False)


def save(figure: "Figure", file: Path) -> None:
    """Write a PNG that is the same whenever the numbers are, with `drawn` of it in its metadata."""
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=150, metadata={"Software": None, DRAWN: drawn(figure)})
    _pyplot().close(figure)


DRAWN = "Drawn"  # entry of a PNG


def drawn(figure: "Figure") -> str:
    """A digest of the numbers and names in a figure, to four digits and however they are rendered."""
    contents: list[object] = []
    for axes in figure.axes:
        contents += [axes.get_title("left"), axes.get_title(), axes.get_xlabel(), axes.get_ylabel()]
        contents += [label.get_text() for label in axes.get_legend().get_texts()] if axes.get_legend() else []
        contents += [label.get_text() for label in axes.get_yticklabels()] if _named(axes) else []
        contents += [_points(line.get_xydata()) for line in axes.lines]
        contents += [_points(path.vertices) for shown in axes.collections for path in shown.get_paths()]
        contents += [_points(bar.get_bbox().get_points()) for bar in axes.patches]
    return files.checksum_of(repr(contents).encode())


def _named(axes: "Axes") -> bool:
    """Whether rows have names in place of numbers."""
    from matplotlib.ticker import FixedLocator

    return isinstance(axes.yaxis.get_major_locator(), FixedLocator)


def _points(points: np.ndarray) -> list[tuple[str, str]]:
    """Sorted: the outline of an area may begin anywhere."""
    return sorted({(f"{x:.4g}", f"{y:.4g}") for x, y in np.asarray(points, float) + 0.0})
