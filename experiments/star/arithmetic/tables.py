"""Tables and figures of STaR's arithmetic, from the runs of study.py, into README.md beside this file.

    python experiments/star/arithmetic/tables.py [--runs runs/star_arithmetic] [--out FOLDER] [--replace]

Means over bases, or over the seeds of the only base, with the 95 % intervals of `qstar/evals/intervals.py`. A page that
has its tables already is rewritten with --replace only, and never from fewer runs of an arm than it reports. The
figures need matplotlib: pip install '.[figures]'.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import study

from qstar import files
from qstar.cli import entry, flags
from qstar.evals import records
from qstar.reports import figures, frames, selftraining, tables
from qstar.reports.selftraining import Arms, mean_share
from qstar.runs import iterations

HERE = Path(__file__).resolve().parent
NAMES = {
    "star": "STaR, continued",
    "restart": "STaR, restarts",
    "no_rationalization": "without rationalization",
    "no_filter": "without filter",
    "hints_no_filter": "hints, without filter",
    "direct": "direct answers",
    "human": "the task's own scratchpads",
    "few": "STaR, 2,000 questions",
    "few_direct": "direct answers, 2,000 questions",
}
COLOURS = dict(zip(NAMES.values(), figures.COLOURS, strict=True))


@dataclass(frozen=True)
class Run(selftraining.Run):
    """One arm with one seed, and its evaluation on sums longer than those of training."""

    unseen: dict | None = None


def collect(folder: Path) -> list[Run]:
    """Finished runs. Raises FileNotFoundError where there are none."""
    runs = []
    for arm in study.ARMS:
        for base, seed, directory in study.runs_of(folder, arm):
            if (directory / "summary.md").is_file():
                file = directory / study.UNSEEN_FILE
                unseen = files.read_json(file) if file.is_file() else None
                runs.append(Run(NAMES[arm], base, seed, iterations.lines(directory), unseen))
    if not runs:
        raise FileNotFoundError(f"{folder} holds no finished run: study.py makes them")
    return runs


def by_arm(runs: Iterable[Run]) -> dict[str, list[Run]]:
    return frames.grouped(runs, lambda run: run.arm)


def results(arms: Arms) -> str:
    """Test accuracy after the last iteration, by digits, and of digits that were never trained on."""
    digits = list(next(iter(arms.values()))[0].last["test"]["groups"])
    rows = []
    for arm, runs in arms.items():
        cells = [mean_share(runs, lambda run: run.last["test"]["accuracy"])]
        cells += [mean_share(runs, lambda run, size=size: run.last["test"]["groups"][size]) for size in digits]
        asked = [run for run in runs if run.unseen]
        cells += [mean_share(asked, lambda run, size=size: run.unseen["groups"][str(size)]) for size in study.UNSEEN]
        rows.append([arm, len(runs), runs[0].last["iteration"], *cells])
    unseen = (f"{size}, unseen" for size in study.UNSEEN)
    return tables.markdown(["arm", "runs", "iterations", "test", *digits, *unseen], rows)


def all_tables(runs: Sequence[Run]) -> dict[str, str]:
    """By the names of their places on the page."""
    arms = by_arm(runs)
    sections = {"results": results(arms)}
    sections |= {name: getattr(selftraining, name)(arms) for name in ("progress", "ledger", "leaks", "varied")}
    named = lambda size: f"{size} digit{'s' * (size != '1')}"  # noqa: E731
    return sections | {
        f"digits {arm}": selftraining.by_group(arms[name], named) for arm, name in NAMES.items() if name in arms
    }


def runs_of(page: str) -> dict[str, int]:
    """How many runs of each arm the page's table of results is made from; empty where it has none."""
    return {row[0]: int(row[1]) for row in tables.cells(tables.placed(page, "results")) if row[1].isdecimal()}


def draw(runs: Sequence[Run], out: Path) -> None:
    """Dev accuracy over iterations: of all arms, and of each arm by digits. Needs matplotlib."""
    arms, limits = by_arm(runs), (-0.03, 1.03)
    figure, (axes,) = figures.grid(1, 1, 6.4, 3.6)
    shown = [
        selftraining.curve(group, lambda line: line["accuracy"], name, COLOURS[name]) for name, group in arms.items()
    ]
    figures.curves(axes, shown, "iteration", "dev accuracy, 1 to 5 digits", limits)
    figures.level(axes, 0.895, "the paper's 0.895")
    axes.legend(fontsize=8, frameon=False, loc="lower center", ncols=2)
    figures.save(figure, out / "arms.png")
    figure, panels = figures.grid(len(arms), min(4, len(arms)), 2.6, 2.8, shared=True)
    for axes, (name, group) in zip(panels, arms.items(), strict=True):
        sizes = list(group[0].last["groups"])
        by_size = [
            selftraining.curve(group, lambda line, size=size: line["groups"][size], size, colour)
            for size, colour in zip(sizes, figures.shades(len(sizes)), strict=True)
        ]
        axes.set_title(name, fontsize=9, loc="left")
        figures.curves(axes, by_size, "iteration", "dev accuracy" if axes in panels[::4] else "", limits)
    panels[0].legend(loc="lower right", title="digits", fontsize=7, title_fontsize=7, frameon=False)
    figures.save(figure, out / "digits.png")


def main() -> None:
    parser = flags.parser(__doc__)
    parser.add_argument("--runs", type=Path, default=Path("runs/star_arithmetic"))
    parser.add_argument("--out", type=Path, default=HERE)
    parser.add_argument("--replace", action="store_true", help="rewrite the tables of a page that has them already")
    args = parser.parse_args()
    with entry.errors():
        runs = collect(args.runs)
        page, sections = args.out / "README.md", all_tables(runs)
        if page.is_file():
            text = page.read_text(encoding="utf-8")
            new = {name: len(group) for name, group in by_arm(runs).items()}
            records.check_replaced(runs_of(text), new, str(page), args.replace)
            there = {name: sections[name] for name in tables.places(text) if name in sections}
            tables.fill(page, there)
        else:
            print("\n".join(f"{name}\n\n{text}" for name, text in sections.items()))
        draw(runs, args.out)


if __name__ == "__main__":
    main()
