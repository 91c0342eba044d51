"""Tables and figures of STaR's arithmetic, from the runs of study.py, into README.md beside this file.

    python experiments/star/arithmetic/tables.py [--runs runs/star_arithmetic] [--out FOLDER] [--replace]

Means over bases, or over the seeds of the only base, with the 95 % intervals of `qstar/evals/intervals.py`. A page that
has its tables already is written anew with --replace only, and never from fewer runs of an arm than it tells of. The
figures need matplotlib: pip install '.[figures]'.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import study

from qstar import files
from qstar.cli import flags, session
from qstar.evals import records
from qstar.reports import figures, frames, tables
from qstar.reports.figures import Curve
from qstar.runs import iterations

HERE = Path(__file__).resolve().parent
NAMES = {
    "star": "STaR, goes on",
    "restart": "STaR, restarts",
    "no_rationalization": "without rationalization",
    "no_filter": "without filter",
    "hints_no_filter": "hints, without filter",
    "direct": "direct answers",
    "human": "the task's own scratchpads",
    "few": "STaR, 2,000 questions",
    "few_direct": "direct answers, 2,000 questions",
}
COLOURS = dict(zip(NAMES, figures.COLOURS, strict=True))
SPENT = ("prompt_tokens", "generated_tokens", "graded_tokens", "trained_tokens", "target_tokens")


@dataclass(frozen=True)
class Run:
    """One arm with one seed."""

    arm: str
    base: int
    seed: int
    lines: list[dict]
    unseen: dict | None

    @property
    def last(self) -> dict:
        return self.lines[-1]


def collect(folder: Path) -> list[Run]:
    """Finished runs. Raises FileNotFoundError where there are none."""
    found = []
    for arm in study.ARMS:
        for base, seed, directory in study.runs_of(folder, arm):
            if (directory / "summary.md").is_file():
                file = directory / study.UNSEEN_FILE
                unseen = files.read_json(file) if file.is_file() else None
                found.append(Run(arm, base, seed, iterations.lines(directory), unseen))
    if not found:
        raise FileNotFoundError(f"{folder} holds no finished run: study.py makes them")
    return found


def by_arm(runs: Iterable[Run]) -> dict[str, list[Run]]:
    return frames.grouped(runs, lambda run: run.arm)


# --- tables -------------------------------------------------------------------------------------------------------


def told(runs: Iterable[Run], share: Callable[[Run], Mapping]) -> str:
    """A share over runs: `0.812 [0.780, 0.841]`; empty where there is no run."""
    return tables.shares_over_runs({(run.base, run.seed): share(run) for run in runs})


def varied(runs: Sequence[Run]) -> str:
    """What the intervals are over, arm by arm."""
    return tables.varied({NAMES[arm]: [(run.base, run.seed) for run in group] for arm, group in by_arm(runs).items()})


def results(runs: Sequence[Run]) -> str:
    """Test accuracy after the last iteration, by digits, and of digits that were never trained on."""
    digits = list(runs[0].last["test"]["groups"])
    rows = []
    for arm, group in by_arm(runs).items():
        cells = [told(group, lambda run: run.last["test"]["accuracy"])]
        cells += [told(group, lambda run, size=size: run.last["test"]["groups"][size]) for size in digits]
        asked = [run for run in group if run.unseen]
        cells += [told(asked, lambda run, size=size: run.unseen["groups"][str(size)]) for size in study.UNSEEN]
        rows.append([NAMES[arm], len(group), group[0].last["iteration"], *cells])
    unseen = (f"{size}, unseen" for size in study.UNSEEN)
    return tables.markdown(["arm", "runs", "iterations", "test", *digits, *unseen], rows)


def at_iterations(runs: Sequence[Run]) -> list[list[Run]]:
    """The runs that have come to each iteration, from 0 on."""
    return [[run for run in runs if i < len(run.lines)] for i in range(max(len(run.lines) for run in runs))]


def progress(runs: Sequence[Run]) -> str:
    """Dev accuracy in every iteration, all digits together."""
    groups = by_arm(runs)
    rows = []
    for i, reached in enumerate(at_iterations(runs)):
        there = by_arm(reached)
        rows.append([i, *(told(there.get(arm, ()), lambda run, i=i: run.lines[i]["accuracy"]) for arm in groups)])
    return tables.markdown(["iteration", *(NAMES[arm] for arm in groups)], rows)


def digits(runs: Sequence[Run], arm: str) -> str:
    """Dev accuracy of one arm by digits in every iteration, and what was sampled."""
    group = by_arm(runs)[arm]
    sizes = list(group[0].last["groups"])
    rows = []
    for i, reached in enumerate(at_iterations(group)):
        shares = [told(reached, lambda run, i=i, size=size: run.lines[i]["groups"][size]) for size in sizes]
        rows.append([i, *shares, *(rate(reached, i, *names) for names in RATES)])
    names = (f"{size} digit{'s' * (size != '1')}" for size in sizes)
    return tables.markdown(["iteration", *names, "samples right", "right with hint"], rows)


RATES = (("right", "sampled"), ("right_hinted", "hinted"))


def rate(runs: Iterable[Run], i: int, right: str, whole: str) -> str:
    asked = [run for run in runs if run.lines[i].get(whole)]
    return told(asked, lambda run: {"share": run.lines[i][right] / run.lines[i][whole], "n": run.lines[i][whole]})


def ledger(runs: Sequence[Run]) -> str:
    """What a run of each arm cost, mean over runs."""
    phases = (*frames.TRAINED, "dev", "test")
    rows = []
    for arm, group in by_arm(runs).items():
        mean = lambda *what, group=group: sum(frames.spent(run.lines, *what) for run in group) / len(group)  # noqa: E731
        flops = (tables.flops(mean("flops", [phase])) for phase in phases)
        rows.append([NAMES[arm], *(tables.tokens(mean(name)) for name in SPENT), *flops])
    names = (name.replace("_", " ") for name in SPENT)
    return tables.markdown(["arm", *names, *(f"FLOPs, {phase}" for phase in phases)], rows)


def leaks(runs: Sequence[Run]) -> str:
    """Whether what is trained on derives its answer, and whether wrong hints are followed; counts of all runs."""
    rows = []
    for arm, group in by_arm(runs).items():
        lines = [line for run in group for line in run.lines]
        stated = [line["stated"] for line in lines if "stated" in line]
        early = [counted([one[kind] for one in stated if kind in one], "early", "count") for kind in ("free", "hinted")]
        followed = counted([line["wrong_hints"] for line in lines if "wrong_hints" in line], "followed", "asked")
        if any((*early, followed)):
            rows.append([NAMES[arm], *early, followed])
    return tables.markdown(["arm", "answer stated early", "the same with hint", "wrong hints followed"], rows)


def counted(found: Sequence[dict], part: str, whole: str) -> str:
    return f"{sum(one[part] for one in found):.0f}/{sum(one[whole] for one in found)}" if found else ""


def all_tables(runs: Sequence[Run]) -> dict[str, str]:
    found = {"results": results(runs), "progress": progress(runs), "ledger": ledger(runs), "leaks": leaks(runs)}
    found["varied"] = varied(runs)
    return found | {f"digits {arm}": digits(runs, arm) for arm in by_arm(runs)}


def runs_of(page: str) -> dict[str, int]:
    """How many runs of each arm the page's table of results is made from; empty where it has none."""
    return {row[0]: int(row[1]) for row in tables.cells(tables.placed(page, "results")) if row[1].isdecimal()}


# --- figures ------------------------------------------------------------------------------------------------------


def draw(runs: Sequence[Run], out: Path) -> None:
    """Dev accuracy over iterations: of all arms, and of each arm by digits. Wants matplotlib."""
    groups, limits = by_arm(runs), (-0.03, 1.03)
    figure, (axes,) = figures.grid(1, 1, 6.4, 3.6)
    arms = [curve(group, lambda line: line["accuracy"], NAMES[arm], COLOURS[arm]) for arm, group in groups.items()]
    figures.curves(axes, arms, "iteration", "dev accuracy, 1 to 5 digits", limits)
    figures.level(axes, 0.895, "the paper's 0.895")
    axes.legend(fontsize=8, frameon=False)
    figures.save(figure, out / "arms.png")
    figure, panels = figures.grid(len(groups), min(4, len(groups)), 2.6, 2.8, shared=True)
    for axes, (arm, group) in zip(panels, groups.items(), strict=True):
        sizes = list(group[0].last["groups"])
        by_size = [
            curve(group, lambda line, size=size: line["groups"][size], size, colour)
            for size, colour in zip(sizes, figures.shades(len(sizes)), strict=True)
        ]
        axes.set_title(NAMES[arm], fontsize=9, loc="left")
        figures.curves(axes, by_size, "iteration", "dev accuracy" if axes in panels[::4] else "", limits)
    panels[0].legend(loc="lower right", title="digits", fontsize=7, title_fontsize=7, frameon=False)
    figures.save(figure, out / "digits.png")


def curve(group: Sequence[Run], share: Callable[[dict], Mapping], label: str, colour: object) -> Curve:
    """The mean over runs, and every run."""
    each = [[share(line)["share"] for line in run.lines] for run in group]
    mean = figures.mean_of_runs(each)
    return Curve(label, range(len(mean)), mean, colour, runs=each)


def main() -> None:
    parser = flags.parser(__doc__)
    parser.add_argument("--runs", type=Path, default=Path("runs/star_arithmetic"))
    parser.add_argument("--out", type=Path, default=HERE)
    parser.add_argument("--replace", action="store_true", help="write the tables of a page that has them already anew")
    args = parser.parse_args()
    with session.errors():
        runs = collect(args.runs)
        page, found = args.out / "README.md", all_tables(runs)
        if page.is_file():
            text = page.read_text(encoding="utf-8")
            new = {NAMES[arm]: len(group) for arm, group in by_arm(runs).items()}
            records.check_replaced(runs_of(text), new, str(page), args.replace)
            there = {name: found[name] for name in tables.places(text) if name in found}
            page.write_text(tables.filled(text, there), encoding="utf-8")
        else:
            print("\n".join(f"{name}\n\n{text}" for name, text in found.items()))
        draw(runs, args.out)


if __name__ == "__main__":
    main()
