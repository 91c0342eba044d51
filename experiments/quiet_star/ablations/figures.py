"""The figures of the ablations: every arm as a point with its interval, and accuracy over steps.

Wants matplotlib (pip install '.[figures]'). Colours are those of Okabe and Ito, which colour-blind readers tell apart.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

import report
from ablation import Ablation
from report import Line, Result

try:
    import matplotlib
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(f"{error}: the figures want it, pip install '.[figures]'") from error

matplotlib.use("Agg")
from matplotlib import pyplot

CHANCE = 0.2  # one cup in five
WAYS = {"likeliest": ("#0072b2", "o", 0.16), "sampled": ("#d55e00", "o", 0.0), "none": ("#777777", "s", -0.16)}
"""Of asking: colour, marker, and how far above its arm's line it stands."""
NAMES = {"likeliest": "likeliest thoughts", "sampled": "sampled thoughts", "none": "no thoughts"}
PER_ROW = 3


def arms(read: Sequence[Ablation], results: Sequence[Result], file: Path) -> None:
    """A panel for every ablation, a line for every arm; the reference arm in bold."""
    ready = [(one, report.lines(one, results)) for one in read if not one.checkpoints]
    ready = [(one, lines) for one, lines in ready if lines]
    rows = [ready[i : i + PER_ROW] for i in range(0, len(ready), PER_ROW)]
    heights = [0.8 + max(len(lines) for _, lines in row) for row in rows]
    figure, axes = pyplot.subplots(
        len(rows),
        PER_ROW,
        figsize=(13, 0.34 * sum(heights)),
        gridspec_kw={"height_ratios": heights},
        layout="constrained",
        squeeze=False,
    )
    for place in axes.flat[len(ready) :]:
        place.axis("off")
    for place, (one, lines) in zip(axes.flat, ready, strict=False):
        _panel(place, one, lines)
    _legend(figure)
    _save(figure, file)


def _panel(place, one: Ablation, lines: Sequence[Line]) -> None:
    place.set_title(one.title, fontsize=9, loc="left", fontweight="bold")
    place.axvline(CHANCE, color="#bbbbbb", linewidth=0.8, linestyle=":")
    for height, line in zip(range(len(lines) - 1, -1, -1), lines, strict=True):
        for way, (colour, marker, above) in WAYS.items():
            found = line.accuracy(way)
            if found:
                around = [[found.mean - found.low], [found.high - found.mean]]
                place.errorbar(
                    found.mean, height + above, xerr=around, fmt=marker, color=colour, markersize=4, linewidth=1
                )
    place.set_yticks(range(len(lines)), [line.arm for line in reversed(lines)], fontsize=8)
    for label in place.get_yticklabels():
        label.set_fontweight("bold" if label.get_text() == one.reference else "normal")
    place.set_ylim(-0.6, len(lines) - 0.4)
    place.set_xlim(0, 1.05)
    place.tick_params(axis="x", labelsize=7)
    place.spines[["top", "right"]].set_visible(False)


def _legend(figure) -> None:
    shown = [pyplot.Line2D([], [], color=colour, marker=marker, markersize=4) for colour, marker, _ in WAYS.values()]
    figure.legend(shown, NAMES.values(), loc="outside upper right", ncols=len(WAYS), fontsize=8, frameon=False)


def curve(one: Ablation, results: Iterable[Result], file: Path) -> None:
    """Accuracy over the steps of the reference arm, by way of asking, with its interval as a band."""
    lines = [line for line in report.lines(one, results) if line.arm == one.reference]
    figure, place = pyplot.subplots(figsize=(6, 3), layout="constrained")
    for way, (colour, _, _) in WAYS.items():
        shown = [line for line in lines if line.accuracy(way)]
        found = [line.accuracy(way) for line in shown]
        steps, low, high = [line.step for line in shown], [one.low for one in found], [one.high for one in found]
        place.plot(
            steps, [one.mean for one in found], "-o", color=colour, markersize=3, linewidth=1.2, label=NAMES[way]
        )
        place.fill_between(steps, low, high, color=colour, alpha=0.18, linewidth=0)
    place.axhline(CHANCE, color="#bbbbbb", linewidth=0.8, linestyle=":")
    place.set(xlabel="step", ylabel="accuracy", ylim=(0, 1.02))
    place.spines[["top", "right"]].set_visible(False)
    place.legend(fontsize=8, frameon=False, loc="center right")
    _save(figure, file)


def _save(figure, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=100, metadata={"Software": None})
    pyplot.close(figure)
