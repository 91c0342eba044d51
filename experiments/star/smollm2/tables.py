"""Tables of several self-training runs in Markdown: dev and test accuracy, costs, and paired comparisons.

    python experiments/star/smollm2/tables.py star=runs/star ssd=runs/ssd direct=runs/direct --before runs/star

Reads iterations.jsonl and, where ask.py has written them, asked_test.jsonl; of the run after --before what the base
answered. Intervals of shares are Wilson's, of differences bootstrap over questions; p is of McNemar's exact test.
"""

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import numpy as np

from qstar import config as configs
from qstar.cli import flags
from qstar.config import ImproveConfig
from qstar.evals import intervals, paired
from qstar.reports import frames, selftraining, tables
from qstar.runs import iterations


def spent_row(name: str, run: Path, lines: Sequence[dict]) -> list[str]:
    cfg = configs.load(run / iterations.KIND.file, schema=ImproveConfig)
    tokens = [frames.spent(lines, key) for key in ("prompt_tokens", "generated_tokens", "graded_tokens")]
    tokens += [frames.spent(lines, "generated_tokens", ["hint"]), frames.spent(lines, "trained_tokens")]
    flops = [frames.spent(lines, "flops", phases) for phases in (["sample", "hint"], ["train"], ["dev"])]
    return [name, f"{cfg.optim.lr:g}", *map(tables.tokens, tokens), *map(tables.flops, flops)]


def answer_row(name: str, rows: Sequence[dict]) -> list[object]:
    by_group = sorted(frames.by(rows, "group").items())
    shown = "; ".join(f"{group} {sum(row['correct'] for row in its)}/{len(its)}" for group, its in by_group)
    unmarked = sum(row["reason"] in ("no answer", "too long") for row in rows)
    return [name, tables.counted_share([row["correct"] for row in rows]), shown, unmarked]


def comparison(first: str, first_rows: Sequence[dict], second: str, second_rows: Sequence[dict]) -> list[str]:
    """Second less first, on the questions of both."""
    answers = {row["id"]: row["correct"] for row in first_rows}
    pairs = [(answers[row["id"]], row["correct"]) for row in second_rows if row["id"] in answers]
    differences = np.array([float(b) - float(a) for a, b in pairs])
    mean = tables.interval(differences.mean(), *intervals.bootstrap(differences, seed=0), "+.3f")
    won, lost = int((differences > 0).sum()), int((differences < 0).sum())
    return [f"{second} - {first}", mean, f"{won}/{lost}", f"{paired.mcnemar(lost, won):.2g}"]


def answered(runs: dict[str, Path], before: Path | None, split: str) -> dict[str, list[dict]]:
    """Rows of all evaluated models, the base first."""
    base = frames.lines(before / f"before_{split}.jsonl") if before else []
    by_model = {
        f"before, {'with' if few_shot else 'without'} examples": [row for row in base if row["few_shot"] == few_shot]
        for few_shot in (False, True)
    }
    by_model |= {name: frames.lines(run / f"asked_{split}.jsonl") for name, run in runs.items()}
    return {name: rows for name, rows in by_model.items() if rows}


def main() -> None:
    parser = flags.parser(__doc__)
    parser.add_argument("runs", nargs="+", type=flags.named, metavar="NAME=RUN")
    parser.add_argument("--before", type=Path, help="the run in which ask.py --before wrote")
    args = parser.parse_args()
    runs = dict(args.runs)
    lines = {name: frames.lines(run / iterations.LINES) for name, run in runs.items()}
    print(selftraining.iterations(lines))
    head = ("method", "learning rate", "prompt tokens", "generated", "graded", "of these hinted", "trained")
    head += tuple(f"FLOPs of {phase}" for phase in ("sampling", "training", "asking dev"))
    print(tables.markdown(head, [spent_row(name, runs[name], lines[name]) for name in runs]))
    for split in ("dev", "test"):
        rows = answered(runs, args.before, split)
        if rows:
            print(
                tables.markdown((split, "right", "by group", "no answer"), [answer_row(*item) for item in rows.items()])
            )
    pairs = combinations(answered(runs, args.before, "test").items(), 2)
    differences = [comparison(*first, *second) for first, second in pairs]
    if differences:
        print(tables.markdown(("test", "difference", "won/lost", "p"), differences))


if __name__ == "__main__":
    main()
