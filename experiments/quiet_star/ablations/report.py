"""The tables and figures of the ablations, from their runs or from what was written down about them.

    python experiments/quiet_star/ablations/report.py [NAME ...] [--runs runs/ablations]

With --runs the answers of `sweep.py` are collected into results.jsonl first, one line for a seed, an arm and a way of
asking. Then the tables go into ../README.md, each between its marks, and the figures beside it (they want matplotlib:
pip install '.[figures]'). With names the tables of these ablations are printed, and nothing is written. An interval is
Student's t over seeds; a difference is paired by seed, which fixes the text and the order in which arms see it.
"""

import argparse
import dataclasses
import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import ablation
from ablation import Ablation

from qstar import entry
from qstar.evals import intervals

RESULTS = ablation.HERE / "results.jsonl"
PAGE = ablation.HERE.parent / "README.md"
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


# --- collecting ---------------------------------------------------------------------------------------------------


def collect(one: Ablation, seeds: Sequence[int], out: Path, extra: Sequence[str] = ()) -> list[Result]:
    """What the runs of an ablation answered; runs that are not finished are left out."""
    found = []
    for arm, said in one.arms.items():
        for seed in seeds:
            run = ablation.run(one, said, seed, out, extra)
            who = (one.name, arm, seed)
            if (run.directory / "diverged.txt").is_file():
                found.append(Result(*who, run.trained.steps, ablation.cost(run.trained), "diverged"))
                continue
            for row in _lines(run.directory / "answers.jsonl"):
                if row["test"] == run.test and (one.checkpoints or row["step"] == run.trained.steps):
                    found.append(_result(who, ablation.cost(run.trained), row, run.directory))
    return found


def _result(who: tuple[str, str, int], cost: float, row: dict, directory: Path) -> Result:
    logged = [line for line in _lines(directory / "metrics.jsonl") if line["step"] <= row["step"]]
    reward = logged[-1].get("reward", math.nan)
    return Result(*who, row["step"], cost, row["way"], row["accuracy"], row["probability"], row["n"], reward)


def _lines(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.is_file() else []


def write(results: Iterable[Result], file: Path) -> None:
    """One line a result; numbers to six digits, what is not a number left out."""
    with open(file, "w", encoding="utf-8") as stream:
        for result in results:
            values = dataclasses.asdict(result).items()
            short = {k: float(f"{v:.6g}") if isinstance(v, float) else v for k, v in values if v == v}
            stream.write(json.dumps(short) + "\n")


def load(file: Path) -> list[Result]:
    return [Result(**line) for line in _lines(file)]


# --- numbers ------------------------------------------------------------------------------------------------------


def told(values: Sequence[float], sign: str = "") -> str:
    """`0.812 ± 0.030`; without an interval where there is one value, empty where there is none."""
    if not values:
        return ""
    mean, half = intervals.student(values)
    form = "z.3f" if abs(mean) < 100 else ".2g"
    return f"{mean:{sign}{form}}" + ("" if math.isnan(half) else f" ± {half:{form}}")


@dataclass(frozen=True)
class Line:
    """An arm at a step, over its seeds."""

    arm: str
    step: int
    cost: float
    by_way: dict[str, dict[int, Result]]  # way -> seed -> result

    def values(self, way: str, name: str) -> list[float]:
        """Of the finished seeds, in order; what is not a number is left out."""
        found = (getattr(result, name) for _, result in sorted(self.by_way.get(way, {}).items()))
        return [value for value in found if not math.isnan(value)]

    @property
    def seeds(self) -> str:
        """How many there are, and how many of them diverged."""
        diverged, ran = len(self.by_way.get("diverged", {})), len(self.by_way.get("none", {}))
        return f"{ran + diverged}" + (f", {diverged} diverged" if diverged else "")

    @property
    def main(self) -> dict[int, Result]:
        """With sampled thoughts, as in training; a model that cannot think answers without."""
        return self.by_way.get("sampled") or self.by_way.get("none", {})

    def against(self, reference: "Line") -> list[float]:
        """Differences of accuracy by seed."""
        both = sorted(self.main.keys() & reference.main.keys())
        return [self.main[seed].accuracy - reference.main[seed].accuracy for seed in both]


def lines(one: Ablation, results: Iterable[Result]) -> list[Line]:
    """A line for every arm of the ablation that has results, at every step asked, in the order of the file."""
    found: dict[tuple[int, int], Line] = {}
    order = list(one.arms)
    for result in results:
        if result.ablation == one.name and result.arm in one.arms:
            place = (order.index(result.arm), result.step)
            line = found.setdefault(place, Line(result.arm, result.step, result.cost, {}))
            line.by_way.setdefault(result.way, {})[result.seed] = result
    return [found[place] for place in sorted(found)]


# --- tables -------------------------------------------------------------------------------------------------------


def table(one: Ablation, results: Iterable[Result]) -> str:
    """An ablation in Markdown; arms that were not run are named below."""
    ready = lines(one, results)
    rows = [COLUMNS, ("---",) * len(COLUMNS), *(_row(one, line, ready) for line in ready)]
    text = "".join(f"| {' | '.join(cells)} |\n" for cells in rows)
    missing = [arm for arm in one.arms if arm not in {line.arm for line in ready}]
    return text + (f"\nNot run: {'; '.join(missing)}.\n" if missing else "")


def _row(one: Ablation, line: Line, ready: Sequence[Line]) -> tuple[str, ...]:
    reference = _reference(one, line, ready)
    return (
        f"{line.arm}, step {line.step}" if one.checkpoints else line.arm,
        line.seeds,
        f"{line.cost / reference.cost:.2f}" if reference else "",
        told(line.values("likeliest", "accuracy")),
        told(line.values("sampled", "accuracy")),
        "" if reference in (None, line) else told(line.against(reference), "+"),
        told(line.values("sampled", "probability")),
        told(line.values("none", "accuracy")),
        told(line.values("sampled", "reward")),
    )


def _reference(one: Ablation, line: Line, ready: Sequence[Line]) -> Line | None:
    """The line that this one is held against; an arm may take more steps than the reference to get where it does."""
    found = [other for other in ready if other.arm == one.reference]
    return next((other for other in found if not one.checkpoints or other.step == line.step), None)


def filled(page: str, tables: dict[str, str]) -> str:
    """The page with each table between its marks, `<!-- table NAME -->` and `<!-- end -->`.

    Raises ValueError where a table has no place on the page.
    """
    for name, text in tables.items():
        place = re.compile(rf"(<!-- table {re.escape(name)} -->\n).*?(<!-- end -->)", re.DOTALL)
        if not place.search(page):
            raise ValueError(f"the page has no place for {name}: <!-- table {name} --> and <!-- end -->")
        page = place.sub(lambda match, text=text: f"{match[1]}\n{text}\n{match[2]}", page, count=1)
    return page


def order(page: str) -> list[str]:
    """The ablations that the page has a place for, as they come."""
    return re.findall(r"<!-- table (\S+) -->", page)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="print the tables of these, and write nothing")
    parser.add_argument("--runs", type=Path, help="where sweep.py left its runs; without it, results.jsonl is read")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="as it was given to sweep.py")
    args = parser.parse_args()
    with entry.errors():
        page = PAGE.read_text(encoding="utf-8")
        read = [ablation.read(name) for name in args.names or order(page)]
        results = load(RESULTS)
        if args.runs:
            results = [result for one in read for result in collect(one, args.seeds, args.runs, args.set)]
        tables = {one.name: table(one, results) for one in read}
        if args.names:
            print("\n".join(tables.values()))
            return
        write(results, RESULTS)
        PAGE.write_text(filled(page, tables), encoding="utf-8")
        draw(read, results)


def draw(read: Sequence[Ablation], results: Sequence[Result]) -> None:
    """The figures of the page. Raises ModuleNotFoundError without matplotlib."""
    import figures

    figures.arms(read, results, PAGE.parent / "figures" / "arms.png")
    for one in read:
        if one.checkpoints and lines(one, results):
            figures.curve(one, results, PAGE.parent / "figures" / f"{one.name}.png")


if __name__ == "__main__":
    main()
