"""A process reward model on outside data: does SmolLM2 learn to find the mistakes of other models' solutions?

    python experiments/verifiers/mistakes/mistakes.py --out runs/mistakes
    python experiments/verifiers/mistakes/mistakes.py --show experiments/verifiers/mistakes        # the tables

BIG-Bench Mistake (Tyen et al. 2023) has solutions of a language model with the index of the first wrong step.
Of it the tasks multistep arithmetic and tracking shuffled objects. The steps before the mistake are right, it is wrong,
and nothing is known of those after it: they are not judged (Lightman et al. 2023 supervise up to the first mistake as
well), and training does not read them. Every question has one solution, so that solutions are split by question.

A seed chooses the split into train, dev and test (3 : 1 : 1 of each task) and the order of training. A step is called
wrong if its score is at most a threshold, which is chosen on dev, of each task, for the F1 of the first mistake.

A job is what scores the steps: `prm` is trained; `judge` is the same language model, asked whether all is correct so
far; `position` is the share of right steps at this place of this task in train; `untrained` is the head before
training, which says 1/2. A finished job adds a line to OUT/results.jsonl, with every score, and is not repeated.
"""

import argparse
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from qstar import config as configs
from qstar import files
from qstar.cli import entry, flags
from qstar.evals import step_scores
from qstar.reports import frames, tables
from qstar.runs import judge, load, scoring, stored, train
from qstar.tasks.lines import json_lines

TASKS = {"arithmetic": "multistep_arithmetic", "objects": "tracking_shuffled_objects"}
STORIES = ("books", "dance", "gifts", "match", "ball")  # of shuffled objects; a gift may be a ball
KINDS = ("position", "story", "untrained", "prm", "judge")
RESULTS = "results.jsonl"
BOTH = "both"


@dataclass(frozen=True)
class Split:
    """Solutions of a seed."""

    train: list[dict]
    dev: list[dict]
    test: list[dict]


# --- data ---------------------------------------------------------------------------------------------------------


def solution(record: Mapping, task: str, number: int) -> dict:
    """A record of BIG-Bench Mistake with labels of its steps: null after the first mistake."""
    steps, mistake = [step.strip() + "\n" for step in record["steps"]], record["mistake_index"]
    labels = [True] * len(steps) if mistake is None else [True] * mistake + [False]
    if mistake is not None and not 0 <= mistake < len(steps):
        raise ValueError(f"{task} {number}: mistake_index {mistake}: expected null or one of {len(steps)} steps")
    labels += [None] * (len(steps) - len(labels))
    return {"task": task, "number": number, "prompt": record["input"].strip() + "\n", "completions": steps,
            "labels": labels}  # fmt: skip


def contradictory(record: Mapping) -> bool:
    """Its answer is wrong, and no step is."""
    return record["mistake_index"] is None and record["answer"] != record["target"]


def judged(row: Mapping) -> list[bool]:
    """The labels up to the first mistake."""
    return [label for label in row["labels"] if label is not None]


def read(folder: Path, base: str, length: int) -> tuple[list[dict], dict]:
    """The solutions of both tasks that have at most `length` tokens, and how many were left out for which reason."""
    tokenizer, rows, left_out = load.load_model(base).tokenizer, [], Counter()
    for task, name in TASKS.items():
        for number, (_, record) in enumerate(json_lines(folder / f"bigbench_mistake_{name}.jsonl")):
            row = solution(record, task, number)
            if contradictory(record):
                left_out[f"{task}: a wrong answer without a mistake"] += 1
            elif sum(map(len, tokenizer.encode_pair(row["prompt"], "".join(row["completions"])))) > length:
                left_out[f"{task}: too long"] += 1
            else:
                rows.append(row)
    return rows, dict(left_out)


def split(rows: Sequence[dict], seed: int) -> Split:
    """3 : 1 : 1 of each task."""
    parts: Split = Split([], [], [])
    rng = np.random.default_rng(seed)
    for group in frames.by(rows, "task").values():
        order = [group[i] for i in rng.permutation(len(group))]
        fifth = len(order) // 5
        parts.dev.extend(order[:fifth])
        parts.test.extend(order[fifth : 2 * fifth])
        parts.train.extend(order[2 * fifth :])
    return parts


# --- scores -------------------------------------------------------------------------------------------------------


def story(row: Mapping) -> str:
    """What the objects are; nothing of sums."""
    return next((word for word in STORIES if word in row["prompt"]), "")


def shares_right(rows: Iterable[Mapping], group: Callable[[Mapping], str]) -> dict[tuple[str, int], float]:
    """By group and place the share of judged steps that are right, with one right and one wrong step added to each."""
    right, count = Counter(), Counter()
    for row in rows:
        for place, label in enumerate(judged(row)):
            right[group(row), place] += label
            count[group(row), place] += 1
    return {place: (right[place] + 1) / (count[place] + 2) for place in count}


GROUPS = {"position": lambda row: row["task"], "story": lambda row: row["task"] + story(row)}


def trained(parts: Split, run: Path, seed: int, args: argparse.Namespace) -> None:
    """A reward model on the steps up to the first mistake."""
    if stored.saved_steps(run) == [args.steps]:
        return
    shutil.rmtree(run.parent, ignore_errors=True)  # of a call that was interrupted
    files.make(run.parent)
    data = run.parent / "train.jsonl"
    files.write_records(data, [
        {"prompt": row["prompt"], "completions": row["completions"][: len(judged(row))], "labels": judged(row)}
        for row in parts.train
    ])  # fmt: skip
    cfg = configs.composed("train", [
        "~experiments", "method=prm", "data=labelled", "model=pretrained", f"model.source={args.base}", "eval=none",
        f"data.path={data}", "data.separator=''", f"data.length={2 * args.length}", "model.remat=none", f"seed={seed}",
        f"steps={args.steps}", f"batch_size={args.batch}", f"optim.lr={args.lr}", "optim.schedule=cosine",
        "optim.beta2=0.98", f"optim.warmup_steps={args.steps // 10}", f"save_every={args.steps}", "log_every=5",
        "sample_every=0", f"run_dir={run}",
    ])  # fmt: skip
    train.run(cfg, run)


def scores(kind: str, parts: Split, rows: Sequence[Mapping], seed: int, args: argparse.Namespace) -> list[np.ndarray]:
    """Of every step of some solutions, those after the mistake as well."""
    if kind == "untrained":
        return [np.full(len(row["completions"]), 0.5) for row in rows]
    if kind in GROUPS:
        group = GROUPS[kind]
        shares = shares_right(parts.train, group)
        places = [[(group(row), place) for place in range(len(row["completions"]))] for row in rows]
        return [np.array([shares.get(place, 0.5) for place in of]) for of in places]
    if kind == "prm":
        run = args.out / f"seed_{seed}" / "run"
        trained(parts, run, seed, args)
        scorer = scoring.opened(run)
    else:
        scorer = judge.opened(f"{judge.PREFIX}{args.base}")
    return scorer.score([row["prompt"] for row in rows], [row["completions"] for row in rows]).steps


def work(kind: str, seed: int, args: argparse.Namespace) -> str:
    """A job and its line of results."""
    started = time.monotonic()
    rows, left_out = read(args.data, args.base, args.length)
    parts = split(rows, seed)
    held = [*parts.dev, *parts.test]
    given = [
        {
            "task": row["task"],
            "story": story(row),
            "number": row["number"],
            "judged": judged(row),
            "scores": np.round(of, 5).tolist(),
        }
        for row, of in zip(held, scores(kind, parts, held, seed, args), strict=True)
    ]
    seconds = round(time.monotonic() - started, 1)
    line = {
        "seed": seed, "kind": kind, "setting": setting(args), "train": len(parts.train), "left_out": left_out,
        "seconds": seconds, "dev": given[: len(parts.dev)], "test": given[len(parts.dev) :],
    }  # fmt: skip
    files.append(args.out / RESULTS, [line], durable=True)
    return f"seed {seed}, {kind}: {seconds:.0f} s"


def setting(args: argparse.Namespace) -> dict:
    base = Path(args.base).name
    return {"base": base, "length": args.length, "steps": args.steps, "batch": args.batch, "lr": args.lr}


# --- figures ------------------------------------------------------------------------------------------------------


def area(scores: Sequence[float], right: Sequence[bool], groups: Sequence | None = None) -> float:
    """Area under the ROC curve: how often what is right has the higher score; ties count half. nan without a pair.

    With groups, of the pairs within one.
    """
    scores, right = np.asarray(scores), np.asarray(right, bool)
    of = np.zeros(len(right)) if groups is None else np.unique(groups, return_inverse=True)[1]
    gaps = scores[right][:, None] - scores[~right][None]
    gaps = gaps[of[right][:, None] == of[~right][None]]
    return float(np.mean((gaps > 0) + (gaps == 0) / 2)) if gaps.size else float("nan")


def first_mistakes(rows: Sequence[Mapping], threshold: float) -> step_scores.FirstErrors:
    """How often the first step whose score is at most the threshold is the mistake; steps after it do not matter."""
    said = [[score > threshold for score in row["scores"][: len(row["judged"])]] for row in rows]
    return step_scores.first_errors(said, [row["judged"] for row in rows])


def best_threshold(rows: Sequence[Mapping]) -> float:
    """Of the highest F1 of first mistakes; of equal ones, and where no solution or each has one, the nearest to 1/2."""
    candidates = {0.5, *(score for row in rows for score in row["scores"])}
    f1 = lambda at: np.nan_to_num(first_mistakes(rows, at).f1)  # noqa: E731
    return max(sorted(candidates), key=lambda at: (f1(at), -abs(at - 0.5)))


def figures_of(rows: Sequence[Mapping], threshold: float) -> dict:
    """Of held-out solutions: their judged steps, first mistakes, and whether there is one."""
    steps = np.array([score for row in rows for score in row["scores"][: len(row["judged"])]])
    right = np.array([label for row in rows for label in row["judged"]])
    least, whole = [min(row["scores"]) for row in rows], [all(row["judged"]) for row in rows]
    named = first_mistakes(rows, threshold)
    return {
        "solutions": len(rows), "flawless": float(np.mean(whole)), "steps": len(steps),
        "base_rate": float(max(right.mean(), 1 - right.mean())), "accuracy": float(np.mean((steps > 0.5) == right)),
        "step_auc": area(steps, right), "ece": step_scores.ece(steps, right),
        "brier": step_scores.brier(steps, right), "threshold": threshold, "named": named.wrong,
        "passed": named.right, "f1": named.f1, "solution_auc": area(least, whole),
        "within_auc": area(least, whole, [row["task"] + row["story"] for row in rows]),
        "solution_base": float(max(np.mean(whole), 1 - np.mean(whole))),
        "solution_accuracy": float(np.mean((np.array(least) > threshold) == np.array(whole))),
    }  # fmt: skip


def measured(lines: Iterable[Mapping]) -> list[dict]:
    """Of every job the figures of test, of both tasks and of each, with the threshold of the same tasks of dev."""
    out = []
    for line in lines:
        dev, test = ({BOTH: line[part], **frames.by(line[part], "task")} for part in ("dev", "test"))
        for task, rows in test.items():
            found = figures_of(rows, best_threshold(dev[task]))
            out.append({"seed": line["seed"], "kind": line["kind"], "task": task, **found})
    return out


TABLES = {
    "Steps": {
        "steps": "steps", "base rate": "base_rate", "accuracy": "accuracy", "AUC": "step_auc", "ECE": "ece",
        "Brier": "brier",
    },
    "First mistakes": {
        "threshold": "threshold", "of solutions with a mistake: it is named": "named",
        "of those without: none is named": "passed", "F1": "f1",
    },
    "Is there a mistake?": {
        "solutions": "solutions", "without a mistake": "flawless", "AUC of the least score": "solution_auc",
        "the same within a story": "within_auc",
        "base rate": "solution_base", "accuracy": "solution_accuracy",
    },
}  # fmt: skip
COMPARED = {
    "step AUC": "step_auc",
    "Brier": "brier",
    "F1": "f1",
    "solution AUC": "solution_auc",
    "within a story": "within_auc",
}
COUNTS = ("steps", "solutions")
PARTS = {
    "named": lambda line: round(line["solutions"] * (1 - line["flawless"])),
    "passed": lambda line: round(line["solutions"] * line["flawless"]),
}
"""Figures that are shares of solutions of one kind, those with a mistake and those without: how many these are."""


def cell(group: Sequence[Mapping], name: str) -> str:
    if name in PARTS:
        return tables.share_mean(group, name, PARTS[name])
    return tables.mean(group, name, form=".0f" if name in COUNTS else "")


def show(out: Path) -> None:
    """Print the tables of the results."""
    lines = frames.lines(out / RESULTS)
    counts = [{"seed": line["seed"], "train": line["train"]} for line in lines]
    print(f"Trained on {tables.mean(counts, 'train', form='.0f')} solutions. Left out: {lines[0]['left_out']}\n")
    found = measured(lines)
    groups = {
        (task, kind): [line for line in found if (line["task"], line["kind"]) == (task, kind)]
        for task in (BOTH, *TASKS)
        for kind in KINDS
    }
    groups = {key: group for key, group in groups.items() if group}
    for title, columns in TABLES.items():
        rows = [
            (task, kind, len(group), *(cell(group, name) for name in columns.values()))
            for (task, kind), group in groups.items()
        ]
        print(tables.section(title, ("task", "scores", "seeds", *columns), rows))
    rows = [
        (task, f"prm, less {other}", *(tables.gain(groups[task, "prm"], name, groups[task, other])
                                       for name in COMPARED.values()))
        for task in (BOTH, *TASKS) for other in GROUPS if {(task, "prm"), (task, other)} <= groups.keys()
    ]  # fmt: skip
    print(tables.section("Less what reads no step", ("task", "scores", *COMPARED), rows))


def main() -> None:
    parser = flags.parser(__doc__)
    parser.add_argument("--data", type=Path, help="folder of the files; else $QSTAR_DATA/bigbench_mistake")
    parser.add_argument("--base", default="models/smollm2", help="the language model that training starts from")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS[:-1])
    parser.add_argument("--length", type=int, default=256, help="tokens of the longest solution; a row has two")
    parser.add_argument("--steps", type=int, default=20, help="of training")
    parser.add_argument("--batch", type=int, default=2, help="rows of a step")
    parser.add_argument("--lr", type=float, default=2e-4)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--show", type=Path, metavar="OUT", help="print the tables of these results and run nothing")
    args = parser.parse_args()
    if args.show:
        return show(args.show)
    if args.out is None:
        parser.error("--out FOLDER is needed: results are written there")
    args.data = args.data or Path(os.environ.get("QSTAR_DATA", "")) / "bigbench_mistake"
    files.make(args.out)
    with entry.errors():
        done = frames.lines(args.out / RESULTS)
        others = [line["setting"] for line in done if line["setting"] != setting(args)]
        if others:
            raise ValueError(
                f"--out {args.out} has results of {others[0]}, not of {setting(args)}: name another folder"
            )
        entry.prepare_jax()
        finished = {(line["kind"], line["seed"]) for line in done}
        for kind in args.kinds:
            for seed in args.seeds:
                if (kind, seed) not in finished:
                    print(work(kind, seed, args), flush=True)
        show(args.out)


if __name__ == "__main__":
    main()
