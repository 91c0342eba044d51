"""Tables and figures of STaR's arithmetic, from the runs of study.py, into README.md beside this file.

    python experiments/star/arithmetic/report.py [--runs runs/star_arithmetic] [--out FOLDER] [--replace]

Means over bases, or over the seeds of the only base, with the 95 % intervals of `qstar/evals/intervals.py`. A page that
has its tables already is written anew with --replace only, and never from fewer runs of an arm than it tells of. The
figures need matplotlib: pip install '.[figures]'.
"""

import argparse
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import study

from qstar.cli import session
from qstar.evals import intervals, records
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


Share = tuple[float, int]  # of so many questions; 0 where that was not written down


def told(shares: Mapping[tuple[int, int], Share]) -> str:
    """Of shares by base and seed: `0.812 [0.780, 0.841]`; empty where there is none."""
    if not shares:
        return ""
    questions = min(asked for _, asked in shares.values())
    return intervals.across({run: share for run, (share, _) in shares.items()}, questions).written()


def of(found: Mapping) -> Share:
    return found["share"], found.get("n", 0)


def by_run(runs: Iterable[Run], share: Callable[[Run], Share]) -> dict[tuple[int, int], Share]:
    return {(run.base, run.seed): share(run) for run in runs}


def varied(runs: Sequence[Run]) -> str:
    """What the intervals are over, arm by arm."""
    words = {NAMES[arm]: intervals.across(dict.fromkeys(by_run(group, lambda run: (0.0, 0)), 0.0)).varied
             for arm, group in by_arm(runs).items()}  # fmt: skip
    kinds: dict[str, list[str]] = {}
    for arm, what in words.items():
        kinds.setdefault(what, []).append(arm)
    return "".join(f"- {what}: {', '.join(arms)}\n" for what, arms in kinds.items())


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "".join(f"| {' | '.join(cells)} |\n" for cells in (head, ["---"] * len(head), *rows))


def results(runs: Sequence[Run]) -> str:
    """Test accuracy after the last iteration, by digits, and of digits that were never trained on."""
    digits = list(runs[0].last["test"]["groups"])
    head = ["arm", "runs", "iterations", "test", *digits, *(f"{one}, unseen" for one in study.UNSEEN)]
    rows = []
    for arm, group in by_arm(runs).items():
        shares = [by_run(group, lambda run: of(run.last["test"]["accuracy"]))]
        shares += [by_run(group, lambda run, one=one: of(run.last["test"]["groups"][one])) for one in digits]
        asked = [run for run in group if run.unseen]
        shares += [by_run(asked, lambda run, size=size: of(run.unseen["groups"][str(size)])) for size in study.UNSEEN]
        rows.append([NAMES[arm], str(len(group)), str(group[0].last["iteration"]), *map(told, shares)])
    return table(head, rows)


def progress(runs: Sequence[Run]) -> str:
    """Dev accuracy in every iteration, all digits together."""
    groups = by_arm(runs)
    most = max(len(run.lines) for run in runs)
    at = {i: {arm: [run for run in group if i < len(run.lines)] for arm, group in groups.items()} for i in range(most)}
    rows = (
        [str(i), *(told(by_run(group, lambda run, i=i: of(run.lines[i]["accuracy"]))) for group in reached.values())]
        for i, reached in at.items()
    )
    return table(["iteration", *(NAMES[arm] for arm in groups)], rows)


def digits(runs: Sequence[Run], arm: str) -> str:
    """Dev accuracy of one arm by digits in every iteration, and what was sampled."""
    group = by_arm(runs)[arm]
    sizes = list(group[0].last["groups"])
    rows = []
    for i in range(max(len(run.lines) for run in group)):
        reached = [run for run in group if i < len(run.lines)]
        sampled = [_rate(reached, i, right, whole) for right, whole in RATES]
        shares = (by_run(reached, lambda run, i=i, size=size: of(run.lines[i]["groups"][size])) for size in sizes)
        rows.append([str(i), *map(told, shares), *sampled])
    head = ["iteration", *(f"{size} digit{'s' * (size != '1')}" for size in sizes)]
    return table([*head, "samples right", "right with hint"], rows)


def _rate(runs: Sequence[Run], iteration: int, right: str, whole: str) -> str:
    asked = [run for run in runs if run.lines[iteration].get(whole)]
    return told(
        by_run(
            asked, lambda run: (run.lines[iteration][right] / run.lines[iteration][whole], run.lines[iteration][whole])
        )
    )


RATES = (("right", "sampled"), ("right_hinted", "hinted"))


def ledger(runs: Sequence[Run]) -> str:
    """What a run of each arm cost, mean over runs."""
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
    """Over all iterations, mean over runs."""
    return sum(line["ledger"].get(phase, {}).get(key, 0) for run in group for line in run.lines) / len(group)


def leaks(runs: Sequence[Run]) -> str:
    """Whether what is learnt derives its answer, and whether wrong hints are followed; counts of all runs."""
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
    found["varied"] = varied(runs)
    return found | {f"digits {arm}": digits(runs, arm) for arm in by_arm(runs)}


def filled(page: str, found: dict[str, str]) -> str:
    """The page with each table between its two marks."""
    for name, text in found.items():
        place = re.compile(rf"(<!-- table {re.escape(name)} -->)\n.*?(<!-- end -->)", re.DOTALL)
        page = place.sub(lambda match, text=text: f"{match[1]}\n{text}{match[2]}", page)
    return page


def told_of(page: str) -> dict[str, int]:
    """How many runs of each arm the page's table of results is made from; empty where it has none."""
    place = re.search(r"<!-- table results -->\n(.*?)<!-- end -->", page, re.DOTALL)
    rows = [line.strip("|").split("|") for line in place[1].splitlines()[2:]] if place else []
    return {cells[0].strip(): int(cells[1]) for cells in rows if cells[1].strip().isdecimal()}


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
    """The mean over runs, and every run faintly."""
    each = [[value(line) for line in run.lines] for run in group]
    for one in each:
        axes.plot(range(len(one)), one, color=colour, linewidth=0.6, alpha=0.4)
    mean = [sum(at) / len(at) for i in range(max(map(len, each))) for at in [[one[i] for one in each if i < len(one)]]]
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
    parser.add_argument("--replace", action="store_true", help="write the tables of a page that has them already anew")
    args = parser.parse_args()
    with session.errors():
        runs = collect(args.runs)
        page = args.out / "README.md"
        found = tables(runs)
        if page.is_file():
            text = page.read_text(encoding="utf-8")
            new = {NAMES[arm]: len(group) for arm, group in by_arm(runs).items()}
            records.check_replaced(told_of(text), new, str(page), args.replace)
            page.write_text(filled(text, found), encoding="utf-8")
        else:
            print("\n".join(f"{name}\n\n{text}" for name, text in found.items()))
        draw(runs, args.out)


if __name__ == "__main__":
    main()
