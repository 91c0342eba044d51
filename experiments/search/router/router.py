"""How many solutions a question should get, fitted on one half of the questions and measured on the other.

    qstar-solve scorer=bundled:cups_prm search=best_of_n search.n=16 aggregate=min questions=500 run_dir=runs/best
    python experiments/search/router/router.py runs/best --probe 2 --sizes 2 4 8 16
    qstar-solve search=router search.edges=[...] search.sizes=[...] ...          # the last lines that are printed

Reads a finished run of best-of-N; no model is loaded. Of every question the first `--probe` solutions tell how easy it
looks: by their scores, by how far they agree, or (oracle) by how many of all its solutions are right. With as many
tokens on average as best-of-N of each size, a table of bins says how many solutions a question gets; tokens of
solutions and of the scorer are charged, the probe's too. Intervals: bootstraps over questions of paired differences.

Of a run that wrote the likeliest solution first, it is how sure the model was of that one, and easy questions get no
more than it:

    qstar-solve scorer=bundled:cups_prm search=router search.probe=1 search.estimate=likelihood 'search.sizes=[16]' \
      aggregate=min questions=500 run_dir=runs/likeliest
    python experiments/search/router/router.py runs/likeliest --sizes 1 2 4 8 16
"""

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from qstar import advice
from qstar import config as configs
from qstar.cli import entry, flags
from qstar.config import SolveConfig
from qstar.evals.intervals import bootstrap, wilson
from qstar.reports import tables
from qstar.runs import replay, solve
from qstar.search.allocate import Tried, fitted, two_fold, uniform
from qstar.search.confidence import confidence
from qstar.search.router import Router, agreement

ORACLE = "oracle"


def tried(folder: Path, cfg: SolveConfig, probe: int, sizes: Sequence[int]) -> dict[str, list[Tried]]:
    """Every question with each number of solutions, by the estimate of how easy it is."""
    stored, most = solve.stored(folder)
    questions: dict[str, list[Tried]] = {name: [] for name in (*estimates_of(cfg), ORACLE)}
    of_sizes = [replay.solutions(cfg, cfg.search.resized(size), stored, most, 0) for size in sizes]
    for solved in zip(*of_sizes, strict=True):
        tree = solved[0][0]
        ends = [row for _, row in sorted(tree.rows.items()) if row["place"]["final"]]
        right = tuple(float(tree.rows[solution.chosen.state]["correct"]) for _, solution in solved)
        cost = tuple(float(replay.spent(tree, solution)[1:3].sum()) for _, solution in solved)
        for name, of in questions.items():
            easy = (
                float(np.mean([row["correct"] for row in ends]))
                if name == ORACLE
                else _estimate(name, cfg, ends[:probe])
            )
            of.append(Tried(easy, right, cost))
    return questions


def _estimate(name: str, cfg: SolveConfig, first: Sequence[dict]) -> float:
    """How easy a question is by its first solutions, as `search/router.py` has it."""
    if name == "score":
        return float(np.mean([row["scores"][cfg.scorer[0]] for row in first]))
    if name == "likelihood":
        return confidence(np.asarray(first[0]["logprobs"], float), "mean", 1)
    return agreement([row["answer"] or None for row in first])


def estimates_of(cfg: SolveConfig) -> tuple[str, ...]:
    """What the first solutions of a run can tell."""
    return (cfg.search.estimate,) if isinstance(cfg.search, Router) else ("score", "agreement")


def lines(questions: dict[str, list[Tried]], sizes: Sequence[int], bins: int) -> Iterator[list[object]]:
    """Rows of the table: best-of-N of each size, and what each estimate makes of the same tokens."""
    for i, size in enumerate(sizes):
        plain = np.array([question.right[i] for question in questions[ORACLE]])
        accuracy = tables.interval(plain.mean(), *wilson(int(plain.sum()), len(plain)))
        yield [f"best of {size}", f"{uniform(questions[ORACLE], i):.0f}", accuracy, ""]
        for name, group in questions.items():
            right, cost = np.array(two_fold(group, bins, i)).T
            gain = right - plain
            paired = tables.interval(gain.mean(), *bootstrap(gain, seed=0), "+.3f")
            accuracy = tables.interval(right.mean(), *wilson(int(right.sum()), len(right)))
            yield [f"router, {name}", f"{cost.mean():.0f}", accuracy, paired]


def main() -> None:
    parser = flags.parser(__doc__)
    parser.add_argument("run", type=Path, help="a finished run of search=best_of_n, or of search=router with one size")
    parser.add_argument("--probe", type=int, default=2, help="solutions that difficulty is estimated from")
    parser.add_argument(
        "--sizes", type=int, nargs="+", default=[2, 4, 8, 16], help="numbers of solutions to choose from"
    )
    parser.add_argument("--bins", type=int, default=4, help="of difficulty")
    parser.add_argument(
        "--size", type=int, help="whose tokens the commands at the end may spend; the third of the sizes"
    )
    args = parser.parse_args()
    with entry.errors():
        cfg = configs.load(args.run / solve.KIND.file, schema=SolveConfig)
        probe = cfg.search.probe if isinstance(cfg.search, Router) else args.probe
        questions = tried(args.run, cfg, probe, args.sizes)
        names = ("strategy", "tokens", "accuracy", "against best of N")
        print(tables.markdown(names, lines(questions, args.sizes, args.bins)))
        size = args.size or args.sizes[min(2, len(args.sizes) - 1)]
        place = args.sizes.index(size)
        for name in estimates_of(cfg):
            table = fitted(questions[name], args.bins, uniform(questions[name], place))
            searched = {
                "search": "router",
                "search.probe": probe,
                "search.estimate": name,
                "search.edges": [float(f"{edge:.4g}") for edge in table.edges],
                "search.sizes": [args.sizes[choice] for choice in table.choices],
                "search.select": cfg.search.select,
                "scorer": cfg.scorer,
                "aggregate": cfg.aggregate,
                "temperature": cfg.temperature,
                "task": configs.choice("task", type(cfg.task)),
            }
            if hasattr(cfg.model, "source"):
                searched["model.source"] = cfg.model.source
            print(advice.command("qstar-solve", *itertools.starmap(advice.override, searched.items())))


if __name__ == "__main__":
    main()
