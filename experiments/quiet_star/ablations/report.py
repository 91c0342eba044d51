"""The tables and figures of the ablations, from their runs or from what was written down about them.

    python experiments/quiet_star/ablations/report.py [NAME ...] [--runs runs/ablations [1=runs/ablations_base_1 ...]]

With --runs the answers of `sweep.py` are collected into results.jsonl first, one line for a base, a seed, an arm and a
way of asking: a folder holds the runs from one base, 0 unless its label is given as LABEL=FOLDER. An ablation that the
record holds already is replaced with --replace only, as a whole, and never by fewer arms, bases, seeds or questions;
ablations that the folders have nothing of stay. Then the tables go into ../README.md, each between its marks, and the
figures beside it (they need matplotlib: pip install '.[figures]'). With names the tables of these ablations are
printed, and nothing is written. What an interval is over, and by which method, says `qstar/evals/intervals.py`; a
difference is paired by base and seed, which fix the start, the text and the order in which arms see it.
"""

import argparse
import dataclasses
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import ablation
from ablation import Ablation

from qstar.cli import session
from qstar.evals import intervals, records
from qstar.evals.intervals import Across

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
    base: int = 0  # label of the model that all arms began with

    @property
    def key(self) -> tuple:
        """What it is a result of."""
        return (self.ablation, self.arm, f"base {self.base}", f"seed {self.seed}", f"step {self.step}", self.way)

    @property
    def run(self) -> tuple[int, int]:
        return self.base, self.seed


# --- collecting ---------------------------------------------------------------------------------------------------


def collect(one: Ablation, seeds: Sequence[int], out: Path, extra: Sequence[str] = (), base: int = 0) -> list[Result]:
    """What the runs of an ablation from one base answered; runs that are not finished are left out."""
    found = []
    for arm, said in one.arms.items():
        for seed in seeds:
            run = ablation.run(one, said, seed, out, extra)
            who = (one.name, arm, seed)
            if (run.directory / "diverged.txt").is_file():
                found.append(Result(*who, run.trained.steps, ablation.cost(run.trained), "diverged", base=base))
                continue
            for row in _lines(run.directory / "answers.jsonl"):
                if row["test"] == run.test and (one.checkpoints or row["step"] == run.trained.steps):
                    found.append(_result(who, ablation.cost(run.trained), row, run.directory, base))
    return found


def merged(old: Sequence[Result], new: Sequence[Result], where: str, replace: bool) -> list[Result]:
    """The old results with the new ones in place of those of the same ablations.

    Raises ValueError where that was not asked for or an ablation would lose results: see `records.check_replaced`.
    """
    renewed = {result.ablation for result in new}
    held = {result.key: max(result.n, 1) for result in old if result.ablation in renewed}
    if not (held and {result.key: result for result in new} == {r.key: r for r in old if r.ablation in renewed}):
        records.check_replaced(held, {result.key: max(result.n, 1) for result in new}, where, replace)
    order = list(dict.fromkeys(result.ablation for result in (*old, *new)))
    by_name = {name: [r for r in (new if name in renewed else old) if r.ablation == name] for name in order}
    return [result for name in order for result in by_name[name]]


def _result(who: tuple[str, str, int], cost: float, row: dict, directory: Path, base: int) -> Result:
    logged = [line for line in _lines(directory / "metrics.jsonl") if line["step"] <= row["step"]]
    reward = logged[-1].get("reward", math.nan)
    return Result(*who, row["step"], cost, row["way"], row["accuracy"], row["probability"], row["n"], reward, base)


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


Values = Mapping[tuple[int, int], float]
"""By base and seed."""


def told(values: Values, sign: str = "", questions: int = 0) -> str:
    """`0.812 ± 0.030`, of shares of questions `0.812 [0.780, 0.841]`; empty where there is no value."""
    return intervals.across(values, questions).written(sign) if values else ""


@dataclass(frozen=True)
class Line:
    """An arm at a step, over its seeds."""

    arm: str
    step: int
    cost: float
    by_way: dict[str, dict[tuple[int, int], Result]]  # way -> base and seed -> result

    def values(self, way: str, name: str) -> dict[tuple[int, int], float]:
        """Of the finished runs, in order; what is not a number is left out."""
        found = {run: getattr(result, name) for run, result in sorted(self.by_way.get(way, {}).items())}
        return {run: value for run, value in found.items() if not math.isnan(value)}

    def accuracy(self, way: str) -> Across | None:
        """None where it was not asked so, or every run diverged."""
        values, asked = self.values(way, "accuracy"), self.by_way.get(way, {}).values()
        return intervals.across(values, min(one.n for one in asked)) if values else None

    @property
    def seeds(self) -> str:
        """How many there are, of how many bases where these are several, and how many of them diverged."""
        diverged, ran = self.by_way.get("diverged", {}), self.by_way.get("none", {})
        bases = {base for base, _ in (*ran, *diverged)}
        each = f"{len(ran) + len(diverged)}" + (f" on {len(bases)} bases" if len(bases) > 1 else "")
        return each + (f", {len(diverged)} diverged" if diverged else "")

    @property
    def main(self) -> dict[tuple[int, int], Result]:
        """With sampled thoughts, as in training; a model that cannot think answers without."""
        return self.by_way.get("sampled") or self.by_way.get("none", {})

    def against(self, reference: "Line") -> dict[tuple[int, int], float]:
        """Differences of accuracy by base and seed."""
        both = sorted(self.main.keys() & reference.main.keys())
        return {run: self.main[run].accuracy - reference.main[run].accuracy for run in both}


def lines(one: Ablation, results: Iterable[Result]) -> list[Line]:
    """A line for every arm of the ablation that has results, at every step asked, in the order of the file."""
    found: dict[tuple[int, int], Line] = {}
    order = list(one.arms)
    for result in results:
        if result.ablation == one.name and result.arm in one.arms:
            place = (order.index(result.arm), result.step)
            line = found.setdefault(place, Line(result.arm, result.step, result.cost, {}))
            line.by_way.setdefault(result.way, {})[result.run] = result
    return [found[place] for place in sorted(found)]


# --- tables -------------------------------------------------------------------------------------------------------


def table(one: Ablation, results: Iterable[Result]) -> str:
    """An ablation in Markdown; arms that were not run are named below."""
    ready = lines(one, results)
    rows = [COLUMNS, ("---",) * len(COLUMNS), *(_row(one, line, ready) for line in ready)]
    text = "".join(f"| {' | '.join(cells)} |\n" for cells in rows)
    missing = [arm for arm in one.arms if arm not in {line.arm for line in ready}]
    return text + (f"\nNot run: {'; '.join(missing)}.\n" if missing else "")


WAYS = ("none", "likeliest", "sampled")


def _row(one: Ablation, line: Line, ready: Sequence[Line]) -> tuple[str, ...]:
    reference = _reference(one, line, ready)
    accuracy = {way: "" if found is None else found.written() for way in WAYS for found in [line.accuracy(way)]}
    return (
        f"{line.arm}, step {line.step}" if one.checkpoints else line.arm,
        line.seeds,
        f"{line.cost / reference.cost:.2f}" if reference else "",
        accuracy["likeliest"],
        accuracy["sampled"],
        "" if reference in (None, line) else told(line.against(reference), "+"),
        told(line.values("sampled", "probability")),
        accuracy["none"],
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
    parser.add_argument(
        "--runs",
        nargs="+",
        default=[],
        metavar="FOLDER",
        help="where sweep.py left its runs, or LABEL=FOLDER for each base; without, results.jsonl is read",
    )
    parser.add_argument("--replace", action="store_true", help="replace what results.jsonl holds of these ablations")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the record")
    parser.add_argument("--page", type=Path, default=PAGE, help="the page with the places of the tables")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="as it was given to sweep.py")
    args = parser.parse_args()
    with session.errors():
        page = args.page.read_text(encoding="utf-8")
        read = [ablation.read(name) for name in args.names or order(page)]
        folders = [_labelled(one) for one in args.runs]
        new = [r for one in read for base, folder in folders for r in collect(one, args.seeds, folder, args.set, base)]
        if args.names:
            print("\n".join(table(one, new if args.runs else load(args.results)) for one in read))
            return
        results = load(args.results)
        if args.runs:
            results = merged(results, new, str(args.results), args.replace)
        text = filled(page, {one.name: table(one, results) for one in read})
        if args.runs:
            write(results, args.results)
        args.page.write_text(text, encoding="utf-8")
        draw(read, results, args.page.parent / "figures")


def _labelled(said: str) -> tuple[int, Path]:
    """Base and folder of `LABEL=FOLDER`, or of a folder alone."""
    label, _, folder = said.partition("=")
    return (int(label), Path(folder)) if folder and label.isdecimal() else (0, Path(said))


def draw(read: Sequence[Ablation], results: Sequence[Result], folder: Path) -> None:
    """The figures of the page. Raises ModuleNotFoundError without matplotlib."""
    import figures

    figures.arms(read, results, folder / "arms.png")
    for one in read:
        if one.checkpoints and lines(one, results):
            figures.curve(one, results, folder / f"{one.name}.png")


if __name__ == "__main__":
    main()
