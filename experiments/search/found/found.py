"""Training on what a search finds: solutions of training questions by several strategies, at equal tokens.

    python experiments/rl/study.py ladder --arms base --bases 0 1 2 --out runs/rl      # the bases
    python experiments/search/found/found.py --bases runs/rl/base_*/run --out runs/found
    python experiments/search/found/found.py --show experiments/search/found [--page FILE]

Every base searches the same training questions of cups by each strategy, steps are scored by a process reward model,
and the solutions with a right answer, each text of a question once, are what the base is fine-tuned on, for as many
steps by each strategy. `sampled` is the control: whole solutions, no scores. Learning rates are chosen on dev with the
first base.

Finished jobs are not repeated. OUT/results.jsonl gets a line for each base and strategy, and for each rate.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

from qstar import config as configs
from qstar import files
from qstar.cli import entry, flags
from qstar.evals import records
from qstar.reports import frames, tables
from qstar.reports.searches import Line
from qstar.runs import solve, train, trl_export

RESULTS = "results.jsonl"
TASK = ("task=cups", "task.min_moves=4", "task.max_moves=6", "task.seed=100")
DEV, TEST = 200, 500
RATES = ("1e-5", "3e-5", "1e-4", "3e-4")
ARMS = {
    "sampled": ("search=majority", "search.n=16"),
    "beam": ("search=beam", "search.n=16", "search.m=4"),
    "dvts": ("search=dvts", "search.n=16", "search.m=4"),
    "mcts": ("search=mcts", "search.n=64", "search.k=4", "search.evaluate=rollouts", "max_tokens=144"),
}


def searched(args: argparse.Namespace, arm: str, base: int) -> tuple[Path, Line]:
    """The search of a base, and what it cost."""
    folder = args.out / f"base_{base}" / arm / "search"
    return folder, _solved(
        args, args.bases[base], folder, *ARMS[arm], "split=train", f"task.train={args.questions}", f"seed={base}",
        f"scorer={args.scorer}", "aggregate=min", f"questions={args.questions}",
    )  # fmt: skip


def _solved(args: argparse.Namespace, model: Path | str, folder: Path, *overrides: str) -> Line:
    cfg = configs.composed("solve", [
        *TASK, f"task.dev={args.dev}", f"task.test={args.test}", f"model.source={model}", "sample_batch=25", *overrides,
        f"run_dir={folder}",
    ])  # fmt: skip
    return solve.run(cfg, folder)[-1]


def greedy(args: argparse.Namespace, model: Path | str, folder: Path, split: str) -> float:
    """The share of questions of a split that the likeliest answer of a model is right for."""
    return _solved(
        args, model, folder, "search=majority", "search.n=1", "temperature=0", f"split={split}", "questions=0"
    ).accuracy


def trained(args: argparse.Namespace, arm: str, base: int, rate: str) -> tuple[Path, dict[str, int]]:
    """The base, fine-tuned on what a search of it found, and how much that was."""
    search, _ = searched(args, arm, base)
    data, run = search.parent / "data", search.parent / f"lr_{rate}"
    counts = {name: len(frames.lines(data / f"{name}.jsonl")) for name in ("prompt_completion", "unpaired")}
    if not counts["prompt_completion"]:
        counts = trl_export.save(data, search)
    cfg = configs.composed("train", [
        "~experiments", "method=sft", "data=examples", f"data.path={data / 'prompt_completion.jsonl'}",
        "data.length=48", "model=pretrained", f"model.source={args.bases[base]}", "model.remat=none", "eval=none",
        f"seed={base}", f"steps={args.steps}", "batch_size=16", f"optim.lr={rate}", "optim.beta2=0.98",
        "optim.warmup_steps=5", f"save_every={args.steps}", "sample_every=0", f"run_dir={run}",
    ])  # fmt: skip
    train.run(cfg, run)
    return run, counts


def measured(args: argparse.Namespace, part: str, arm: str, base: int, rate: str) -> dict:
    """The line of a job: a rate on dev (`rate`), a base as it is, or what came out of a search on test (`arm`)."""
    folder = args.out / f"base_{base}" / arm
    line = {"part": part, "arm": arm, "base": base, "rate": rate}
    if arm == "base":
        return line | {"test": greedy(args, args.bases[base], folder / "test", "test")}
    run, counts = trained(args, arm, base, rate)
    if part == "rate":
        return line | {"dev": greedy(args, run, folder / f"dev_{rate}", "dev")}
    search, cost = searched(args, arm, base)
    found = {name: getattr(cost, name) for name in ("questions", "written", "scored", "flops")}
    right = frames.lines(search.parent / "data" / "prompt_completion.jsonl")
    found |= {"right": counts["prompt_completion"], "solved": len({one["prompt"] for one in right}) / cost.questions}
    return line | found | {"test": greedy(args, run, folder / "test", "test")}


def chosen(lines: Sequence[Mapping], arm: str) -> str:
    """The rate with the best accuracy on dev; the smaller one of equals."""
    tried = [line for line in lines if line["part"] == "rate" and line["arm"] == arm]
    return min(tried, key=lambda line: (-line["dev"], float(line["rate"])))["rate"]


def run(args: argparse.Namespace) -> None:
    """All jobs that have no line yet."""
    file = args.out / RESULTS
    files.make(args.out)

    def finish(part: str, arm: str, base: int, rate: str) -> None:
        if not any(
            (line["part"], line["arm"], line["base"], line["rate"]) == (part, arm, base, rate)
            for line in frames.lines(file)
        ):
            files.append(file, [measured(args, part, arm, base, rate)], durable=True)

    for arm in args.arms:
        for rate in args.rates:
            finish("rate", arm, 0, rate)
    for base in range(len(args.bases)):
        finish("arm", "base", base, "")
        for arm in args.arms:
            finish("arm", arm, base, chosen(frames.lines(file), arm))


# --- tables -------------------------------------------------------------------------------------------------------


def rates_table(lines: Sequence[Mapping]) -> str:
    tried = frames.by([line for line in lines if line["part"] == "rate"], "arm")
    rates = sorted({line["rate"] for group in tried.values() for line in group}, key=float)
    cells = {arm: {line["rate"]: f"{line['dev']:.3f}" for line in group} for arm, group in tried.items()}
    return tables.markdown(("arm", *rates), [(arm, *(of.get(rate, "") for rate in rates)) for arm, of in cells.items()])


def arms_table(lines: Sequence[Mapping]) -> str:
    arms = frames.by([line for line in lines if line["part"] == "arm"], "arm")
    head = ("arm", "bases", "rate", "tokens a question", "scored", "right solutions", "questions solved", "test",
            "over the base", "over sampled")  # fmt: skip
    rows = []
    for arm, group in arms.items():
        costs = [tables.mean(group, name, form=".0f") for name in ("written", "scored", "right")] + [
            tables.mean(group, "solved")
        ]
        gains = [
            tables.gain(group, "test", arms[other]) if other != arm and other in arms else ""
            for other in ("base", "sampled")
        ]
        rows.append(
            (
                arm,
                len(group),
                group[0]["rate"],
                *(costs if arm != "base" else [""] * 4),
                tables.mean(group, "test"),
                *gains,
            )
        )
    return tables.markdown(head, rows)


def main() -> None:
    parser = flags.parser(__doc__)
    parser.add_argument("--bases", nargs="+", metavar="MODEL", default=[], help="models that search and are trained")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--rates", nargs="+", default=list(RATES), help="learning rates")
    parser.add_argument("--scorer", default="bundled:cups_prm", help="scores steps")
    parser.add_argument("--questions", type=int, default=300, help="of training")
    parser.add_argument("--dev", type=int, default=DEV, help="questions that rates are chosen on")
    parser.add_argument("--test", type=int, default=TEST, help="questions of the test split")
    parser.add_argument("--steps", type=int, default=150, help="of fine-tuning, 16 rows each")
    parser.add_argument("--out", type=Path, default=Path("runs/found"))
    parser.add_argument("--show", type=Path, metavar="FOLDER", help="print the tables of these results and run nothing")
    parser.add_argument(
        "--page", type=Path, metavar="FILE", help="with --show: write the tables into this page as well"
    )
    args = parser.parse_args()
    if args.page and not args.show:
        parser.error("--page takes what --show FOLDER shows: give that as well")
    if not (args.bases or args.show):
        parser.error("--bases names no model: experiments/rl/study.py makes some, see above")
    with entry.errors():
        if not args.show:
            entry.prepare_jax()
            run(args)
        file = (args.show or args.out) / RESULTS
        lines = frames.lines(file)
        if not lines:
            raise FileNotFoundError(f"{file} has no line: expected the folder of a call with --out")
        shown = {"rates": rates_table(lines), "arms": arms_table(lines)}
        print(*shown.values(), sep="\n")
        if args.page:
            records.check_shown(args.page, file)
            tables.fill(args.page, shown)


if __name__ == "__main__":
    main()
