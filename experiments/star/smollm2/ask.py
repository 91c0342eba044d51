"""Ask self-training runs the questions of a split, and keep who had what right, for paired comparisons.

    python experiments/star/smollm2/ask.py runs/star runs/ssd --split test
    python experiments/star/smollm2/ask.py runs/star --split test --before      # the base, with and without examples

Weights are those after the last iteration, the likeliest tokens are written, and answers go to RUN/asked_SPLIT.jsonl
(of the base: RUN/before_SPLIT.jsonl). Reading the test split is written down in the run's test_touches.jsonl.
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax
import numpy as np

from qstar import config as configs
from qstar import files, runs
from qstar.cli import entry, flags
from qstar.config import ImproveConfig
from qstar.evals import records
from qstar.models.origins import Pretrained
from qstar.policy import Policy
from qstar.reports import frames
from qstar.runs import answering, improve, iterations
from qstar.tasks import problem as problems_of
from qstar.tasks.problem import Problem


def questions(cfg: ImproveConfig, run: Path, split: str, most: int, reason: str) -> Sequence[Problem]:
    """So many of a split, drawn as a run draws those of dev that it asks; 0: all."""
    found = problems_of.logged_test(cfg.task, run, reason) if split == "test" else cfg.task.problems(split)
    order = np.random.default_rng(improve.DEV_SEED).permutation(len(found))
    return [found[i] for i in sorted(order[: most or None].tolist())]


def last(run: Path) -> str:
    """The newest training of a self-training run."""
    found = sorted(run.glob("iteration_*/config.yaml"), key=lambda file: int(file.parent.name.rpartition("_")[2]))
    if not found:
        raise FileNotFoundError(f"{run} has no iteration that trained")
    return str(found[-1].parent)


def answers(cfg: ImproveConfig, model: Policy, problems: Sequence[Problem], few_shot: bool) -> Iterator[dict]:
    """A row for every question."""
    sampler = Policy.of_language_model(
        model.lm, jax.device_put(model.language_model), model.tokenizer, model.name, model.companions
    )
    rng = np.random.default_rng(cfg.seed)
    for i in range(0, len(problems), cfg.sample_batch):
        batch = problems[i : i + cfg.sample_batch]
        shots = [cfg.task.shots(one, rng) if few_shot else () for one in batch]
        found = answering.answer(cfg, sampler, batch, shots, False, 1, jax.random.key(cfg.seed), greedy=True)
        for one, verdict, text in zip(batch, found.verdicts, found.written.text, strict=True):
            verdicts = {"correct": verdict.correct, "reason": verdict.reason}
            yield {"id": one.id, "group": one.group, "few_shot": few_shot, **verdicts, "written": text}


def main() -> None:
    parser = flags.parser(__doc__)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--split", choices=("dev", "test"), default="dev")
    parser.add_argument("--before", action="store_true", help="the base that the runs began with")
    parser.add_argument("--replace", action="store_true", help="replace answers that a run has already")
    parser.add_argument("--most", type=int, default=0, help="questions of test; 0: all (of dev: what the run asked)")
    args = parser.parse_args()
    with entry.errors():
        entry.prepare_jax()
        asked(args)


def asked(args: argparse.Namespace) -> None:
    for run in args.runs:
        cfg = configs.load(run / iterations.KIND.file, schema=ImproveConfig)
        source = cfg.model if args.before else Pretrained(last(run), dtype=cfg.model.dtype, remat=cfg.model.remat)
        what = "before" if args.before else "asked"
        model = runs.initial_model(source, cfg.seed)
        most = args.most if args.split == "test" else cfg.dev
        problems = questions(cfg, run, args.split, most, f"{what}: {model.name}")
        ways = (False, True) if args.before else (cfg.ask_few_shot,)
        rows = [row for few_shot in ways for row in answers(cfg, model, problems, few_shot)]
        file = run / f"{what}_{args.split}.jsonl"
        old = len(frames.lines(file))
        records.check_replaced({"answers": old} if old else {}, {"answers": len(rows)}, str(file), args.replace)
        files.write_records(file, rows)
        print(f"{run}, {what}, {args.split}: {sum(row['correct'] for row in rows)} of {len(rows)} right")


if __name__ == "__main__":
    main()
