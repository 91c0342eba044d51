"""The tables and figures of the ablations, from their runs or from what was written down about them.

    python experiments/quiet_star/ablations/tables.py [NAME ...] [--runs runs/ablations [1=runs/ablations_base_1 ...]]

With --runs the answers of `sweep.py` are collected into results.jsonl first, one line for a base, a seed, an arm and a
way of evaluation: a folder holds the runs from one base, 0 unless its label is given as LABEL=FOLDER. What the record
holds of an ablation from one base is replaced with --replace only, as a whole, and never by fewer arms, seeds or
questions; ablations and bases that the folders have nothing of stay. Then the tables go into ../README.md, each between
its marks, of base 0 but for one of all bases, and the figures of base 0 beside it (they need matplotlib: pip install
'.[figures]'). With names the tables of these ablations are printed, and nothing is written.
`qstar/reports/ablations.py` says what a table shows.
"""

from collections.abc import Sequence
from pathlib import Path

from qstar.cli import entry, flags
from qstar.reports import ablations, figures, tables
from qstar.reports.ablations import Line, Result
from qstar.reports.figures import Curve, Point
from qstar.runs import ablation
from qstar.runs.ablation import Ablation

HERE = Path(__file__).resolve().parent
RESULTS, PAGE = HERE / "results.jsonl", HERE.parent / "README.md"
BASES = "bases"  # the place of the table of all bases
CHANCE = 0.2  # one cup in five
WAYS = {"likeliest": (figures.COLOURS[0], "o", 0.16), "sampled": (figures.COLOURS[1], "o", 0.0),
        "none": (figures.GREY, "s", -0.16)}  # fmt: skip
"""Ways of evaluation: colour, marker, and height above the line of the arm."""
NAMES = {"likeliest": "likeliest thoughts", "sampled": "sampled thoughts", "none": "no thoughts"}


def texts(read: Sequence[Ablation], results: Sequence[Result]) -> dict[str, str]:
    """The tables of the page, by the names of their places: of base 0, and one of all bases."""
    shown = of_base_0(results)
    return {group.name: f"\n{ablations.table(group, shown)}\n" for group in read} | {
        BASES: f"\n{ablations.bases_table(read, results)}\n"
    }


def on_page(page: str) -> list[Ablation]:
    """The ablations that a page has places for."""
    return [ablation.read(name) for name in tables.places(page) if name != BASES]


def of_base_0(results: Sequence[Result]) -> list[Result]:
    return [result for result in results if result.base == 0]


def draw(read: Sequence[Ablation], results: Sequence[Result], folder: Path) -> None:
    """A panel of points for every ablation; of one whose checkpoints were evaluated, the reference arm over steps."""
    ready = [(group, lines) for group in read if (lines := ablations.lines(group, results))]
    draw_arms([pair for pair in ready if not pair[0].checkpoints], folder / "arms.png")
    for group, lines in ready:
        if group.checkpoints:
            draw_steps([line for line in lines if line.arm == group.reference], folder / f"{group.name}.png")


def draw_arms(ready: Sequence[tuple[Ablation, Sequence[Line]]], file: Path) -> None:
    """A line for every arm; the reference arm in bold."""
    heights = [0.8 + max(len(lines) for _, lines in ready[i : i + 3]) for i in range(0, len(ready), 3)]
    figure, panels = figures.grid(len(ready), 3, 13 / 3, 0.34, heights)
    for axes, (group, lines) in zip(panels, ready, strict=True):
        shown = [
            Point(row, accuracy.mean, accuracy.low, accuracy.high, *look)
            for row, line in enumerate(lines)
            for way, look in WAYS.items()
            if (accuracy := line.accuracy(way))
        ]
        axes.set_title(group.title, fontsize=8.5, loc="left", fontweight="bold")
        figures.level(axes, CHANCE, upright=True)
        figures.points(axes, [line.arm for line in lines], shown, group.reference, (0, 1.05))
    figures.legend(figure, list(NAMES.values()), *([look[i] for look in WAYS.values()] for i in (0, 1)))
    figures.save(figure, file)


def draw_steps(lines: Sequence[Line], file: Path) -> None:
    """Accuracy over steps by way of asking, with its interval as a band."""
    figure, (axes,) = figures.grid(1, 1, 6, 3)
    shown = []
    for way, (colour, *_) in WAYS.items():
        points = [(line.step, accuracy) for line in lines if (accuracy := line.accuracy(way))]
        steps, values = [step for step, _ in points], [accuracy for _, accuracy in points]
        parts = ([getattr(accuracy, name) for accuracy in values] for name in ("mean", "low", "high"))
        mean, low, high = parts
        shown.append(Curve(NAMES[way], steps, mean, colour, low, high))
    figures.curves(axes, shown, "step", "accuracy", (0, 1.02))
    figures.level(axes, CHANCE)
    axes.legend(fontsize=8, frameon=False, loc="center right")
    figures.save(figure, file)


def main() -> None:
    parser = flags.parser(__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="print the tables of these, and write nothing")
    parser.add_argument(
        "--runs",
        nargs="+",
        default=[],
        type=flags.labelled,
        metavar="FOLDER",
        help="where sweep.py left its runs, or LABEL=FOLDER for each base; without, results.jsonl is read",
    )
    parser.add_argument("--replace", action="store_true", help="replace what results.jsonl holds of these ablations")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the record")
    parser.add_argument("--page", type=Path, default=PAGE, help="the page with the places of the tables")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    flags.overriding(parser, "--set", "as it was given to sweep.py")
    args = parser.parse_args()
    with entry.errors():
        page = args.page.read_text(encoding="utf-8")
        read = [ablation.read(name) for name in args.names] or on_page(page)
        new = [
            result
            for group in read
            for base, folder in args.runs
            for result in ablation.collect(group, args.seeds, Path(folder), args.set, base)
        ]
        results = new if args.names and args.runs else ablations.load(args.results)
        if args.names:
            print("\n".join(ablations.table(group, results) for group in read))
            return
        if args.runs:
            results = ablations.merged(results, new, str(args.results), args.replace)
        page = tables.filled(page, texts(read, results))
        if args.runs:
            ablations.write(results, args.results)
        args.page.write_text(page, encoding="utf-8")
        draw(read, of_base_0(results), args.page.parent / "figures")


if __name__ == "__main__":
    main()
