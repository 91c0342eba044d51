"""What accuracy every strategy buys with every scorer: one table, and a figure of accuracy against FLOPs.

    python experiments/search/frontier/frontier.py --out runs/frontier prm=bundled:cups_prm orm=runs/orm logprob oracle
    python experiments/search/frontier/frontier.py --show experiments/search/frontier/cups.jsonl

Strategies over whole solutions choose among the same samples, so one search of 64 solutions gives all of them, at every
smaller size; strategies over steps have a search for each size. Tokens and FLOPs include sampling and scoring.
Finished searches are not repeated. Every cell is a line of results.jsonl, with the questions that it has right.

A strategy is compared with best-of-N by weighted votes of the same scorer (against majority where it has none) with the
largest N that costs no more FLOPs, and with one greedy answer, on the questions that both were asked: the mean over
seeds of each question, and a test of the differences by sign flips.
"""

import dataclasses
import functools
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from qstar import config as configs
from qstar import files
from qstar.cli import entry, flags
from qstar.config import SolveConfig
from qstar.evals import records as kept
from qstar.evals.intervals import bootstrap
from qstar.evals.paired import sign_flips
from qstar.policy import Policy
from qstar.reports import figures, frames, tables
from qstar.runs import load, replay, solve
from qstar.runs.pool import carry_out
from qstar.search.best_of_n import BestOfN
from qstar.search.confidence import Confidence
from qstar.search.majority import Majority
from qstar.search.strategy import Strategy

SIZES = (1, 2, 4, 8, 16, 32, 64)
SHOWN = (1, 4, 16, 64)  # in the table, with the largest of a strategy
ALONE = {  # without a scorer
    "majority": Majority,
    "confidence, mean": Confidence,
    "confidence, worst window": functools.partial(Confidence, measure="lowest", window=8),
}
GUIDED = {
    "weighted votes": BestOfN,
    "highest score": functools.partial(BestOfN, select="max"),
    "vote of the best 3": functools.partial(BestOfN, select="vote"),
}
STEPWISE = {
    "beam": ["search=beam"],
    "DVTS": ["search=dvts"],
    "lookahead": ["search=lookahead"],
    "particles": ["search=particles"],
    "MCTS": ["search=mcts"],
}
WHOLE, COT, GREEDY, ADAPTIVE = "whole", "CoT-decoding", "greedy", "adaptive majority"
OWN = {  # searches of their own, without a scorer
    WHOLE: ["search=best_of_n"],
    COT: ["search=cot_decoding"],
    GREEDY: ["search=cot_decoding"],  # of one first token
    ADAPTIVE: ["search=majority", "search.stop=0.95"],
}
REFERENCE, WITHOUT = "weighted votes", "majority"
GUIDE = "prm"  # scorer of the largest searches
AGGREGATE = {GUIDE: "min"}  # steps of a solution to its score; else the last


def overrides(args, strategy: str, scorer: str, size: int, seed: int) -> list[str]:
    """Of qstar-solve."""
    known = dict(_named(text) for text in args.scorers)
    stepwise = strategy in STEPWISE
    count = args.stepwise if stepwise else args.questions
    search = [*_common(args, count, seed), *(OWN | STEPWISE)[strategy]]
    if strategy in (COT, GREEDY, ADAPTIVE):
        return [*search, f"search.{'n' if strategy == ADAPTIVE else 'k'}={size}"]
    m = [f"search.m={min(4, max(2, size // 2))}"] if strategy in ("beam", "DVTS", "lookahead") else []
    every = [known[scorer]] if stepwise or scorer not in replay.NO_MODEL else replay.NO_MODEL
    more = [f"scorer=[{','.join(every)}]", f"aggregate={AGGREGATE.get(scorer, 'last')}"]
    return [*search, f"search.n={size}", *m, *more]


def _common(args, count: int, seed: int) -> list[str]:
    sizes = [f"questions={count}", f"seed={seed}", f"sample_batch={args.batch}"]
    if isinstance(getattr(configs.SCHEMAS["task"].get(args.task), "dev", None), int):  # it makes as many as are asked
        sizes.append(f"task.dev={args.questions}")
    return [f"task={args.task}", f"model.source={args.model}", *sizes, *args.set]


def _named(text: str) -> tuple[str, str]:
    name, _, source = text.partition("=")
    return name, source or name


def jobs(args) -> Iterator[tuple[str, str, int, int]]:
    """Strategy, scorer, size and seed of every search, the cheap ones first."""
    names = [name for name, _ in map(_named, args.scorers)]
    models = [name for name in names if name not in replay.NO_MODEL]
    for seed in args.seeds:
        for name in [*models, replay.LOGPROB]:
            yield WHOLE, name, args.samples, seed
        yield ADAPTIVE, "", args.samples, seed
    yield GREEDY, "", 1, 0
    yield COT, "", args.cot, 0
    for size in args.sizes:
        for seed in args.seeds:
            for name in names:
                if size < args.largest or name in (GUIDE, replay.ORACLE):
                    for strategy in args.strategies:
                        yield strategy, name, size, seed


def folder(out: Path, job: tuple[str, str, int, int]) -> Path:
    strategy, scorer, size, seed = job
    return out / f"{strategy} {scorer} {size}".replace(" ", "_") / str(seed)


def searched(job: tuple[str, str, int, int], args, base: Policy) -> str:
    directory = folder(args.out, job)
    if not (directory / "summary.md").is_file():
        solve.run(configs.composed("solve", overrides(args, *job)), directory, base)
    records = list(cells(directory, *job))
    files.write_records(directory / "cells.jsonl", records)
    return f"{job}: " + ", ".join(f"{record['accuracy']:.3f}" for record in records[-3:])


def cells(directory: Path, strategy: str, scorer: str, size: int, seed: int) -> Iterator[dict]:
    """The results of every strategy and size that can be computed from the samples of a finished search."""
    cfg = configs.load(directory / solve.KIND.file, schema=SolveConfig)
    cell = functools.partial(_cell, *solve.stored(directory))
    if strategy != WHOLE:
        return (yield cell(cfg, cfg.search, strategy, scorer, size, seed))
    guided = replay.NO_MODEL if scorer in replay.NO_MODEL else (scorer,)
    for count in (count for count in SIZES if count <= size):
        for name, source in zip(guided, cfg.scorer, strict=True):
            only = dataclasses.replace(cfg, scorer=(source,))
            for strategy, make in GUIDED.items():
                yield cell(only, make().resized(count), strategy, name, count, seed)
        if scorer in replay.NO_MODEL:
            for strategy, make in ALONE.items():
                yield cell(dataclasses.replace(cfg, scorer=()), make().resized(count), strategy, "", count, seed)


def _cell(
    stored: replay.Stored, most: Mapping[int, int], cfg: SolveConfig, search: Strategy, name: str, scorer: str,
    size: int, seed: int,
) -> dict:  # fmt: skip
    right, total = {}, np.zeros(4)
    for tree, solution in replay.solutions(cfg, search, stored, most, 0):
        right[tree.rows[0]["problem"]] = bool(tree.rows[solution.chosen.state]["correct"])
        total += replay.spent(tree, solution)
    candidates, written, scored, flops = (total / len(right)).tolist()
    by_verdict = {
        verdict: [problem.partition("-")[2] for problem in right if right[problem] == verdict]
        for verdict in (True, False)
    }
    return {
        "strategy": name, "scorer": scorer, "n": size, "seed": seed, "questions": len(right),
        "accuracy": sum(right.values()) / len(right), "candidates": candidates, "written": written, "scored": scored,
        "flops": flops, "right": " ".join(by_verdict[True]), "wrong": " ".join(by_verdict[False]),
    }  # fmt: skip


# --- the table ----------------------------------------------------------------------------------------------------

Cells = Mapping[tuple[str, str, int], Sequence[dict]]
"""The records of every seed, by strategy, scorer and size."""


def grouped(records: Sequence[dict]) -> Cells:
    ordered = sorted(records, key=lambda record: (record["scorer"], record["strategy"], record["n"]))
    return frames.grouped(ordered, lambda record: (record["strategy"], record["scorer"], record["n"]))


def mean(group: Sequence[dict], name: str) -> float:
    return float(np.mean([record[name] for record in group]))


def reference(known: Cells, key: tuple[str, str, int], same_n: bool = False) -> tuple[str, str, int] | None:
    """The same scorer's votes with the largest size that costs no more, or with the same; None for these themselves."""
    strategy, scorer, size = key
    other = REFERENCE if scorer else WITHOUT
    if strategy == other:
        return None
    if same_n:
        return (other, scorer, size) if (other, scorer, size) in known else None
    most = mean(known[key], "flops") * (1 + 1e-9)
    sizes = [size for size in SIZES if (at := (other, scorer, size)) in known and mean(known[at], "flops") <= most]
    return (other, scorer, max(sizes)) if sizes else None


def paired(group: Sequence[dict], other: Sequence[dict]) -> str:
    """Difference in accuracy on the questions that both were asked, with its interval and p."""
    a, b = _by_question(group), _by_question(other)
    gain = np.array([a[problem] - b[problem] for problem in sorted(set(a) & set(b))])
    low, high = bootstrap(gain, seed=0)
    return f"{gain.mean():+.3f} [{low:+.3f}, {high:+.3f}], p {sign_flips(gain, seed=0):.2g}"


def _by_question(group: Sequence[dict]) -> dict[str, float]:
    """The share of seeds that have it right."""
    values = defaultdict(list)
    for record in group:
        for mark, problems in ((1.0, record["right"]), (0.0, record["wrong"])):
            for problem in problems.split():
                values[problem].append(mark)
    return {problem: float(np.mean(marks)) for problem, marks in values.items()}


def table(known: Cells, same_n: bool = False) -> str:
    names = ("scorer", "strategy", "n", "accuracy", "seeds x questions", "tokens written", "tokens scored", "MFLOPs")
    rows, largest = [], {key[:2]: key[2] for key in sorted(known, key=lambda key: key[2])}
    for (strategy, scorer, size), group in known.items():
        if size not in (*SHOWN, largest[strategy, scorer]) or (scorer and size == 1):  # one solution needs no scorer
            continue
        accuracy = tables.mean(group, "accuracy", questions=group[0]["questions"])
        costs = (f"{mean(group, 'written'):.0f}", f"{mean(group, 'scored'):.0f}", f"{mean(group, 'flops') / 1e6:.0f}")
        at = reference(known, (strategy, scorer, size), same_n)
        against = f"{at[0]} of {at[2]}: {paired(group, known[at])}" if at else ""
        greedy = known.get((GREEDY, "", 1))
        gain = paired(group, greedy) if greedy and strategy != GREEDY else ""
        counts = f"{len(group)} x {group[0]['questions']}"
        rows.append((scorer or "none", strategy, size, accuracy, counts, *costs, gain, against))
    against = "against, with as many candidates" if same_n else "against, with no more FLOPs"
    return tables.markdown((*names, "against greedy", against), rows)


def draw(known: Cells, file: Path) -> None:
    """Accuracy against FLOPs, a panel for every scorer, with what needs no scorer in grey."""
    scorers = sorted({scorer for _, scorer, _ in known if scorer})
    strategies = [*GUIDED, *STEPWISE]
    figure, panels = figures.grid(len(scorers), 2, 4.6, 3.0, shared=True)
    costs = [mean(group, "flops") / 1e6 for group in known.values()]
    for axes, scorer in zip(panels, scorers, strict=False):
        for name in sorted({strategy for strategy, own, _ in known if not own}):
            _line(axes, known, name, "", figures.GREY, ":" if name == WITHOUT else (0, (1, 4)))
        for name, colour in zip(strategies, figures.COLOURS, strict=False):
            _line(axes, known, name, scorer, colour, "-" if name in STEPWISE else "--")
        axes.set_title(f"scorer: {scorer}", fontsize=9)
        axes.set_xscale("log")
        axes.minorticks_off()
        axes.set_xlim(min(costs) / 1.5, max(costs) * 1.5)
        axes.set_ylim(0, 1.02)
        axes.set_xlabel("MFLOPs a question, scoring included", fontsize=8)
        axes.set_ylabel("accuracy", fontsize=8)
    # Of a name the last: one in colour.
    handles = {line.get_label(): line for axes in reversed(panels) for line in reversed(axes.lines)}
    panels[0].legend(handles.values(), handles, fontsize=7, ncols=2, frameon=False, loc="best")
    figures.save(figure, file)


def _line(axes, known: Cells, strategy: str, scorer: str, colour, line) -> None:
    groups = [group for (name, own, _), group in known.items() if (name, own) == (strategy, scorer)]
    x, y = [mean(group, "flops") / 1e6 for group in groups], [mean(group, "accuracy") for group in groups]
    if groups:
        axes.plot(
            x, y, color=colour, linestyle=line, marker="o", markersize=3, label=strategy if scorer else "no scorer"
        )


def main() -> None:
    parser = flags.parser(__doc__)
    parser.add_argument(
        "scorers", nargs="*", metavar="NAME=SCORER", help="of qstar-solve; prm by its lowest step, others by the last"
    )
    parser.add_argument("--task", default="cups")
    parser.add_argument("--model", default="bundled:cups")
    parser.add_argument("--questions", type=int, default=200, help="for strategies over whole solutions")
    parser.add_argument("--stepwise", type=int, default=100, help="for strategies over steps; of the same questions")
    parser.add_argument("--samples", type=int, default=max(SIZES), help="whole solutions of a question")
    parser.add_argument("--strategies", nargs="*", default=list(STEPWISE), help="over steps")
    parser.add_argument("--sizes", type=int, nargs="+", default=[4, 16, 64], help="for strategies over steps")
    parser.add_argument(
        "--largest", type=int, default=64, help=f"from this size on only with {GUIDE} and the {replay.ORACLE}"
    )
    parser.add_argument("--cot", type=int, default=16, help="first tokens of CoT-decoding")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--batch", type=int, default=16, help="questions at once")
    flags.overriding(parser, "--set", "overrides of every search")
    parser.add_argument("--out", type=Path, default=Path("runs/frontier"))
    parser.add_argument("--show", type=Path, metavar="RESULTS", help="print the table of these records and run nothing")
    parser.add_argument(
        "--same-n", action="store_true", help="compare with votes of as many candidates, whatever they cost"
    )
    parser.add_argument(
        "--page", type=Path, help="the page with the place of the table, which has the name of the file of --show"
    )
    parser.add_argument("--figure", type=Path, help="where to draw it; needs pip install '.[figures]'")
    args = parser.parse_args()
    if args.page and not args.show:
        parser.error("--page goes with --show")
    if args.page and args.same_n:
        parser.error("--same-n is printed: the tables of the page are those at no more FLOPs")
    with entry.errors():
        if not args.show:
            entry.prepare_jax()
            todo = list(jobs(args))
            base = load.initial_model(configs.composed("solve", overrides(args, *todo[0])).model, 0)
            carry_out(functools.partial(searched, args=args, base=base), todo, 1)
        places = [args.show] if args.show else sorted(args.out.glob("*/*/cells.jsonl"))
        records = [record for place in places for record in frames.lines(place)]
        if not args.show:
            files.write_records(args.out / "results.jsonl", records)
        if not records:
            raise FileNotFoundError(f"no records in {args.show or args.out}: give results.jsonl of a run, or scorers")
        known = grouped(records)
        if args.page:
            kept.check_shown(args.page, args.show)
            tables.fill(args.page, {args.show.stem: table(known)})
        else:
            print(table(known, args.same_n), end="")
        if args.figure:
            draw(known, args.figure)


if __name__ == "__main__":
    main()
