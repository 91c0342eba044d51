"""Training or test-time compute: three sizes of a model of sums, at equal FLOPs of training and of answering.

    python experiments/search/contour/contour.py --out runs/contour
    python experiments/search/contour/contour.py --show experiments/search/contour [--figure FILE] [--page FILE]

Models of three sizes are trained from scratch on the same scratchpads. A smaller one may then answer with more samples:
where Q questions are answered, n samples of it cost in all what one greedy answer of a larger one costs when

    T_small + Q n F_small = T_large + Q F_large

with T the FLOPs of training and F those of an answer, both as counted. Q is given as R, the tokens that the larger
model writes over those it was trained on. For F = 2 N and T = 6 N a token this is the multiplier M + 3 (M - 1) / R of
Snell et al. (2024, section 7). Difficulty is the number of digits. The smaller model's n samples vote; its control is
one greedy answer, and its ceiling that any of them is right.

Finished jobs are not repeated. OUT/results.jsonl gets a line for each size and seed.
"""

import argparse
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np

from qstar import config as configs
from qstar import files
from qstar.cli import entry, flags
from qstar.data import examples
from qstar.data import tokenizer as tokenizers
from qstar.data.rationales import Store
from qstar.evals import at_k, records
from qstar.models import cost
from qstar.reports import figures, frames, tables
from qstar.runs import load, solve, stored, train
from qstar.tasks.arithmetic import ALPHABET, WORDS, Arithmetic

RESULTS = "results.jsonl"
BATCH = 32


@dataclass(frozen=True)
class Size:
    """Width and layers; heads of 16, a feed-forward layer of three widths, and the learning rate that goes with it."""

    width: int
    layers: int
    lr: float

    def overrides(self) -> list[str]:
        heads = self.width // 16
        return [
            f"model.width={self.width}", f"model.layers={self.layers}", f"model.heads={heads}",
            f"model.kv_heads={heads}", "model.head_size=16", f"model.ff={3 * self.width}",
            f"optim.lr={self.lr}",
        ]  # fmt: skip


SIZES = {"small": Size(32, 2, 8e-3), "medium": Size(64, 2, 4e-3), "large": Size(96, 3, 3e-3)}
PAIRS = (("small", "medium"), ("medium", "large"), ("small", "large"))
RATIOS = (0.16, 0.79, 22.0)  # of Snell et al.
GRID = tuple(float(ratio) for ratio in np.geomspace(0.05, 100, 34))


# --- one size, one seed -------------------------------------------------------------------------------------------


def trained(args: argparse.Namespace, name: str, seed: int) -> Path:
    """A model from scratch on the scratchpads that all sizes of a seed are trained on."""
    data, run = args.out / f"data_{seed}", args.out / name / f"seed_{seed}"
    if not (data / "examples.jsonl").is_file():
        files.make(data)
        (data / "tokenizer.json").write_text(tokenizers.characters(ALPHABET, WORDS).to_json(), encoding="utf-8")
        rows = []
        for digits in args.digits:
            task = Arithmetic(digits=(digits,), train=args.examples, seed=seed)
            rows += [
                {"prompt": task.prompt(problem), "completion": task.completion(problem.rationale, problem)}
                for problem in task.problems("train")
            ]
        examples.write(data / "examples.jsonl", rows)
    if stored.saved_steps(run) != [args.steps]:
        cfg = configs.composed("train", [
            "experiments=star/arithmetic/warmup", *SIZES[name].overrides(), f"data.path={data / 'examples.jsonl'}",
            f"model.tokenizer={data / 'tokenizer.json'}", f"data.length={args.length}", f"batch_size={BATCH}",
            f"steps={args.steps}", f"save_every={args.steps}", f"optim.warmup_steps={min(50, args.steps // 2)}",
            f"seed={seed}", f"run_dir={run}",
        ])  # fmt: skip
        train.run(cfg, run)
    return run


def answered(args: argparse.Namespace, run: Path, kind: str, *overrides: str) -> tuple[list[dict], float, float]:
    """Rows of all candidates, FLOPs and written tokens of one."""
    folder = run / kind
    if not solve.KIND.is_at(folder) or not (folder / "evals.jsonl").is_file():
        cfg = configs.composed("solve", [
            "task=arithmetic", f"task.digits={list(args.digits)}", f"task.test={args.questions}", "split=test",
            "questions=0", f"model.source={run}", "search=majority", f"sample_batch={args.batch}", *overrides,
            f"run_dir={folder}",
        ])  # fmt: skip
        solve.run(cfg, folder)
    rows = Store.open(folder / "candidates").rows(columns=["problem", "group", "answer", "correct", "tokens", "place"])
    candidates = [row for row in rows.to_pylist() if row["place"]["final"]]
    spent = sum(row["place"]["flops"] for row in rows.to_pylist())
    return candidates, spent / len(candidates), sum(len(row["tokens"]) for row in candidates) / len(candidates)


def measured(args: argparse.Namespace, name: str, seed: int) -> dict:
    """Accuracy by digits of one greedy answer, and of votes of n samples with their ceiling."""
    run = trained(args, name, seed)
    greedy, greedy_flops, written = answered(args, run, "greedy", "search.n=1", "temperature=0")
    sampled, sample_flops, _ = answered(args, run, "sampled", f"search.n={args.samples}", f"seed={seed}")
    loaded = load.load_run(run)
    step = BATCH * cost.flops(loaded.lm, loaded.method.passes(args.length))
    line = {
        "size": name, "seed": seed, "parameters": sum(leaf.size for leaf in jax.tree.leaves(loaded.params)),
        "train_flops": step * args.steps, "train_tokens": args.length * BATCH * args.steps,
        "answer_flops": greedy_flops, "answer_tokens": written, "sample_flops": sample_flops, "samples": args.samples,
        "questions": {}, "greedy": {}, "votes": {}, "any": {},
    }  # fmt: skip
    for digits in map(str, args.digits):
        right = [row["correct"] for row in greedy if row["group"] == digits]
        line["questions"][digits], line["greedy"][digits] = len(right), float(np.mean(right))
        by_problem: dict[str, list[dict]] = {}
        for row in sampled:
            if row["group"] == digits:
                by_problem.setdefault(row["problem"], []).append(row)
        counts = sizes(args.samples)
        line["votes"][digits] = [float(np.mean([votes(rows, n) for rows in by_problem.values()])) for n in counts]
        rights = [[row["correct"] for row in rows] for rows in by_problem.values()]
        line["any"][digits] = [float(np.mean([at_k.pass_at(right, n) for right in rights])) for n in counts]
    return line


def sizes(samples: int) -> list[int]:
    """1, 2, 3, 4, 6, 8, 12, ...: so many samples, up to all."""
    return sorted({n for power in range(12) for n in (2**power, 3 * 2 ** max(power - 1, 0)) if n <= samples})


def votes(rows: Sequence[Mapping], n: int) -> float:
    """How often the answer that most of n samples have is right, over disjoint groups of n; the first of equal ones."""
    right = {row["answer"]: row["correct"] for row in rows}
    groups = [rows[start : start + n] for start in range(0, len(rows) - n + 1, n)]
    tallies = [Counter(row["answer"] for row in group if row["answer"] != "") for group in groups]
    return sum(right[tally.most_common(1)[0][0]] for tally in tallies if tally) / len(groups)


# --- equal FLOPs --------------------------------------------------------------------------------------------------


def affordable(small: Mapping, large: Mapping, ratio: float) -> float:
    """Samples of the small model that cost in all what one greedy answer of the large one does. `ratio` is R."""
    questions = ratio * large["train_tokens"] / large["answer_tokens"]
    saved = (large["train_flops"] - small["train_flops"]) / questions
    return (large["answer_flops"] + saved) / small["sample_flops"]


def at(line: Mapping, what: str, digits: str, n: float) -> float:
    """Accuracy with the largest number of samples that was measured and is affordable."""
    counts = sizes(line["samples"])
    return line[what][digits][max(number for number, count in enumerate(counts) if count <= max(n, 1))]


def named(few: str, many: str) -> str:
    return f"{few} against {many}"


def compared(lines: Sequence[Mapping], ratio: float) -> Iterator[dict]:
    """The small model's votes, greedy answer and ceiling against the large model's greedy answer, seed by seed."""
    by = {(line["size"], line["seed"]): line for line in lines}
    seeds = sorted({seed for _, seed in by})
    for few, many in PAIRS:
        for seed in seeds:
            if (few, seed) in by and (many, seed) in by:
                small, large = by[few, seed], by[many, seed]
                n = affordable(small, large, ratio)
                for digits in small["greedy"]:
                    yield {
                        "pair": named(few, many), "ratio": ratio, "seed": seed, "digits": digits, "n": n,
                        "questions": small["questions"][digits],
                        "large": large["greedy"][digits], "greedy": small["greedy"][digits],
                        "votes": at(small, "votes", digits, n), "any": at(small, "any", digits, n),
                    }  # fmt: skip


# --- tables and figures -------------------------------------------------------------------------------------------


def models_table(lines: Sequence[Mapping]) -> str:
    digits = list(lines[0]["greedy"])
    head = ("size", "parameters", "FLOPs of training", "of a greedy answer", *(f"greedy, {n} digits" for n in digits))
    rows = [
        (name, f"{group[0]['parameters']:,}", tables.flops(group[0]["train_flops"]),
         tables.flops(np.mean([line["answer_flops"] for line in group])),
         *(tables.mean([{**line, "of": line["greedy"][n]} for line in group], "of", questions=group[0]["questions"][n])
           for n in digits))
        for name, group in frames.by(lines, "size").items()
    ]  # fmt: skip
    return tables.markdown(head, rows)


def equal_table(lines: Sequence[Mapping]) -> str:
    head = ("models", "R", "samples", "digits", "large, greedy", "small, greedy", "small, votes", "votes less large",
            "votes less its greedy", "any right (ceiling)")  # fmt: skip
    rows = []
    for ratio in RATIOS:
        for (pair, digits), group in frames.by(compared(lines, ratio), "pair", "digits").items():
            most = max(line["samples"] for line in lines)
            n = np.mean([line["n"] for line in group])
            rows.append((
                pair, f"{ratio:g}", f"{n:.1f}" if n <= most else f"{most} (of {n:.0f})", digits,
                *(tables.mean(group, name, questions=group[0]["questions"]) for name in ("large", "greedy", "votes")),
                tables.gain(group, "votes", group, "large"), tables.gain(group, "votes", group, "greedy"),
                tables.mean(group, "any", questions=group[0]["questions"]),
            ))  # fmt: skip
    order = [named(*pair) for pair in PAIRS]
    return tables.markdown(head, sorted(rows, key=lambda row: order.index(row[0])))


def draw(lines: Sequence[Mapping], file: Path) -> None:
    """Accuracy of the small model's votes less the large model's greedy answer, over R and the number of digits."""
    cases = [frames.by(compared(lines, ratio), "pair", "digits") for ratio in GRID]
    pairs, digits = list(dict.fromkeys(pair for pair, _ in cases[0])), list(lines[0]["greedy"])
    figure, axes = figures.grid(len(pairs), len(pairs), 3.6, 2.9, shared=True)
    for axis, pair in zip(axes, pairs, strict=True):
        gains = [[np.mean([case["votes"] - case["large"] for case in at[pair, n]]) for at in cases] for n in digits]
        shown = axis.contourf(GRID, range(len(digits)), gains, levels=np.linspace(-1, 1, 21), cmap="RdBu")
        axis.contour(GRID, range(len(digits)), gains, levels=[0], colors="black", linewidths=1)
        axis.set_xscale("log")
        axis.set_title(pair, fontsize=9)
        axis.set_xlabel("R: tokens answered / trained on", fontsize=8)
        axis.set_yticks(range(len(digits)), digits)
        for ratio in RATIOS:
            figures.level(axis, ratio, upright=True)
    axes[0].set_ylabel("digits", fontsize=8)
    bar = figure.colorbar(shown, ax=axes, ticks=[-1, -0.5, 0, 0.5, 1])
    bar.set_label("votes less greedy", fontsize=8)
    figures.save(figure, file)


def main() -> None:
    parser = flags.parser(__doc__)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--digits", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--examples", type=int, default=4000, help="scratchpads of each number of digits")
    parser.add_argument("--questions", type=int, default=60, help="of the test split, of each number of digits")
    parser.add_argument("--steps", type=int, default=1000, help=f"of training, {BATCH} rows each")
    parser.add_argument("--samples", type=int, default=96, help="of each question")
    parser.add_argument("--length", type=int, default=96, help="tokens of a row of training")
    parser.add_argument("--batch", type=int, default=60, help="questions at a time")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("runs/contour"))
    parser.add_argument("--show", type=Path, metavar="FOLDER", help="print the tables of these results and run nothing")
    parser.add_argument("--figure", type=Path, metavar="FILE", help="with --show: draw the contour as well")
    parser.add_argument(
        "--page", type=Path, metavar="FILE", help="with --show: write the tables into this page as well"
    )
    args = parser.parse_args()
    if (args.figure or args.page) and not args.show:
        parser.error("--figure and --page take what --show FOLDER shows: give that as well")
    with entry.errors():
        out = args.show or args.out
        if not args.show:
            entry.prepare_jax()
            files.make(args.out)
            done = {(line["size"], line["seed"]) for line in frames.lines(args.out / RESULTS)}
            for seed in args.seeds:
                for name in args.sizes:
                    if (name, seed) not in done:
                        files.append(args.out / RESULTS, [measured(args, name, seed)], durable=True)
        lines = frames.lines(out / RESULTS)
        if not lines:
            raise FileNotFoundError(f"{out / RESULTS} has no line: expected the folder of a call with --out")
        shown = {"models": models_table(lines), "equal": equal_table(lines)}
        print(*shown.values(), sep="\n")
        if args.page:
            records.check_shown(args.page, out / RESULTS)
            tables.fill(args.page, shown)
        if args.figure:
            draw(lines, args.figure)


if __name__ == "__main__":
    main()
