"""Run STaR's arithmetic with every arm and seed, and ask each result sums that are longer than any it has seen.

    python experiments/star/arithmetic/study.py [ARM ...] [--seeds 0 1 2] [--out runs/star_arithmetic] [--workers 2]

The warm-up is made first, once for all. Runs that are finished are not repeated and interrupted ones go on, so the
command can be given again. Each run is the command that is printed. Seeds come in order: after the first one there is
something to see of every arm. `report.py` makes the tables.
"""

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from queue import Queue

from qstar import answering, entry, iterations
from qstar import config as configs
from qstar.config import ImproveConfig
from qstar.tasks import problem as problems

HERE = Path(__file__).resolve().parent
WARMUP = "experiments=star/arithmetic/warmup"
RECIPE = "experiments=star/arithmetic/star"
DIRECT = ("improve.target=direct", "improve.learn_hinted=0", "wrong_hints=0")
FEW = ("task.train=400", "improve.iterations=5")
ARMS = {
    "star": (),
    "restart": ("improve.restart=true", "improve.growth=1.2"),
    "no_rationalization": ("improve.hint=never", "improve.learn_hinted=0"),
    "no_filter": ("improve.hint=never", "improve.learn_hinted=0", "improve.keep=all", "improve.iterations=4"),
    "direct": (*DIRECT, "improve.problems=0"),
    "few": FEW,
    "few_direct": (*DIRECT, *FEW),
}
"""What each changes in the recipe. `no_filter` learns all that it wrote, `direct` the gold answers alone; the last two
have 2,000 questions in all, where STaR draws as many anew in each iteration and `direct` has 20,000."""
UNSEEN = (6, 7, 8, 9, 10)
LONGER = 100  # sums of each of these numbers of digits
UNSEEN_FILE = "unseen.json"


def command(arm: str, seed: int, out: Path, more: tuple[str, ...] = ()) -> list[str]:
    """Of qstar-improve, for one run."""
    warm = f"model.source={out / 'warmup'}"
    return [RECIPE, warm, "test=true", f"seed={seed}", f"run_dir={out / arm / str(seed)}", *ARMS[arm], *more]


def warm_up(out: Path) -> None:
    """The model that all runs begin with."""
    if (out / "warmup" / "done").is_file():
        return
    data = out / "warmup_data"
    _call([str(HERE / "warmup.py"), str(data)], out / "warmup.log")
    files = [f"data.path={data / 'examples.jsonl'}", f"model.tokenizer={data / 'tokenizer.json'}"]
    resume = [f"resume={out / 'warmup'}"] if (out / "warmup" / "config.yaml").is_file() else [WARMUP, *files]
    _call(["-m", "qstar.train", *resume, f"run_dir={out / 'warmup'}"], out / "warmup.log")
    (out / "warmup" / "done").touch()


def _call(arguments: list[str], log: Path, cores: list[int] | None = None) -> None:
    """Run python with these arguments on these processors, its output in a file. Raises CalledProcessError."""
    print("python " + " ".join(arguments), flush=True)
    pinned = (lambda: os.sched_setaffinity(0, cores)) if cores else None
    with log.open("a", encoding="utf-8") as stream:
        subprocess.run([sys.executable, *arguments], stdout=stream, stderr=stream, check=True, preexec_fn=pinned)


def work(arm: str, seed: int, out: Path, more: tuple[str, ...], shares: Queue) -> str:
    """One run and what is asked after it; how it went, in a line."""
    directory, cores, started = out / arm / str(seed), shares.get(), time.monotonic()
    try:
        directory.mkdir(parents=True, exist_ok=True)
        if not (directory / "summary.md").is_file():
            _call(["-m", "qstar.improve", *command(arm, seed, out, more)], directory / "log.txt", cores)
        if not (directory / UNSEEN_FILE).is_file():
            _call([str(HERE / "study.py"), "--ask", str(directory)], directory / "log.txt", cores)
    finally:
        shares.put(cores)
    last = iterations.lines(directory)[-1]
    return f"{arm}, seed {seed}: test {last['test']['accuracy']['share']:.3f} ({time.monotonic() - started:.0f} s)"


def ask(directory: Path) -> None:
    """Sums of more digits than a run has learnt, from the test split."""
    entry.prepare_jax()
    cfg = configs.load(directory / iterations.CONFIG, schema=ImproveConfig)
    task = dataclasses.replace(cfg.task, digits=UNSEEN, test=LONGER)
    cfg = dataclasses.replace(cfg, task=task, sample_batch=LONGER)
    sampler = iterations.sampler(cfg, directory, cfg.improve.iterations)
    found = answering.evaluated(cfg, sampler, problems.logged_test(task, directory, "unseen digits"), "test", 0)
    (directory / UNSEEN_FILE).write_text(json.dumps(found) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("arms", nargs="*", metavar="ARM", help=f"of {', '.join(ARMS)}; all by default")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("runs/star_arithmetic"))
    parser.add_argument("--workers", type=int, default=2, help="runs at a time, each with its share of the processors")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="overrides of the recipe of all arms")
    parser.add_argument("--ask", type=Path, metavar="RUN", help="only ask this finished run the longer sums")
    args = parser.parse_args()
    if args.ask:
        return ask(args.ask)
    unknown = set(args.arms) - set(ARMS)
    if unknown:
        parser.error(f"unknown arms {', '.join(sorted(unknown))}: choose of {', '.join(ARMS)}")
    args.out.mkdir(parents=True, exist_ok=True)
    warm_up(args.out)
    shares: Queue = Queue()
    for first in range(args.workers):
        shares.put(sorted(os.sched_getaffinity(0))[first :: args.workers])
    with ThreadPoolExecutor(args.workers) as pool:
        todo = [
            pool.submit(work, arm, seed, args.out, tuple(args.set), shares)
            for seed in args.seeds
            for arm in (args.arms or ARMS)
        ]
        for number, done in enumerate(as_completed(todo), start=1):
            print(f"[{number}/{len(todo)}] {done.result()}", flush=True)


if __name__ == "__main__":
    main()
