"""Self-training over arms, bases and seeds: tables and curves of what the runs' iterations.jsonl say.

Arms are groups of runs by the name that the tables call them. Shares are means over bases, or over the seeds of the
only base, with the intervals of `evals/intervals.py`.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from qstar.files import JsonObject
from qstar.reports import figures, frames, tables
from qstar.reports.figures import Curve

SPENT = ("prompt_tokens", "generated_tokens", "graded_tokens", "trained_tokens", "target_tokens")
SAMPLED = (("right", "sampled"), ("right_hinted", "hinted"))  # counts of an iteration: so many of so many


@dataclass(frozen=True)
class Run:
    """One arm with one seed."""

    arm: str
    base: int
    seed: int
    lines: list[JsonObject]  # of iterations.jsonl

    @property
    def last(self) -> JsonObject:
        return self.lines[-1]


Arms = Mapping[str, Sequence[Run]]
"""Runs by the name of their arm."""


def mean_share(runs: Iterable[Run], share: Callable[[Run], Mapping]) -> str:
    """A share over runs: `0.812 [0.780, 0.841]`; empty where there is no run."""
    return tables.shares_over_runs({(run.base, run.seed): share(run) for run in runs})


def varied(arms: Arms) -> str:
    """What the intervals are over, arm by arm."""
    return tables.varied({name: [(run.base, run.seed) for run in runs] for name, runs in arms.items()})


def progress(arms: Arms) -> str:
    """Accuracy on dev in every iteration."""
    rows = []
    for i in range(_iterations(run for runs in arms.values() for run in runs)):
        rows.append(
            [i, *(mean_share(_at(runs, i), lambda run, i=i: run.lines[i]["accuracy"]) for runs in arms.values())]
        )
    return tables.markdown(["iteration", *arms], rows)


def by_group(runs: Sequence[Run], named: Callable[[str], str] = str) -> str:
    """Accuracy on dev of one arm by groups of questions in every iteration, and what was sampled."""
    groups, rows = list(runs[0].last["groups"]), []
    for i in range(_iterations(runs)):
        shares = [mean_share(_at(runs, i), lambda run, i=i, name=name: run.lines[i]["groups"][name]) for name in groups]
        rows.append([i, *shares, *(_rate(_at(runs, i), i, *counts) for counts in SAMPLED)])
    return tables.markdown(["iteration", *map(named, groups), "samples right", "right with hint"], rows)


def _iterations(runs: Iterable[Run]) -> int:
    return max(len(run.lines) for run in runs)


def _at(runs: Iterable[Run], i: int) -> list[Run]:
    """Those that have reached this iteration."""
    return [run for run in runs if i < len(run.lines)]


def _rate(runs: Iterable[Run], i: int, right: str, whole: str) -> str:
    asked = [run for run in runs if run.lines[i].get(whole)]
    return mean_share(asked, lambda run: {"share": run.lines[i][right] / run.lines[i][whole], "n": run.lines[i][whole]})


def ledger(arms: Arms) -> str:
    """What a run of each arm cost, mean over runs."""
    phases = (*frames.TRAINED, "dev", "test")
    rows = []
    for arm, runs in arms.items():
        mean = lambda *what, runs=runs: sum(frames.spent(run.lines, *what) for run in runs) / len(runs)  # noqa: E731
        flops = (tables.flops(mean("flops", [phase])) for phase in phases)
        rows.append([arm, *(tables.tokens(mean(name)) for name in SPENT), *flops])
    names = (name.replace("_", " ") for name in SPENT)
    return tables.markdown(["arm", *names, *(f"FLOPs, {phase}" for phase in phases)], rows)


def leaks(arms: Arms) -> str:
    """Whether what is trained on derives its answer, and whether wrong hints are followed; counts of all runs."""
    rows = []
    for arm, runs in arms.items():
        lines = [line for run in runs for line in run.lines]
        stated = [line["stated"] for line in lines if "stated" in line]
        early = [
            _counted([counts[kind] for counts in stated if kind in counts], "early", "count")
            for kind in ("free", "hinted")
        ]
        followed = _counted([line["wrong_hints"] for line in lines if "wrong_hints" in line], "followed", "asked")
        if any((*early, followed)):
            rows.append([arm, *early, followed])
    return tables.markdown(["arm", "answer stated early", "the same with hint", "wrong hints followed"], rows)


def _counted(counts: Sequence[dict], part: str, whole: str) -> str:
    return f"{sum(count[part] for count in counts):.0f}/{sum(count[whole] for count in counts)}" if counts else ""


def iterations(runs: Mapping[str, Sequence[dict]]) -> str:
    """Single runs beside each other, by name: what was sampled, kept and answered in each iteration."""
    names = ("method", "iteration", "right", "right with hint", "examples", "steps", "nll", "dev", "dev by group")
    return tables.markdown(names, (row for name, lines in runs.items() for row in _iteration_rows(name, lines)))


def _iteration_rows(name: str, lines: Sequence[dict]) -> Iterator[list[object]]:
    for line in lines:
        trained = (line.get(key, "") for key in ("examples", "steps"))
        nll = f"{line['nll']:.3f}" if "nll" in line else ""
        groups = "; ".join(f"{group} {share['share']:.2f}" for group, share in line["groups"].items())
        yield [name, line["iteration"], *sampled(line), *trained, nll, tables.share(line["accuracy"]), groups]


def sampled(line: dict) -> list[str]:
    """Two cells: samples that were right, and those with a hint."""
    return [tables.fraction(line, *counts) for counts in SAMPLED]


def curve(runs: Sequence[Run], share: Callable[[dict], Mapping], label: str, colour: object) -> Curve:
    """A share over iterations: the mean over runs, and every run."""
    shares = [[share(line)["share"] for line in run.lines] for run in runs]
    mean = figures.mean_of_runs(shares)
    return Curve(label, range(len(mean)), mean, colour, runs=shares)
