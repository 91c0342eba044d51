"""Successors of Quiet-STaR, compared with it at equal FLOPs: trains and evaluates every arm, writes the table.

    python experiments/quiet_star/followups/compare.py [--seeds 0 1 2] [--out runs/followups]
        [--bases 0=bundled:cups 1=RUN ...]
    python experiments/quiet_star/followups/compare.py --answers [--lr 3e-5 1e-4 3e-4 1e-3 3e-3] [--methods RLP LaTRO]

The arms are those of followups.yaml and the stages of fast_quiet_star.py. With --bases every arm begins from each of
these models, for an interval over bases; the runs of base 0 lie in --out, others in base_LABEL below it. With --answers
the arms are Quiet-STaR, RLP and LaTRO with thoughts before answers only, each with every learning rate and the number
of steps that costs as many FLOPs as the recipe of Quiet-STaR: all are evaluated on the dev problems, and of each method
the rate with the best answers after sampled thoughts on the test problems. Finished runs are not repeated and
interrupted ones resume, so the command can be repeated. Tables are printed and written into table.md or answers.md of
--out, which are replaced with --replace only and never by fewer runs: of several runs the mean with its 95 % interval
(`qstar/evals/intervals.py`), of one the interval over the questions.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import fast_quiet_star
import jax
import numpy as np

from qstar import runs
from qstar.cli import entry, flags
from qstar.config import TrainConfig
from qstar.evals.suite import NoEval
from qstar.methods.adaptive import Adaptive
from qstar.methods.fast_quiet_star import teacher_passes
from qstar.models import cost
from qstar.reports import benefit, frames, tables
from qstar.reports.benefit import Texts
from qstar.runs import ablation
from qstar.runs.ablation import Ablation, Arm
from qstar.structs import Context
from qstar.tasks.items import Item
from qstar.thoughts.thinking import Thinks

HERE = Path(__file__).resolve().parent
BUNDLED = "bundled:cups"
PLACES = ("gain of a thought, answers", "gain of a thought, other tokens")
"""Columns of the table: see `gains`."""


@dataclasses.dataclass(frozen=True)
class Row:
    """One trained arm, of one seed."""

    name: str
    directory: Path
    cfg: TrainConfig
    flops: float  # of its training and of all that it began from
    answers: list[dict]  # a row for every way of asking
    gains: dict[str, float] = dataclasses.field(default_factory=dict)  # see `gains`
    base: int = 0  # label of the model that training began with


def table_rows(seed: int, out: Path, base: int = 0, model: str = BUNDLED) -> list[Row]:
    """Every arm, trained from this model and evaluated."""
    rows, out = [], out / f"base_{base}" if base else out
    arms, extra = ablation.read(str(HERE / "followups.yaml")), (f"model.source='{model}'",)
    for name, arm in arms.arms.items():
        run = ablation.plan(arms, arm, seed, out, extra)
        rows.append(finished(name, run.directory, run.asked, ablation.cost(run.asked)))
        print(rows[-1].name, flush=True)
    return [dataclasses.replace(row, base=base) for row in rows + fast_rows(seed, out, extra)]


def fast_rows(seed: int, out: Path, extra: Sequence[str] = ()) -> list[Row]:
    """The last stage of Fast Quiet-STaR, and its student."""
    stages = fast_quiet_star.plan(out / "fast_quiet_star", seed, extra=extra)
    total, rows = 0.0, []
    for directory, cfg in stages:
        total += flops(cfg, stages)
        name = f"Fast Quiet-STaR, {' → '.join(fast_quiet_star.STAGES)}"
        rows.append(finished(name, directory, cfg, total))
        print(directory, flush=True)
    return [rows[-2], dataclasses.replace(rows[-1], name="its student, no thoughts")]


def flops(cfg: TrainConfig, stages: list[tuple[Path, TrainConfig]]) -> float:
    """Of one of the stages, the student's last: that of a student is its teacher's thoughts as well."""
    lm = runs.load_model(BUNDLED).lm  # all bases have its shape
    passes = cfg.method.passes(cfg.data.length)
    if cfg is stages[-1][1]:
        passes = (*passes, *teacher_passes(stages[-2][1].method, cfg.data.length))
    return float(cfg.steps * cfg.batch_size * cost.flops(lm, passes))


# --- before the answers alone -------------------------------------------------------------------------------------

ANSWERS = ("data.answers_only=true", "data.closing=false")
"""The answers are the only targets, so RLP and LaTRO, which draw their positions among targets, think before them."""
METHODS = {
    "Quiet-STaR": (),
    "RLP": ("method=rlp_cups", "method.positions=8"),  # a row holds eight or nine problems
    "LaTRO": ("method=latro_cups", "method.positions=8"),
}
RATES = (3e-5, 1e-4, 3e-4, 1e-3, 3e-3)


def answer_arms(
    methods: Sequence[str], rates: Sequence[float], extra: Sequence[str], steps: int = 0
) -> dict[tuple[str, float], Arm]:
    """By method and rate: arms evaluated on the dev problems. With `steps` 0 they cost what Quiet-STaR's do."""
    whole = ablation.cost(ablation.composed(ablation.RECIPE, tuple(extra)))
    arms = {}
    for method in methods:
        overrides = (*ANSWERS, *METHODS[method])
        cfg = ablation.composed(ablation.RECIPE, (*extra, *overrides))
        count = steps or max(round(whole / ablation.cost(dataclasses.replace(cfg, steps=1))), 1)
        for rate in rates:
            train = (*overrides, f"steps={count}", f"optim.lr={rate:g}", f"log_every={max(count // 4, 1)}")
            arms[method, rate] = Arm(train, ("eval.split=dev",))
    return arms


def answered_rows(
    arms: dict[tuple[str, float], Arm], seeds: Sequence[int], out: Path, extra: Sequence[str]
) -> list[Row]:
    """Every arm, trained and evaluated as it says."""
    group = Ablation("answers", "", "", {})
    rows = []
    for seed in seeds:
        for (method, rate), arm in arms.items():
            run = ablation.plan(group, arm, seed, out, extra)
            row = finished(f"{method}, lr {rate:g}", run.directory, run.asked, ablation.cost(run.trained), run.test)
            rows.append(row)
            print(row.name, seed, flush=True)
    return rows


def best(arms: dict[tuple[str, float], Arm], dev_rows: Sequence[Row]) -> dict[tuple[str, float], Arm]:
    """Of each method the rate with the best answers after sampled thoughts, to be evaluated on the test problems."""
    scores = {
        name: np.mean([frames.first(row.answers, way="sampled")["accuracy"] for row in rows])
        for name, rows in by_arm(dev_rows).items()
    }
    chosen = {}
    for method in dict.fromkeys(method for method, _ in arms):
        rate = max((rate for other, rate in arms if other == method), key=lambda rate: scores[f"{method}, lr {rate:g}"])
        chosen[method, rate] = dataclasses.replace(arms[method, rate], test=("eval.split=test",))
    return chosen


# --- training and evaluation ------------------------------------------------------------------------------------------


def finished(name: str, directory: Path, cfg: TrainConfig, spent: float, test: str = "") -> Row:
    ablation.train(directory, dataclasses.replace(cfg, eval=NoEval()))
    answers = ablation.ask(directory, test, cfg, checkpoints=False)
    return Row(name, directory, cfg, spent, answers, gains(runs.load_run(directory), cfg))


def by_arm(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """The seeds of every arm, arms in the order in which they come."""
    return frames.grouped(rows, lambda row: row.name)


def table(rows: Sequence[Row]) -> str:
    """Markdown: accuracy by way of asking, and what sampled thoughts gain; FLOPs as shares of the first arm's."""
    names = ("arm", "runs", "steps", "FLOPs", "no thoughts", "likeliest thoughts", "sampled thoughts", *PLACES)
    lines = []
    for name, arm in by_arm(rows).items():
        cells = [accuracy(arm, way) for way in ("none", "likeliest", "sampled")]
        cells += [over_runs(arm, [row.gains.get(place) for row in arm], "+") for place in PLACES]
        lines.append((name, len(arm), arm[0].cfg.steps, f"{arm[0].flops / rows[0].flops:.2f}", *cells))
    return tables.markdown(names, lines)


def accuracy(arm: Sequence[Row], way: str) -> str:
    """Of an arm, asked in this way: `0.977 ± 0.004` of several seeds; of one, `0.977 (0.961 to 0.988)`, and empty where
    it was not asked so."""
    answers = [frames.first(row.answers, way=way) for row in arm]
    asked = [answer for answer in answers if answer is not None]
    if len(asked) == 1:
        return f"{asked[0]['accuracy']:.3f} ({tables.spread([asked[0][f'accuracy_{end}'] for end in ENDS], '.3f')})"
    questions = min((answer.get("n", 0) for answer in asked), default=0)
    return over_runs(arm, [answer and answer["accuracy"] for answer in answers], questions=questions)


ENDS = ("low", "high")
POSITIONS = ("of all positions", "of scored positions")
GATE = ("gate_precision", "gate_recall", "gate_brier")
"""What `gates` shows: shares of positions of the test problems' texts, and figures at the end of training."""


def over_runs(arm: Sequence[Row], values: Sequence[float | None], sign: str = "", questions: int = 0) -> str:
    """The mean of the values that there are, with its interval."""
    there = {(row.base, i): value for i, (row, value) in enumerate(zip(arm, values, strict=True)) if value is not None}
    return tables.over_runs(there, sign, questions)


def gates(rows: Sequence[Row]) -> str:
    """A line for every arm with a gate: where it is open, and how right it was at the end of training."""
    text = ""
    for name, arm in by_arm([row for row in rows if isinstance(row.cfg.method, Adaptive)]).items():
        shares = [{"base": row.base, "seed": seed} | gate_shares(row) for seed, row in enumerate(arm)]
        texts = min(row.answers[0].get("n", 0) for row in arm)  # a problem each, with one scored position
        opened = [f"{what} {tables.share_mean(shares, what, lambda _, texts=texts: texts)}" for what in POSITIONS]
        shown = [*opened, *(f"{name} {tables.mean(shares, name)}" for name in GATE)]
        text += f"\nGate of {name}: {', '.join(shown)}\n"
    return text


def gate_shares(row: Row) -> dict[str, float]:
    """Share of positions of the test problems' texts where the gate is open: of all, and of those that are scored."""
    run = runs.load_run(row.directory)
    texts = Texts.of(question_items(run, row.cfg))

    @jax.jit
    def opens(params, batch, anchors):
        thinker = run.definition.bind(params)
        return run.method.opens(thinker, Context(thinker.lm.text(batch), batch, anchors))

    is_open = np.asarray(opens(*jax.device_put((run.params, texts.batch, texts.anchors))))
    logged = frames.metrics(row.directory, *GATE)
    training = {name: values[-1] for name, values in logged.items() if name != "step"}
    everywhere, scored = is_open[texts.counts].mean(), is_open[texts.scored].mean()
    return dict(zip(POSITIONS, (everywhere, scored), strict=True)) | training


def gains(run: runs.Run, cfg: TrainConfig) -> dict[str, float]:
    """Gain of one sampled thought in log-likelihood of the next token of the test problems' texts, nats: for scored
    tokens and for the others. Empty for a method that does not think."""
    if not isinstance(run.method, Thinks):
        return {}
    items = question_items(run, cfg)
    means = benefit.question_gains(run.method, run.definition, run.params, items, cfg.seed, cfg.eval.batch_size)
    return dict(zip(PLACES, means, strict=True))


def question_items(run: runs.Run, cfg: TrainConfig) -> Sequence[Item]:
    (questions,) = cfg.eval.measures(run.tokenizer)
    return questions.items


def main() -> None:
    parser = flags.parser(__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("runs/followups"))
    parser.add_argument(
        "--bases",
        nargs="+",
        default=[(0, BUNDLED)],
        type=flags.labelled,
        metavar="LABEL=MODEL",
        help="models that every arm begins from, each with a number of its own; not with --answers",
    )
    parser.add_argument("--answers", action="store_true", help="thoughts before answers only, with the rates of --lr")
    parser.add_argument("--lr", type=float, nargs="+", default=RATES)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--steps", type=int, default=0, help="of every arm of --answers; 0: for equal FLOPs")
    flags.overriding(parser, "--set", "overrides of the recipe of --answers")
    parser.add_argument("--replace", action="store_true", help="replace the table that --out holds")
    args = parser.parse_args()
    labels = [label for label, _ in args.bases]
    if len(set(labels)) < len(labels):
        parser.error(f"--bases: labels {', '.join(map(str, labels))}: expected another number for every model")
    if args.answers and args.bases != [(0, BUNDLED)]:
        parser.error(
            "--bases is of the whole comparison: with --answers give --set model.source=MODEL and another --out"
        )
    with entry.errors():
        entry.prepare_jax()
        if args.answers:
            arms, out = answer_arms(args.methods, args.lr, args.set, args.steps), args.out / "answers"
            dev = answered_rows(arms, args.seeds, out, args.set)
            rows = answered_rows(best(arms, dev), args.seeds, out, args.set)
            text, file = f"Dev:\n\n{table(dev)}\nTest:\n\n{table(rows)}", args.out / "answers.md"
        else:
            rows = [row for seed in args.seeds for base in args.bases for row in table_rows(seed, args.out, *base)]
            text, file = table(rows) + gates(rows), args.out / "table.md"
        print(text)
        tables.rewrite(file, text, runs_of, args.replace)


def runs_of(text: str) -> dict[str, int]:
    """Runs of every arm of tables that were written; an arm that is in several counts in all of them."""
    counts: dict[str, int] = {}
    for cells in tables.cells(text):
        if len(cells) > 1 and cells[1].isdecimal():
            counts[cells[0]] = counts.get(cells[0], 0) + int(cells[1])
    return counts


if __name__ == "__main__":
    main()
