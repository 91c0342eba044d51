"""Tables and figures of STaR's arithmetic, from the runs of study.py, into README.md beside this file.

    python experiments/star/arithmetic/report.py [--runs runs/star_arithmetic] [--out experiments/star/arithmetic]

Means over seeds with 95 % intervals by Student's t. The figures want matplotlib: pip install '.[figures]'.
"""

import argparse
import json
import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import study

from qstar import iterations
from qstar.evals import intervals

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
COLOURS = dict(  # Okabe and Ito, and one of Tol's
    zip(
        NAMES,
        ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#882255", "#666666", "#000000", "#56b4e9", "#e69f00"),
        strict=True,
    )
)
TRAINING = ("sample", "hint", "train")  # phases of the ledger; asking dev and test is apart


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
                unseen = json.loads(file.read_text()) if file.is_file() else None
                found.append(Run(arm, base, seed, iterations.lines(directory), unseen))
    if not found:
        raise FileNotFoundError(f"{folder} holds no finished run: study.py makes them")
    return found


def by_arm(runs: Iterable[Run]) -> dict[str, list[Run]]:
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.arm, []).append(run)
    return groups


# --- tables -------------------------------------------------------------------------------------------------------


def told(values: Sequence[float]) -> str:
    """`0.812 ± 0.030`; without an interval where there is one value, empty where there is none."""
    if not values:
        return ""
    mean, half = intervals.student(values)
    return f"{mean:.3f}" + ("" if math.isnan(half) else f" ± {half:.3f}")


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "".join(f"| {' | '.join(cells)} |\n" for cells in (head, ["---"] * len(head), *rows))


def results(runs: Sequence[Run]) -> str:
    """Test accuracy after the last iteration, by digits, and of digits that were never learnt."""
    digits = list(runs[0].last["test"]["groups"])
    head = ["arm", "seeds", "iterations", "test", *digits, *(f"{one}, unseen" for one in study.UNSEEN)]
    rows = []
    for arm, group in by_arm(runs).items():
        shares = [[run.last["test"]["accuracy"]["share"] for run in group]]
        shares += [[run.last["test"]["groups"][one]["share"] for run in group] for one in digits]
        asked = [run.unseen["groups"] for run in group if run.unseen]
        shares += [[one[str(size)]["share"] for one in asked] for size in study.UNSEEN]
        rows.append([NAMES[arm], str(len(group)), str(group[0].last["iteration"]), *map(told, shares)])
    return table(head, rows)


def progress(runs: Sequence[Run]) -> str:
    """Dev accuracy in every iteration, all digits together."""
    groups = by_arm(runs)
    shares = {
        arm: [[line["accuracy"]["share"] for line in run.lines] for run in group] for arm, group in groups.items()
    }
    most = max(len(one) for each in shares.values() for one in each)
    rows = (
        [str(i), *(told([one[i] for one in each if i < len(one)]) for each in shares.values())] for i in range(most)
    )
    return table(["iteration", *(NAMES[arm] for arm in groups)], rows)


def digits(runs: Sequence[Run], arm: str) -> str:
    """Dev accuracy of one arm by digits in every iteration, and what was sampled."""
    group = by_arm(runs)[arm]
    sizes = list(group[0].last["groups"])
    rows = []
    for i in range(len(group[0].lines)):
        at = [run.lines[i] for run in group]
        sampled = [told([line[right] / line[all] for line in at if line.get(all)]) for right, all in RATES]
        rows.append([str(i), *(told([line["groups"][size]["share"] for line in at]) for size in sizes), *sampled])
    head = ["iteration", *(f"{size} digit{'s' * (size != '1')}" for size in sizes)]
    return table([*head, "samples right", "right with hint"], rows)


RATES = (("right", "sampled"), ("right_hinted", "hinted"))


def ledger(runs: Sequence[Run]) -> str:
    """What a run of each arm cost, mean over seeds."""
    keys = ("prompt_tokens", "generated_tokens", "graded_tokens", "trained_tokens", "target_tokens")
    phases = (*TRAINING, "dev", "test")
    head = ["arm", *(key.replace("_", " ") for key in keys), *(f"FLOPs, {phase}" for phase in phases)]
    rows = []
    for arm, group in by_arm(runs).items():
        tokens = [sum(spent(group, phase, key) for phase in TRAINING) for key in keys]
        flops = [spent(group, phase, "flops") for phase in phases]
        rows.append([NAMES[arm], *(f"{count:,.0f}" for count in tokens), *(f"{count:.2e}" for count in flops)])
    return table(head, rows)


def spent(group: Sequence[Run], phase: str, key: str) -> float:
    """Over all iterations, mean over seeds."""
    return sum(line["ledger"].get(phase, {}).get(key, 0) for run in group for line in run.lines) / len(group)


def leaks(runs: Sequence[Run]) -> str:
    """Whether what is learnt derives its answer, and whether wrong hints are followed; counts of all seeds."""
    rows = []
    for arm, group in by_arm(runs).items():
        lines = [line for run in group for line in run.lines]
        stated = [line["stated"] for line in lines if "stated" in line]
        early = [_of([one[kind] for one in stated if kind in one], "early", "count") for kind in ("free", "hinted")]
        followed = _of([line["wrong_hints"] for line in lines if "wrong_hints" in line], "followed", "asked")
        if any((*early, followed)):
            rows.append([NAMES[arm], *early, followed])
    return table(["arm", "answer stated early", "the same with hint", "wrong hints followed"], rows)


def _of(found: Sequence[dict], part: str, whole: str) -> str:
    return f"{sum(one[part] for one in found):.0f}/{sum(one[whole] for one in found)}" if found else ""


def tables(runs: Sequence[Run]) -> dict[str, str]:
    found = {"results": results(runs), "progress": progress(runs), "ledger": ledger(runs), "leaks": leaks(runs)}
    return found | {f"digits {arm}": digits(runs, arm) for arm in by_arm(runs)}


def filled(page: str, found: dict[str, str]) -> str:
    """The page with each table between its two marks."""
    for name, text in found.items():
        place = re.compile(rf"(<!-- table {re.escape(name)} -->)\n.*?(<!-- end -->)", re.DOTALL)
        page = place.sub(lambda match, text=text: f"{match[1]}\n{text}{match[2]}", page)
    return page


# --- figures ------------------------------------------------------------------------------------------------------


def draw(runs: Sequence[Run], out: Path) -> None:
    """Dev accuracy over iterations: of all arms, and of each arm by digits. Wants matplotlib."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6.4, 3.6), layout="constrained")
    for arm, group in by_arm(runs).items():
        _curve(axes, group, lambda line: line["accuracy"]["share"], NAMES[arm], COLOURS[arm])
    axes.axhline(0.895, color="0.6", linewidth=0.8, linestyle=":")
    axes.text(0, 0.9, "the paper's 0.895", fontsize=7, color="0.4", va="bottom")
    _finish(axes, "dev accuracy, 1 to 5 digits")
    axes.legend(fontsize=8, frameon=False)
    figure.savefig(out / "arms.png", dpi=150)
    groups = by_arm(runs)
    across = min(4, len(groups))
    down = -(-len(groups) // across)
    figure, panels = pyplot.subplots(
        down, across, figsize=(2.6 * across, 2.8 * down), layout="constrained", sharey=True, squeeze=False
    )
    for axes in panels.flat[len(groups) :]:
        axes.remove()
    used = panels.flat[: len(groups)]
    shades = pyplot.get_cmap("viridis")
    for axes, (arm, group) in zip(used, groups.items(), strict=True):
        sizes = list(group[0].last["groups"])
        for number, size in enumerate(sizes):
            colour = shades(number / len(sizes))
            _curve(axes, group, lambda line, size=size: line["groups"][size]["share"], size, colour)
        axes.set_title(NAMES[arm], fontsize=9, loc="left")
        _finish(axes, "dev accuracy" if axes in panels[:, 0] else "")
    used[0].legend(loc="lower right", title="digits", fontsize=7, title_fontsize=7, frameon=False)
    figure.savefig(out / "digits.png", dpi=150)


def _curve(axes, group: Sequence[Run], value: Callable[[dict], float], label: str, colour) -> None:
    """The mean over seeds, and every seed faintly."""
    each = [[value(line) for line in run.lines] for run in group]
    for one in each:
        axes.plot(range(len(one)), one, color=colour, linewidth=0.6, alpha=0.4)
    mean = [sum(at) / len(at) for at in zip(*each, strict=True)]
    axes.plot(range(len(mean)), mean, color=colour, linewidth=1.6, marker="o", markersize=3, label=label)


def _finish(axes, label: str) -> None:
    axes.set_xlabel("iteration", fontsize=9)
    axes.set_ylabel(label, fontsize=9)
    axes.set_ylim(-0.03, 1.03)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs/star_arithmetic"))
    parser.add_argument("--out", type=Path, default=HERE)
    args = parser.parse_args()
    runs = collect(args.runs)
    page = args.out / "README.md"
    found = tables(runs)
    if page.is_file():
        page.write_text(filled(page.read_text(encoding="utf-8"), found), encoding="utf-8")
    else:
        print("\n".join(f"{name}\n\n{text}" for name, text in found.items()))
    draw(runs, args.out)


if __name__ == "__main__":
    main()
