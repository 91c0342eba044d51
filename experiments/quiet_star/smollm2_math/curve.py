"""Scores over steps, from evaluations of checkpoints: one table and one figure.

    python experiments/quiet_star/smollm2_math/curve.py NAME=FOLDER ... --out experiments/quiet_star/smollm2_math

A folder is what `qstar-evaluate step=all out=FOLDER` wrote; that of a model before training has step 0 alone, and is
put in front of every curve. Writes curve.md and curve.png (wants matplotlib: pip install '.[figures]').
"""

import argparse
import json
from pathlib import Path

from qstar.cli import session
from qstar.evals import records

TASKS = {"gsm8k": "GSM8K", "commonsense_qa": "CommonsenseQA"}
WAYS = {"none": "no", "greedy": "yes"}
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")  # Okabe and Ito


def read(folder: Path) -> list[dict]:
    """Lines of the evaluations of a folder, by step. Raises FileNotFoundError where there are none."""
    file = folder / "evals.jsonl"
    if not file.is_file():
        raise FileNotFoundError(f"{file} is not there: name a folder that qstar-evaluate wrote with out=FOLDER")
    return sorted(map(json.loads, file.read_text(encoding="utf-8").splitlines()), key=lambda line: line["step"])


def table(found: dict[str, list[dict]]) -> str:
    """A row for every model, step and way of answering; 95 % intervals in brackets."""
    rows = [
        "| step | model | thoughts | " + " | ".join(f"{name} probability | {name} arg-max" for name in TASKS.values())
    ]
    rows = [rows[0] + " |", "|" + " --- |" * (3 + 2 * len(TASKS))]
    keys = sorted(
        {(line["step"], name, line["way"]) for name, lines in found.items() for line in lines},
        key=lambda key: (key[0], list(found).index(key[1]), key[2] != "none"),
    )
    for step, name, way in keys:
        by_task = {line["task"]: line for line in found[name] if (line["step"], line["way"]) == (step, way)}
        cells = [cell for task in TASKS for cell in scores(by_task.get(task))]
        rows.append(f"| {step} | {name} | {WAYS[way]} | " + " | ".join(cells) + " |")
    return "\n".join(rows) + "\n"


def scores(line: dict | None) -> tuple[str, str]:
    if line is None:
        return "", ""
    return tuple(
        f"{line[name]:.{digits}f} [{line[name + '_low']:.{digits}f}, {line[name + '_high']:.{digits}f}]"
        for name, digits in (("probability", 4), ("accuracy", 3))
    )


def draw(found: dict[str, list[dict]], file: Path) -> None:
    """Probability score over steps, a panel for each task."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, len(TASKS), figsize=(10, 3.4), layout="constrained")
    before = [line for lines in found.values() if {line["step"] for line in lines} == {0} for line in lines]
    trained = {name: lines for name, lines in found.items() if any(line["step"] for line in lines)}
    for axes, (task, title) in zip(panels, TASKS.items(), strict=True):
        for colour, (name, lines) in zip(COLOURS, trained.items(), strict=False):
            for way in WAYS:
                points = [line for line in lines if (line["task"], line["way"]) == (task, way)]
                if not points:
                    continue
                points = [line for line in before if line["task"] == task] + points
                value = [line["probability"] for line in points]
                low = [line["probability"] - line["probability_low"] for line in points]
                high = [line["probability_high"] - line["probability"] for line in points]
                label = name if way == "none" else f"{name}, thinking"
                style = "--" if way == "none" else "-"
                steps = [line["step"] for line in points]
                axes.errorbar(
                    steps, value, yerr=(low, high), color=colour, linestyle=style, marker="o", markersize=3,
                    linewidth=1.2, elinewidth=0.6, label=label,
                )  # fmt: skip
        axes.set_title(title, fontsize=10, loc="left")
        axes.set_xlabel("step")
        axes.set_ylabel("probability of the answer")
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].legend(fontsize=7, frameon=False, loc="upper left")
    figure.savefig(file, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", metavar="NAME=FOLDER")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--replace", action="store_true", help="replace the table that --out holds")
    args = parser.parse_args()
    pairs = [one.partition("=") for one in args.folders]
    with session.errors():
        found = {name: read(Path(folder)) for name, _, folder in pairs}
        args.out.mkdir(parents=True, exist_ok=True)
        text, file = table(found), args.out / "curve.md"
        print(text)
        if not file.is_file() or file.read_text(encoding="utf-8") != text:
            old = file.read_text(encoding="utf-8") if file.is_file() else ""
            records.check_replaced(points(old), points(text), str(file), args.replace)
            file.write_text(text, encoding="utf-8")
        draw(found, args.out / "curve.png")


def points(text: str) -> dict[tuple[str, ...], int]:
    """How many scores a table has at every step, model and way of answering."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()[2:]]
    return {tuple(cells[:3]): sum(map(bool, cells[3:])) for cells in rows}


if __name__ == "__main__":
    main()
