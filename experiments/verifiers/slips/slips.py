"""Does a process reward model detect slips? Workings with errors, labelled exactly, on cups and on sums.

    qstar-train experiments=star/arithmetic/warmup ...           # a base for the sums; see experiments/star/arithmetic
    python experiments/verifiers/slips/slips.py cups --out runs/slips/cups
    python experiments/verifiers/slips/slips.py sums --base RUN --out runs/slips/sums

Every step of a solution is wrong with probability `--slips`, and later steps follow from it. A step is labelled
`right` where it follows from the step before it, or `reachable` where the answer can still be reached. Train and
held-out problems are different ones. Writes OUT/results.jsonl, a line for each seed, and prints the table.
"""

import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from qstar import config as configs
from qstar import files
from qstar.cli import entry, flags
from qstar.reports import tables
from qstar.runs import scoring, train
from qstar.tasks import arithmetic, cups
from qstar.tasks.arithmetic import Arithmetic
from qstar.tasks.cups import Cups
from qstar.tasks.labels import TRUTHS, Truth
from qstar.tasks.problem import Problem

TASKS = {"cups": Cups(), "sums": Arithmetic(digits=(2,))}
LENGTH = {"cups": 96, "sums": 128}
DIGITS = "0123456789"


def slipped(task: str, problem: Problem, share: float, rng: np.random.Generator) -> list[str]:
    """The steps of a solution in which every step is wrong with this probability."""
    return list((_slipped_cups if task == "cups" else _slipped_sum)(problem, share, rng))


def _other(than: str, of: str, rng: np.random.Generator) -> str:
    return rng.choice([character for character in of if character != than])


def _slipped_cups(problem: Problem, share: float, rng: np.random.Generator) -> Iterator[str]:
    place = problem.question[0]
    for number, move in enumerate(problem.question[1:-1]):
        place = cups.MOVES[move][int(place) - 1]
        place = _other(place, "12345", rng) if rng.random() < share else place
        yield ("" if number else "-") + place
    yield "-" + (_other(place, "12345", rng) if rng.random() < share else place) + ";"


def _slipped_sum(problem: Problem, share: float, rng: np.random.Generator) -> Iterator[str]:
    gold, lines = [*problem.rationale.split("\n"), problem.answer], []
    for number in range(len(gold)):
        line = arithmetic.follows(lines, gold)
        if number > 1 and gold[number] != "</scratch>" and rng.random() < share:
            line = _wrong_digit(line, rng)
        lines.append(line)
        yield line + ("\n\n" if number == len(gold) - 1 else "\n")


def _wrong_digit(line: str, rng: np.random.Generator) -> str:
    """The line with another carry, or another digit in the last place."""
    before, comma, state = line.rpartition(", ")
    digits, carries, carry = state.partition("C: ")
    if carries and (rng.random() < 0.5 or not before):  # a line that begins with the comma only carries on
        return f"{before}{comma}{digits}C: {_other(carry, '01', rng)}"
    return f"{before}{comma}{_other(state[0], DIGITS, rng)}{state[1:]}"


def labelled(args, split: str, seed: int) -> list[dict]:
    """The problems of a split with slipped workings and their labels, in TRL's stepwise format."""
    task = dataclasses.replace(TASKS[args.task], train=args.problems, dev=args.held_out)
    rng, rows = np.random.default_rng((seed, split == "dev")), []
    for problem in task.problems(split):
        if args.direct and rng.random() < args.direct:
            steps = [rng.choice(list("12345")) + ";"]
        else:
            steps = slipped(args.task, problem, args.slips, rng)
        truth = Truth(args.label).of(task, problem, steps)
        rows.append({"prompt": task.prompt(problem), "completions": steps, "labels": list(truth)})
    return rows


def measured(args, seed: int) -> dict:
    """A reward model trained with this seed, and its scores of held-out steps."""
    folder = args.out / f"seed_{seed}"
    rows = {split: labelled(args, split, seed) for split in ("train", "dev")}
    files.make(folder)
    files.write_records(folder / "train.jsonl", rows["train"])
    cfg = configs.composed("train", [
        "~experiments", "method=prm", "data=labelled", "model=pretrained", f"model.source={args.base}", "eval=none",
        f"data.path={folder / 'train.jsonl'}", "data.separator=''", f"data.length={LENGTH[args.task]}",
        "model.remat=none", f"seed={seed}",
        f"steps={args.steps}", "batch_size=16", "optim.lr=2e-3", "optim.schedule=cosine", "optim.beta2=0.98",
        f"optim.warmup_steps={min(50, args.steps // 2)}", f"save_every={args.steps}", "log_every=50", "sample_every=0",
        f"run_dir={folder / 'run'}",
    ])  # fmt: skip
    train.run(cfg, folder / "run")
    scorer = scoring.opened(folder / "run")
    scored = scorer.score([row["prompt"] for row in rows["dev"]], [row["completions"] for row in rows["dev"]])
    return {"seed": seed, "steps_trained": args.steps, **summary(scored.steps, [row["labels"] for row in rows["dev"]])}


def summary(scores: Sequence[np.ndarray], labels: Sequence[Sequence[bool]]) -> dict:
    """Accuracy on all, right and wrong steps; the base rate; how often the first error is located."""
    score, right = np.concatenate(scores), np.concatenate(labels)
    said = score > 0.5
    first = lambda marks: next((i for i, mark in enumerate(marks) if not mark), -1)  # noqa: E731
    named = [first(steps > 0.5) == first(truth) for steps, truth in zip(scores, labels, strict=True)]
    return {
        "steps": len(right),
        "base_rate": float(max(right.mean(), 1 - right.mean())),
        "accuracy": float((said == right).mean()),
        "of_right": float(said[right].mean()),
        "of_wrong": float((~said)[~right].mean()),
        "first_error": float(np.mean(named)),
    }


def table(lines: Sequence[dict]) -> str:
    """Means over seeds with 95 % intervals by Student's t."""
    names = ("base_rate", "accuracy", "of_right", "of_wrong", "first_error")
    return tables.markdown(("seeds", *names), [(len(lines), *(tables.mean(lines, name) for name in names))])


def main() -> None:
    parser = flags.parser(__doc__)
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("--base", default="bundled:cups", help="the model that training starts from")
    parser.add_argument("--label", choices=TRUTHS, default="right")
    parser.add_argument("--slips", type=float, default=0.4, help="probability that a step is wrong")
    parser.add_argument("--direct", type=float, default=0.0, help="of cups: share of solutions that are only a guess")
    parser.add_argument("--steps", type=int, default=1000, help="of training")
    parser.add_argument("--problems", type=int, default=4000, help="with a working each, to train on")
    parser.add_argument("--held-out", type=int, default=300, help="other problems")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    with entry.errors():
        entry.prepare_jax()
        lines = []
        for seed in args.seeds:
            lines.append(measured(args, seed))
            print(json.dumps(lines[-1]), flush=True)
        files.write_records(args.out / "results.jsonl", lines)
        print(table(lines), end="")


if __name__ == "__main__":
    main()
