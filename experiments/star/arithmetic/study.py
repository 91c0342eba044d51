"""Run STaR's arithmetic with every arm, base and seed, and evaluate each on sums longer than those of training.

    python experiments/star/arithmetic/study.py [ARM ...] [--bases 0 1 2] [--seeds 0] [--out FOLDER] [--workers 2]

A base is a warm-up of its own: examples and training drawn with another seed. Bases are made first, each once, and
every arm starts from each of them with every seed of STaR. Finished runs are not repeated and interrupted ones resume,
so the command can be repeated. Each run is the command that is printed. The order is by seed, then base: after the
first one every arm has a result. `tables.py` makes the tables.

A folder holds warmup (base 0), warmup_B (the others) and ARM/base_B/SEED. Earlier versions had one base and ARM/SEED,
which is read as base 0.
"""

import dataclasses
import functools
import time
from collections.abc import Sequence
from pathlib import Path

from qstar import config as configs
from qstar import files
from qstar.cli import entry, flags
from qstar.config import ImproveConfig
from qstar.runs import answering, iterations, load, pool
from qstar.tasks import problem as problems

HERE = Path(__file__).resolve().parent
WARMUP = "experiments=star/arithmetic/warmup"
RECIPE = "experiments=star/arithmetic/star"
NOTHING_SAMPLED = ("improve.learn_hinted=0", "wrong_hints=0")
DIRECT = ("improve.target=direct", *NOTHING_SAMPLED)
FEW = ("task.train=400", "improve.iterations=5")
ARMS = {
    "star": (),
    "restart": ("improve.restart=true", "improve.growth=1.2"),
    "no_rationalization": ("improve.hint=never", "improve.learn_hinted=0"),
    "no_filter": ("improve.hint=never", "improve.learn_hinted=0", "improve.keep=all", "improve.iterations=4"),
    "hints_no_filter": ("improve.keep=all",),
    "direct": (*DIRECT, "improve.problems=0"),
    "human": ("improve.target=human", *NOTHING_SAMPLED, "improve.problems=0"),
    "few": FEW,
    "few_direct": (*DIRECT, *FEW),
}
"""Overrides of the recipe. `no_filter` trains on all that the model wrote without hints, `hints_no_filter` on
that and on all it wrote with them; `human` on the task's own scratchpads and `direct` on its answers alone, both of all
20,000 questions; the last two have 2,000 questions in all, where STaR draws as many again in each iteration."""
ABLE = 0.9  # of the dev sums of two digits, right before STaR begins
TRIES = 3  # trainings of a base, each with half as many steps more
TWO_DIGITS_FILE = "two_digits.json"
UNSEEN = (6, 7, 8, 9, 10)
LONGER = 100  # sums of each of these numbers of digits
UNSEEN_FILE = "unseen.json"


def base_folder(out: Path, base: int) -> Path:
    """The run of a warm-up. Base 0 has the name that the only base of earlier versions had."""
    return out / (f"warmup_{base}" if base else "warmup")


def run_folder(out: Path, arm: str, base: int, seed: int) -> Path:
    """Of one run; where an earlier version began it, the folder that version gave it."""
    before = out / arm / str(seed)
    return before if base == 0 and before.is_dir() else out / arm / f"base_{base}" / str(seed)


def runs_of(out: Path, arm: str) -> list[tuple[int, int, Path]]:
    """Base, seed and folder of the runs of an arm, in both layouts, by base and seed."""
    folders = [(0, folder) for folder in out.glob(f"{arm}/*") if folder.name.isdecimal()]
    folders += [(int(folder.parent.name.removeprefix("base_")), folder) for folder in out.glob(f"{arm}/base_*/*")]
    return sorted((base, int(folder.name), folder) for base, folder in folders)


def command(arm: str, base: int, seed: int, out: Path, more: tuple[str, ...] = ()) -> list[str]:
    """Of qstar-improve, for one run."""
    warm = f"model.source={base_folder(out, base)}"
    directory = run_folder(out, arm, base, seed)
    return [RECIPE, warm, "test=true", f"seed={seed}", f"run_dir={directory}", *ARMS[arm], *more]


def warm_up(out: Path, base: int, more: tuple[str, ...], examples: Sequence[str] = (), able: float = ABLE) -> None:
    """Train the base of the runs; its examples and its training have their own seed.

    A base that solves less than `able` of the sums of two digits is renamed, and training is repeated with 1.5 times
    as many steps. `examples` are arguments of warmup.py.
    """
    folder = base_folder(out, base)
    if (folder / "done").is_file():
        return
    data, log = out / folder.name.replace("warmup", "warmup_data"), out / f"{folder.name}.log"
    pool.call([str(HERE / "warmup.py"), str(data), "--seed", str(base + 1), *examples], log)
    files_of = [f"data.path={data / 'examples.jsonl'}", f"model.tokenizer={data / 'tokenizer.json'}"]
    steps = configs.composed("train", [WARMUP, *files_of, *more]).steps
    for attempt in range(TRIES):
        count = round(steps * 1.5**attempt)
        aside = folder.with_name(f"{folder.name}_of_{count}_steps")
        if aside.is_dir():
            continue
        begun = (folder / "config.yaml").is_file()
        start = [f"resume={folder}"] if begun else [WARMUP, *files_of, f"seed={base}", *more, f"steps={count}"]
        pool.call(["-m", "qstar.train", *start, f"run_dir={folder}"], log)
        pool.call([str(HERE / "study.py"), "--two-digits", str(folder)], log)
        share = files.read_json(folder / TWO_DIGITS_FILE)["share"]
        if share >= able:
            return (folder / "done").touch()
        print(f"base {base} has {share:.2f} of the sums of two digits after {count} steps, expected {able}", flush=True)
        folder.rename(aside)
    raise SystemExit(f"base {base} does not add two digits after {TRIES} trainings: see {log}")


def ask_two_digits(folder: Path) -> None:
    """Evaluate a base on the sums of two digits of the dev split."""
    entry.prepare_jax()
    cfg = configs.composed("improve", [RECIPE, f"model.source={folder}"])
    task = dataclasses.replace(cfg.task, digits=(2,))
    result = answering.evaluated(cfg, load.initial_model(cfg.model, 0), task.problems("dev"), "dev", 0)
    files.write_json(folder / TWO_DIGITS_FILE, result["accuracy"])


def work(run: tuple[str, int, int], out: Path, more: tuple[str, ...]) -> str:
    """Run and evaluate an arm with a base and a seed; returns a line with the result."""
    directory, started = run_folder(out, *run), time.monotonic()
    directory.mkdir(parents=True, exist_ok=True)
    if not (directory / "summary.md").is_file():
        pool.call(["-m", "qstar.improve", *command(*run, out, more)], directory / "log.txt")
    if not (directory / UNSEEN_FILE).is_file():
        pool.call([str(HERE / "study.py"), "--ask", str(directory)], directory / "log.txt")
    share = iterations.lines(directory)[-1]["test"]["accuracy"]["share"]
    arm, base, seed = run
    return f"{arm}, base {base}, seed {seed}: test {share:.3f} ({time.monotonic() - started:.0f} s)"


def ask(directory: Path) -> None:
    """Evaluate a run on sums of more digits than those of training, from the test split."""
    entry.prepare_jax()
    cfg = configs.load(directory / iterations.KIND.file, schema=ImproveConfig)
    task = dataclasses.replace(cfg.task, digits=UNSEEN, test=LONGER)
    cfg = dataclasses.replace(cfg, task=task, sample_batch=LONGER)
    sampler = iterations.sampler(cfg, directory, cfg.improve.iterations)
    result = answering.evaluated(cfg, sampler, problems.logged_test(task, directory, "unseen digits"), "test", 0)
    files.write_records(directory / UNSEEN_FILE, [result])


def main() -> None:
    parser = flags.parser(__doc__)
    parser.add_argument("arms", nargs="*", metavar="ARM", help=f"of {', '.join(ARMS)}; all by default")
    parser.add_argument("--bases", type=int, nargs="+", default=[0], help="warm-ups that every arm starts from")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of STaR, for each base")
    parser.add_argument("--out", type=Path, default=Path("runs/star_arithmetic"))
    parser.add_argument("--workers", type=int, default=2, help="runs at a time, each with its share of the processors")
    flags.overriding(parser, "--set", "overrides of the recipe of all arms")
    flags.overriding(parser, "--set-warmup", "overrides of the training of all bases")
    parser.add_argument("--hinted", type=float, help="share of warm-up examples after a hint")
    parser.add_argument("--able", type=float, default=ABLE, help="share of two-digit sums that a base has to add")
    parser.add_argument("--two-digits", type=Path, metavar="BASE", help="only evaluate this base on sums of two digits")
    parser.add_argument("--ask", type=Path, metavar="RUN", help="only evaluate this finished run on the longer sums")
    args = parser.parse_args()
    if args.ask:
        return ask(args.ask)
    if args.two_digits:
        return ask_two_digits(args.two_digits)
    unknown = set(args.arms) - set(ARMS)
    if unknown:
        parser.error(f"unknown arms {', '.join(sorted(unknown))}: choose of {', '.join(ARMS)}")
    args.out.mkdir(parents=True, exist_ok=True)
    examples = () if args.hinted is None else ("--hinted", str(args.hinted))
    for base in args.bases:
        warm_up(args.out, base, tuple(args.set_warmup), examples, args.able)
    todo = [(arm, base, seed) for seed in args.seeds for base in args.bases for arm in args.arms or ARMS]
    pool.carry_out(functools.partial(work, out=args.out, more=tuple(args.set)), todo, args.workers)


if __name__ == "__main__":
    main()
