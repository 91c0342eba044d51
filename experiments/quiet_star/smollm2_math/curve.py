"""Scores over steps, from evaluations of checkpoints: one table and one figure.

    python experiments/quiet_star/smollm2_math/curve.py NAME=FOLDER ... --out experiments/quiet_star/smollm2_math

A folder is what `qstar-evaluate step=all out=FOLDER` wrote; that of a model before training has step 0 alone, and is
put in front of every curve. Writes curve.md and curve.png (needs matplotlib: pip install '.[figures]').
"""

from collections.abc import Iterator
from pathlib import Path

from qstar.cli import entry, flags
from qstar.reports import figures, frames, tables
from qstar.reports.figures import Curve

TASKS = {"gsm8k": "GSM8K", "commonsense_qa": "CommonsenseQA"}
WAYS = {"none": "no", "greedy": "yes"}
SCORES = {"probability": ".4f", "accuracy": ".3f"}

Evaluations = dict[str, list[dict]]
"""The lines of the evaluations of every model, by step."""


def table(evaluations: Evaluations) -> str:
    """A row for every model, step and way of answering; 95 % intervals in brackets."""
    keys = sorted(
        {(line["step"], name, line["way"]) for name, lines in evaluations.items() for line in lines},
        key=lambda key: (key[0], list(evaluations).index(key[1]), key[2] != "none"),
    )
    rows = []
    for step, name, way in keys:
        by_task = [frames.first(evaluations[name], step=step, way=way, task=task) or {} for task in TASKS]
        scores = (tables.figure(line, score, form) for line in by_task for score, form in SCORES.items())
        rows.append([step, name, WAYS[way], *scores])
    scores = (f"{name} {score}" for name in TASKS.values() for score in ("probability", "arg-max"))
    return tables.markdown(["step", "model", "thoughts", *scores], rows)


def draw(evaluations: Evaluations, file: Path) -> None:
    """Probability score over steps, a panel for each task."""
    figure, panels = figures.grid(len(TASKS), len(TASKS), 5, 3.4)
    for axes, (task, title) in zip(panels, TASKS.items(), strict=True):
        figures.curves(axes, list(curves(evaluations, task)), "step", "probability of the answer")
        axes.set_title(title, fontsize=10, loc="left")
    panels[0].legend(fontsize=7, frameon=False, loc="upper left")
    figures.save(figure, file)


def curves(evaluations: Evaluations, task: str) -> Iterator[Curve]:
    """Of every model that was trained and way of answering; a model before training is put in front."""
    before = [line for lines in evaluations.values() if {line["step"] for line in lines} == {0} for line in lines]
    trained = {name: lines for name, lines in evaluations.items() if any(line["step"] for line in lines)}
    for colour, (name, lines) in zip(figures.COLOURS, trained.items(), strict=False):
        for way in WAYS:
            points = [line for line in lines if (line["task"], line["way"]) == (task, way)]
            if points:
                points = [line for line in before if line["task"] == task] + points
                names = ("step", "probability", "probability_low", "probability_high")
                steps, value, low, high = frames.columns(points, *names).values()
                label, style = (name, "--") if way == "none" else (f"{name}, thinking", "-")
                yield Curve(label, steps, value, colour, low, high, line=style)


def points(text: str) -> dict[tuple[str, ...], int]:
    """How many scores a table has at every step, model and way of answering."""
    return {tuple(cells[:3]): sum(map(bool, cells[3:])) for cells in tables.cells(text)}


def main() -> None:
    parser = flags.parser(__doc__)
    parser.add_argument("folders", nargs="+", type=flags.named, metavar="NAME=FOLDER")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--replace", action="store_true", help="replace the table that --out holds")
    args = parser.parse_args()
    with entry.errors():
        evaluations = {name: frames.evaluations(folder) for name, folder in args.folders}
        print(text := table(evaluations))
        tables.rewrite(args.out / "curve.md", text, points, args.replace)
        draw(evaluations, args.out / "curve.png")


if __name__ == "__main__":
    main()
