"""Results of ablations, one for a base, a seed, an arm and a way of asking: their record, and a table of each.

`evals/intervals.py` says what an interval is over and by which method; a difference is paired by base and seed, which
fix the start, the text and the order in which arms see it.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from qstar import files
from qstar.evals import intervals, measure, records
from qstar.evals.intervals import Across
from qstar.reports import frames, tables

COLUMNS = (
    "arm",
    "seeds",
    "FLOPs",
    "accuracy, likeliest thoughts",
    "accuracy, sampled thoughts",
    "against the reference, paired",
    "probability of the answer, sampled",
    "accuracy, no thoughts",
    "reward",
)


class Ablation(Protocol):
    """What a table asks of an ablation: see `runs/ablation.py`."""

    name: str
    reference: str
    arms: Mapping[str, object]
    checkpoints: bool


@dataclass(frozen=True)
class Result:
    """What one run of an arm answered, asked in one way; a run that diverged has no numbers."""

    ablation: str
    arm: str
    seed: int
    step: int
    cost: float  # of its training, FLOPs
    way: str  # none, likeliest, sampled; or diverged
    accuracy: float = math.nan
    probability: float = math.nan  # of the answer
    n: int = 0  # questions
    reward: float = math.nan  # mean over the last log interval of training, nats
    base: int = 0  # label of the model that all arms began with

    @property
    def key(self) -> tuple:
        """What it is a result of."""
        return (self.ablation, self.arm, f"base {self.base}", f"seed {self.seed}", f"step {self.step}", self.way)

    @property
    def run(self) -> tuple[int, int]:
        return self.base, self.seed


# --- the record -------------------------------------------------------------------------------------------------------


def merged(old: Sequence[Result], new: Sequence[Result], where: str, replace: bool) -> list[Result]:
    """The old results with the new ones in place of those of the same ablations from the same bases.

    Raises ValueError where that was not asked for or an ablation would lose results: see `records.check_replaced`.
    """
    renewed = {_part(result) for result in new}
    held = {result.key: max(result.n, 1) for result in old if _part(result) in renewed}
    if not (held and {result.key: result for result in new} == {r.key: r for r in old if _part(r) in renewed}):
        records.check_replaced(held, {result.key: max(result.n, 1) for result in new}, where, replace)
    kept = [result for result in old if _part(result) not in renewed]
    order = {name: i for i, name in enumerate(dict.fromkeys(result.ablation for result in (*old, *new)))}
    return sorted([*kept, *new], key=lambda result: (order[result.ablation], result.base))


def _part(result: Result) -> tuple[str, int]:
    """What of the record is replaced as a whole."""
    return result.ablation, result.base


def write(results: Iterable[Result], file: Path) -> None:
    """One line a result; numbers to six digits, what is not a number left out."""
    kept = [{name: value for name, value in dataclasses.asdict(result).items() if value == value} for result in results]
    files.write_records(
        file, [{k: float(f"{v:.6g}") if isinstance(v, float) else v for k, v in record.items()} for record in kept]
    )


def load(file: Path) -> list[Result]:
    return [Result(**line) for line in frames.lines(file)]


# --- numbers ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Line:
    """An arm at a step, over its seeds."""

    arm: str
    step: int
    cost: float
    by_way: dict[str, dict[tuple[int, int], Result]]  # way -> base and seed -> result

    def values(self, way: str, name: str) -> dict[tuple[int, int], float]:
        """Of the finished runs, in order; what is not a number is left out."""
        numbers = {run: getattr(result, name) for run, result in sorted(self.by_way.get(way, {}).items())}
        return {run: value for run, value in numbers.items() if not math.isnan(value)}

    def accuracy(self, way: str) -> Across | None:
        """None where it was not asked so, or every run diverged."""
        values, asked = self.values(way, "accuracy"), self.by_way.get(way, {}).values()
        return intervals.across(values, min(result.n for result in asked)) if values else None

    @property
    def seeds(self) -> str:
        """How many there are, of how many bases where these are several, and how many of them diverged."""
        diverged, ran = self.by_way.get("diverged", {}), self.by_way.get("none", {})
        bases = {base for base, _ in (*ran, *diverged)}
        text = f"{len(ran) + len(diverged)}" + (f" on {len(bases)} bases" if len(bases) > 1 else "")
        return text + (f", {len(diverged)} diverged" if diverged else "")

    @property
    def main(self) -> dict[tuple[int, int], Result]:
        """With sampled thoughts, as in training; a model that cannot think answers without."""
        return self.by_way.get("sampled") or self.by_way.get("none", {})

    def against(self, reference: "Line") -> dict[tuple[int, int], float]:
        """Differences of accuracy by base and seed."""
        both = sorted(self.main.keys() & reference.main.keys())
        return {run: self.main[run].accuracy - reference.main[run].accuracy for run in both}


def lines(ablation: Ablation, results: Iterable[Result]) -> list[Line]:
    """A line for every arm of the ablation that has results, at every step asked, in the order of the file."""
    by_place: dict[tuple[int, int], Line] = {}
    order = list(ablation.arms)
    for result in results:
        if result.ablation == ablation.name and result.arm in ablation.arms:
            place = (order.index(result.arm), result.step)
            line = by_place.setdefault(place, Line(result.arm, result.step, result.cost, {}))
            line.by_way.setdefault(result.way, {})[result.run] = result
    return [by_place[place] for place in sorted(by_place)]


# --- tables -------------------------------------------------------------------------------------------------------


def table(ablation: Ablation, results: Iterable[Result]) -> str:
    """An ablation in Markdown; arms that were not run are named below."""
    ready = lines(ablation, results)
    text = tables.markdown(COLUMNS, [_row(ablation, line, ready) for line in ready])
    missing = [arm for arm in ablation.arms if arm not in {line.arm for line in ready}]
    return text + (f"\nNot run: {'; '.join(missing)}.\n" if missing else "")


def _row(ablation: Ablation, line: Line, ready: Sequence[Line]) -> tuple[str, ...]:
    reference = _reference(ablation, line, ready)
    accuracy = {
        way: "" if across is None else across.written()
        for way in measure.NAMES.values()
        for across in [line.accuracy(way)]
    }
    return (
        f"{line.arm}, step {line.step}" if ablation.checkpoints else line.arm,
        line.seeds,
        f"{line.cost / reference.cost:.2f}" if reference else "",
        accuracy["likeliest"],
        accuracy["sampled"],
        "" if reference in (None, line) else tables.over_runs(line.against(reference), "+"),
        tables.over_runs(line.values("sampled", "probability")),
        accuracy["none"],
        tables.over_runs(line.values("sampled", "reward")),
    )


def _reference(ablation: Ablation, line: Line, ready: Sequence[Line]) -> Line | None:
    """The line that this one is compared with; an arm may take more steps than the reference to get where it does."""
    references = [other for other in ready if other.arm == ablation.reference]
    return next((other for other in references if not ablation.checkpoints or other.step == line.step), None)


BASES = ("ablation", "arm", "likeliest thoughts", "sampled thoughts", "against the reference, paired", "mean")


def bases_table(read: Sequence[Ablation], results: Sequence[Result]) -> str:
    """Arms that ran from several bases: accuracies base by base, means over the seeds of each, and differences from the
    reference with sampled thoughts, whose mean has its interval over bases. Ablations over checkpoints are left out.
    """
    rows = []
    for group in read:
        ready = [] if group.checkpoints else lines(group, results)
        for line in ready:
            reference = _reference(group, line, ready)
            gain = {} if reference in (None, line) else line.against(reference)
            if len({base for base, _ in line.main}) > 1:
                values = (line.values(way, "accuracy") for way in ("likeliest", "sampled"))
                mean = tables.over_runs(gain, "+") if len({base for base, _ in gain}) > 1 else ""
                rows.append((group.title, line.arm, *map(_by_base, values), _by_base(gain, "+"), mean))
    return tables.markdown(BASES, rows)


def _by_base(values: Mapping[tuple[int, int], float], sign: str = "") -> str:
    """`0.973, 0.890, 0.892`: of bases in their order, the mean over the seeds of each."""
    grouped: dict[int, list[float]] = {}
    for (base, _), value in sorted(values.items()):
        grouped.setdefault(base, []).append(value)
    return ", ".join(f"{sum(each) / len(each):{sign}.3f}" for each in grouped.values())
