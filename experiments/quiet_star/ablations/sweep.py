"""Train every arm of every ablation with every seed, and ask what was trained.

    python experiments/quiet_star/ablations/sweep.py [NAME ...] [--seeds 0 1 2] [--out runs/ablations] [--workers 1]

Runs that are finished are not repeated and interrupted ones go on, so the command can be given again. Arms that are the
same run, in one ablation or in several, are trained once. A run is asked three ways on the same questions: without
thoughts, with its likeliest thoughts, with sampled ones; the answers lie in its directory in answers.jsonl. Then
`report.py` makes the tables. Seeds come in order: after the first one there is something to see of everything.
"""

import argparse
import contextlib
import dataclasses
import json
import multiprocessing
import os
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import ablation
import jax

from qstar import config as configs
from qstar import runs
from qstar.cli import session
from qstar.config import TrainConfig
from qstar.evals.suite import Evaluator, as_dict
from qstar.methods.protocol import Method
from qstar.runs import train as train_run
from qstar.training.loop import NonFiniteLoss

WAYS = {"none": "none", "greedy": "likeliest", "sampled": "sampled"}
"""Of asking, and as the tables call them."""


@dataclass(frozen=True)
class Job:
    """A run, and the configurations under which it is asked, by what they change."""

    directory: Path
    trained: TrainConfig
    asked: dict[str, TrainConfig]
    checkpoints: bool  # ask them all


def jobs(names: Sequence[str], seeds: Sequence[int], out: Path, extra: Sequence[str] = ()) -> list[Job]:
    """What is to be done for these ablations, each run once, in order of seeds."""
    found: dict[Path, Job] = {}
    read = [ablation.read(name) for name in names]
    for seed in seeds:
        for one in read:
            for arm in one.arms.values():
                run = ablation.run(one, arm, seed, out, extra)
                job = found.setdefault(run.directory, Job(run.directory, run.trained, {}, False))
                asked = {**job.asked, run.test: run.asked}
                found[run.directory] = dataclasses.replace(
                    job, asked=asked, checkpoints=job.checkpoints or one.checkpoints
                )
    return list(found.values())


def work(job: Job) -> str:
    """Train and ask, as far as that was not done; how it went, in a line."""
    directory, started = job.directory, time.monotonic()
    name = f"{directory.parent.name}, seed {directory.name}"
    try:
        train(directory, job.trained)
    except NonFiniteLoss as error:
        (directory / "diverged.txt").write_text(f"{error}\n", encoding="utf-8")
    if (directory / "diverged.txt").is_file():
        return f"{name}: diverged"
    answers = [ask(directory, test, cfg, job.checkpoints) for test, cfg in job.asked.items()]
    told = "  ".join(f"{row['way']} {row['accuracy']:.3f}" for row in answers[0][-len(WAYS) :])
    return f"{name}: {told}  ({time.monotonic() - started:.0f} s)"


def train(directory: Path, cfg: TrainConfig) -> None:
    """Train, or go on training, unless it is done. Raises ValueError where the directory holds another run."""
    if (directory / "done").is_file() or (directory / "diverged.txt").is_file():
        changes = configs.changes(configs.load(directory / "config.yaml"), cfg)
        if changes:
            raise ValueError(f"{directory} holds another run: {'; '.join(changes)}: choose another --out")
        return
    directory.mkdir(parents=True, exist_ok=True)
    with open(directory / "training.log", "a", encoding="utf-8") as log, contextlib.redirect_stdout(log):
        train_run.run(cfg, directory)
    (directory / "done").touch()


def ask(directory: Path, test: str, cfg: TrainConfig, checkpoints: bool) -> list[dict]:
    """The answers of a finished run to the questions of `cfg`, with its method; only what is new is asked."""
    file = directory / "answers.jsonl"
    known = [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []
    answers = []
    for step in steps(directory) if checkpoints else [cfg.steps]:
        found = [row for row in known if (row["step"], row["test"]) == (step, test)]
        if not found:
            found = [{"step": step, "test": test, **row} for row in answered(runs.load_run(directory, step), cfg)]
            with open(file, "a", encoding="utf-8") as stream:
                stream.write("".join(json.dumps(row) + "\n" for row in found))
        answers += found
    return answers


def steps(directory: Path) -> list[int]:
    """Of the checkpoints, in order."""
    return sorted(int(path.name) for path in (directory / "checkpoints").iterdir() if path.name.isdigit())


def answered(run: runs.Run, cfg: TrainConfig) -> list[dict]:
    """A run's answers to the questions of `cfg`, a row for every task and every way of asking."""
    questions = dataclasses.replace(cfg.eval, thoughts=tuple(WAYS))
    rows = _evaluator(questions, cfg.method, run)(jax.device_put(run.params), jax.random.key(cfg.seed))
    return [{**as_dict(row), "way": WAYS[row.way]} for row in rows]


_EVALUATORS: dict[tuple, Evaluator] = {}  # by what their compiled programs depend on: seeds share them


def _evaluator(questions, method: Method, run: runs.Run) -> Evaluator:
    key = (questions, method, run.lm)
    if key not in _EVALUATORS:
        _EVALUATORS[key] = Evaluator(questions, method, runs.definition_for(run, method), run.tokenizer)
    return _EVALUATORS[key]


# --- many runs ----------------------------------------------------------------------------------------------------


def carry_out(todo: Sequence[Job], workers: int) -> None:
    """Every job, in this process or in several, each with its share of the processors."""
    if workers == 1:
        session.prepare_jax()
        for number, job in enumerate(todo, start=1):
            print(f"[{number}/{len(todo)}] {work(job)}", flush=True)
        return
    context = multiprocessing.get_context("spawn")
    shares = context.Queue()
    for first in range(workers):
        shares.put(sorted(os.sched_getaffinity(0))[first::workers])
    with ProcessPoolExecutor(workers, context, _begin, (shares,)) as pool:
        for number, done in enumerate(as_completed([pool.submit(work, job) for job in todo]), start=1):
            print(f"[{number}/{len(todo)}] {done.result()}", flush=True)


def _begin(shares: multiprocessing.Queue) -> None:
    # Before JAX counts the processors: two workers with two threads each on two of them take longer than one.
    os.sched_setaffinity(0, shares.get())
    session.prepare_jax()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(ablation.shipped())}; or a .yaml file")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("runs/ablations"))
    parser.add_argument("--workers", type=int, default=1, help="processes, at most one a processor; 1 on accelerators")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="overrides of the recipe of all arms")
    args = parser.parse_args()
    with session.errors():
        carry_out(jobs(args.names or ablation.shipped(), args.seeds, args.out, args.set), args.workers)


if __name__ == "__main__":
    main()
