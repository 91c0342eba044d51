"""Tables of self-training runs beside each other, in Markdown: dev and test, what was spent, and paired comparisons.

    python experiments/star/smollm2/report.py star=runs/star ssd=runs/ssd direct=runs/direct --before runs/star

Reads iterations.jsonl and, where ask.py has written them, asked_test.jsonl; of the run after --before what the base
answered. Intervals of shares are Wilson's, of differences bootstrap over questions; p is of McNemar's exact test.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from itertools import combinations
from pathlib import Path

import numpy as np

from qstar import config as configs
from qstar.config import ImproveConfig
from qstar.evals import intervals, paired
from qstar.reports import tables
from qstar.runs import iterations

PHASES = ("sample", "hint", "train")  # of the ledger; asking dev and test is apart


def read(file: Path) -> list[dict]:
    """JSON lines; none where there is no such file."""
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.is_file() else []


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "".join(f"| {' | '.join(cells)} |\n" for cells in (head, ["---"] * len(head), *rows))


def share(right: Sequence[bool]) -> str:
    """With its interval."""
    low, high = intervals.wilson(sum(right), len(right))
    return f"{sum(right)}/{len(right)} = {sum(right) / len(right):.3f} [{low:.3f}, {high:.3f}]"


def spent(lines: Sequence[dict], name: str, phases: Sequence[str] = PHASES) -> int:
    """Over all iterations."""
    return sum(line["ledger"].get(phase, {}).get(name, 0) for line in lines for phase in phases)


def iteration_rows(name: str, lines: Sequence[dict]) -> Iterator[list[str]]:
    """What was sampled, kept and answered in each iteration."""
    for line in lines:
        counts = [
            f"{line[right]}/{line[all]}" if all in line else ""
            for right, all in (("right", "sampled"), ("right_hinted", "hinted"))
        ]
        trained = [str(line.get(key, "")) for key in ("examples", "steps")]
        nll = f"{line['nll']:.3f}" if "nll" in line else ""
        groups = "; ".join(f"{group} {found['share']:.2f}" for group, found in line["groups"].items())
        yield [name, str(line["iteration"]), *counts, *trained, nll, tables.share(line["accuracy"]), groups]


def spent_row(name: str, run: Path, lines: Sequence[dict]) -> list[str]:
    cfg = configs.load(run / iterations.CONFIG, schema=ImproveConfig)
    tokens = [f"{spent(lines, key):,}" for key in ("prompt_tokens", "generated_tokens", "graded_tokens")]
    hinted = f"{spent(lines, 'generated_tokens', ['hint']):,}"
    trained = f"{spent(lines, 'trained_tokens'):,}"
    flops = [f"{spent(lines, 'flops', phases):.2e}" for phases in (["sample", "hint"], ["train"], ["dev"])]
    return [name, f"{cfg.optim.lr:g}", *tokens, hinted, trained, *flops]


def answer_row(name: str, rows: Sequence[dict]) -> list[str]:
    groups = sorted({row["group"] for row in rows})
    by_group = [[row["correct"] for row in rows if row["group"] == group] for group in groups]
    shown = "; ".join(f"{group} {sum(one)}/{len(one)}" for group, one in zip(groups, by_group, strict=True))
    unmarked = sum(row["reason"] in ("no answer", "too long") for row in rows)
    return [name, share([row["correct"] for row in rows]), shown, str(unmarked)]


def comparison(first: str, second: str, one: Sequence[dict], other: Sequence[dict]) -> list[str]:
    """Second less first, on the questions of both."""
    answers = {row["id"]: row["correct"] for row in one}
    pairs = [(answers[row["id"]], row["correct"]) for row in other if row["id"] in answers]
    differences = np.array([float(b) - float(a) for a, b in pairs])
    low, high = intervals.bootstrap(differences, seed=0)
    won, lost = int((differences > 0).sum()), int((differences < 0).sum())
    p = paired.mcnemar(lost, won)
    return [f"{second} - {first}", f"{differences.mean():+.3f} [{low:+.3f}, {high:+.3f}]", f"{won}/{lost}", f"{p:.2g}"]


def answered(runs: dict[str, Path], before: Path | None, split: str) -> dict[str, list[dict]]:
    """Rows of everyone who was asked, the base first."""
    base = read(before / f"before_{split}.jsonl") if before else []
    found = {
        f"before, {'with' if few_shot else 'without'} examples": [row for row in base if row["few_shot"] == few_shot]
        for few_shot in (False, True)
    }
    found |= {name: read(run / f"asked_{split}.jsonl") for name, run in runs.items()}
    return {name: rows for name, rows in found.items() if rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="NAME=RUN")
    parser.add_argument("--before", type=Path, help="the run in which ask.py --before wrote")
    args = parser.parse_args()
    runs = {name: Path(run) for name, _, run in (one.partition("=") for one in args.runs)}
    lines = {name: read(run / iterations.LINES) for name, run in runs.items()}
    head = ("method", "iteration", "right", "right with hint", "examples", "steps", "nll", "dev", "dev by group")
    print(markdown(head, [row for name, found in lines.items() for row in iteration_rows(name, found)]))
    head = ("method", "learning rate", "prompt tokens", "generated", "graded", "of these hinted", "trained")
    head += tuple(f"FLOPs of {phase}" for phase in ("sampling", "training", "asking dev"))
    print(markdown(head, [spent_row(name, runs[name], lines[name]) for name in runs]))
    for split in ("dev", "test"):
        rows = answered(runs, args.before, split)
        if rows:
            print(markdown((split, "right", "by group", "no answer"), [answer_row(*one) for one in rows.items()]))
    pairs = combinations(answered(runs, args.before, "test").items(), 2)
    differences = [comparison(first, second, one, other) for (first, one), (second, other) in pairs]
    if differences:
        print(markdown(("test", "difference", "won/lost", "p"), differences))


if __name__ == "__main__":
    main()
