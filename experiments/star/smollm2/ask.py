"""Evaluate self-training runs on a split, and keep every answer for paired comparisons.

    python experiments/star/smollm2/ask.py runs/star runs/ssd --split test
    python experiments/star/smollm2/ask.py runs/star --split test --before      # the base, with and without examples

The weights are those after the last iteration, decoding is greedy, and answers go to RUN/asked_SPLIT.jsonl
(of the base: RUN/before_SPLIT.jsonl). Reading the test split is recorded in the run's test_touches.jsonl.
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax
import numpy as np

from qstar import config as configs
from qstar import files
from qstar.cli import entry, flags
from qstar.config import ImproveConfig
from qstar.evals import records
from qstar.policy import Policy
from qstar.reports import frames
from qstar.runs import answering, improve, iterations
from qstar.tasks import problem as problems_of
from qstar.tasks.problem import Problem


def answers(cfg: ImproveConfig, sampler: Policy, problems: Sequence[Problem], few_shot: bool) -> Iterator[dict]:
    """A row for every question."""
    rng = np.random.default_rng(cfg.seed)
    for i in range(0, len(problems), cfg.sample_batch):
        batch = problems[i : i + cfg.sample_batch]
        shots = [cfg.task.shots(problem, rng) if few_shot else () for problem in batch]
        answered = answering.answer(cfg, sampler, batch, shots, False, 1, jax.random.key(cfg.seed), greedy=True)
        for problem, verdict, text in zip(batch, answered.verdicts, answered.written.text, strict=True):
            verdicts = {"correct": verdict.correct, "reason": verdict.reason}
            yield {"id": problem.id, "group": problem.group, "few_shot": few_shot, **verdicts, "written": text}


def main() -> None:
    parser = flags.parser(__doc__)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--split", choices=("dev", "test"), default="dev")
    parser.add_argument("--before", action="store_true", help="the base that the runs began with")
    parser.add_argument("--replace", action="store_true", help="replace answers that a run has already")
    parser.add_argument("--most", type=int, default=0, help="questions of test; 0: all (of dev: the run's own)")
    args = parser.parse_args()
    with entry.errors():
        entry.prepare_jax()
        asked(args)


def asked(args: argparse.Namespace) -> None:
    for run in args.runs:
        cfg = configs.load(run / iterations.KIND.file, schema=ImproveConfig)
        what, last = ("before", -1) if args.before else ("asked", len(iterations.lines(run)) - 1)
        sampler = iterations.sampler(cfg, run, last)  # -1: the base
        test = args.split == "test"
        reason = f"{what}: {sampler.name} of {run}"
        problems = problems_of.logged_test(cfg.task, run, reason) if test else cfg.task.problems(args.split)
        problems = problems_of.drawn(problems, args.most if test else cfg.dev, improve.DEV_SEED)
        ways = (False, True) if args.before else (cfg.ask_few_shot,)
        rows = [row for few_shot in ways for row in answers(cfg, sampler, problems, few_shot)]
        file = run / f"{what}_{args.split}.jsonl"
        old = len(frames.lines(file))
        records.check_replaced({"answers": old} if old else {}, {"answers": len(rows)}, str(file), args.replace)
        files.write_records(file, rows)
        print(f"{run}, {what}, {args.split}: {sum(row['correct'] for row in rows)} of {len(rows)} right")


if __name__ == "__main__":
    main()
