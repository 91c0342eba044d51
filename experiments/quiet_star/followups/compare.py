"""What came after Quiet-STaR, beside it at equal FLOPs: trains every arm, asks it, writes the table.

    python experiments/quiet_star/followups/compare.py [--seeds 0 1 2] [--out runs/followups]
    python experiments/quiet_star/followups/compare.py --answers [--lr 3e-5 1e-4 3e-4 1e-3 3e-3] [--methods RLP LaTRO]

The arms are those of followups.yaml and the stages of fast_quiet_star.py. With --answers they are Quiet-STaR, RLP and
LaTRO where thoughts pay, before the answers alone, each with every learning rate and as many steps as make it cost what
Quiet-STaR's steps of the recipe cost: all are asked the dev problems, and of each method the rate with the best answers
after sampled thoughts is asked the test problems. Runs that are finished are not repeated and interrupted ones go on,
so the command can be given again. Tables go to the screen and into table.md or answers.md of --out, which are replaced
with --replace only and never by fewer runs: of several seeds the mean with its 95 % interval
(`qstar/evals/intervals.py`), of one the interval over the questions.
"""

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "ablations")]

import ablation  # noqa: E402
import fast_quiet_star  # noqa: E402
import report  # noqa: E402
import sweep  # noqa: E402
from ablation import Ablation, Arm  # noqa: E402

from qstar import runs  # noqa: E402
from qstar.cli import session  # noqa: E402
from qstar.config import TrainConfig  # noqa: E402
from qstar.evals import records  # noqa: E402
from qstar.evals.suite import NoEval  # noqa: E402
from qstar.methods.adaptive import Adaptive  # noqa: E402
from qstar.methods.fast_quiet_star import teacher_passes  # noqa: E402
from qstar.models import cost  # noqa: E402
from qstar.ops import rows  # noqa: E402
from qstar.structs import Batch, Context  # noqa: E402
from qstar.tasks.items import Item  # noqa: E402
from qstar.thoughts.thinking import Thinks  # noqa: E402

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


def table_rows(seed: int, out: Path) -> list[Row]:
    """Every arm, trained and asked."""
    found = []
    arms = ablation.read(str(HERE / "followups.yaml"))
    for name, arm in arms.arms.items():
        run = ablation.run(arms, arm, seed, out)
        found.append(finished(name, run.directory, run.asked, ablation.cost(run.asked)))
        print(found[-1].name, flush=True)
    return found + fast_rows(seed, out)


def fast_rows(seed: int, out: Path) -> list[Row]:
    """The last stage of Fast Quiet-STaR, and its student."""
    stages = fast_quiet_star.plan(out / "fast_quiet_star", seed)
    total, found = 0.0, []
    for directory, cfg in stages:
        total += flops(cfg, stages)
        name = f"Fast Quiet-STaR, {' → '.join(fast_quiet_star.STAGES)}"
        found.append(finished(name, directory, cfg, total))
        print(directory, flush=True)
    return [found[-2], dataclasses.replace(found[-1], name="its student, no thoughts")]


def flops(cfg: TrainConfig, stages: list[tuple[Path, TrainConfig]]) -> float:
    """Of one of the stages, the student's last: that of a student is its teacher's thoughts as well."""
    lm = runs.load_model("bundled:cups").lm
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
    """By method and rate: arms that are asked the dev problems. With `steps` 0 they cost what Quiet-STaR's do."""
    whole = ablation.cost(ablation.composed(ablation.RECIPE, tuple(extra)))
    found = {}
    for method in methods:
        overrides = (*ANSWERS, *METHODS[method])
        cfg = ablation.composed(ablation.RECIPE, (*extra, *overrides))
        count = steps or max(round(whole / ablation.cost(dataclasses.replace(cfg, steps=1))), 1)
        for rate in rates:
            train = (*overrides, f"steps={count}", f"optim.lr={rate:g}", f"log_every={max(count // 4, 1)}")
            found[method, rate] = Arm(train, ("eval.split=dev",))
    return found


def answered_rows(
    arms: dict[tuple[str, float], Arm], seeds: Sequence[int], out: Path, extra: Sequence[str]
) -> list[Row]:
    """Every arm, trained and asked as it says."""
    group = Ablation("answers", "", "", {})
    found = []
    for seed in seeds:
        for (method, rate), arm in arms.items():
            run = ablation.run(group, arm, seed, out, extra)
            row = finished(f"{method}, lr {rate:g}", run.directory, run.asked, ablation.cost(run.trained), run.test)
            found.append(row)
            print(row.name, seed, flush=True)
    return found


def best(arms: dict[tuple[str, float], Arm], found: Sequence[Row]) -> dict[tuple[str, float], Arm]:
    """Of each method the rate with the best answers after sampled thoughts, to be asked the test problems."""
    scores = {rows[0].name: np.mean([_of(row, "sampled")["accuracy"] for row in rows]) for rows in by_arm(found)}
    chosen = {}
    for method in dict.fromkeys(method for method, _ in arms):
        rate = max((rate for one, rate in arms if one == method), key=lambda rate: scores[f"{method}, lr {rate:g}"])
        chosen[method, rate] = dataclasses.replace(arms[method, rate], test=("eval.split=test",))
    return chosen


def _of(row: Row, way: str) -> dict:
    return next(one for one in row.answers if one["way"] == way)


# --- training and asking ------------------------------------------------------------------------------------------


def finished(name: str, directory: Path, cfg: TrainConfig, spent: float, test: str = "") -> Row:
    sweep.train(directory, dataclasses.replace(cfg, eval=NoEval()))
    answers = sweep.ask(directory, test, cfg, checkpoints=False)
    return Row(name, directory, cfg, spent, answers, gains(runs.load_run(directory), cfg))


def by_arm(found: Sequence[Row]) -> list[list[Row]]:
    """The seeds of every arm, arms in the order in which they come."""
    arms: dict[str, list[Row]] = {}
    for row in found:
        arms.setdefault(row.name, []).append(row)
    return list(arms.values())


def table(found: Sequence[Row]) -> str:
    """Markdown: accuracy by way of asking, and what sampled thoughts gain; FLOPs as shares of the first arm's."""
    head = ("arm", "seeds", "steps", "FLOPs", "no thoughts", "likeliest thoughts", "sampled thoughts", *PLACES)
    lines = [head, ("---",) * len(head)]
    for arm in by_arm(found):
        share, steps = arm[0].flops / found[0].flops, str(arm[0].cfg.steps)
        cells = [told(arm, way, "accuracy") for way in ("none", "likeliest", "sampled")]
        cells += [report.told(numbered(arm, [row.gains.get(place) for row in arm]), "+") for place in PLACES]
        lines.append((arm[0].name, str(len(arm)), steps, f"{share:.2f}", *cells))
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def told(arm: Sequence[Row], way: str, name: str) -> str:
    """A figure of an arm, asked in this way: `0.977 ± 0.004` of several seeds; of one, `0.977 (0.961 to 0.988)`, and
    empty where it was not asked so."""
    found = [one for row in arm for one in row.answers if one["way"] == way]
    if len(found) == 1:
        return f"{found[0][name]:.3f} ({found[0][f'{name}_low']:.3f} to {found[0][f'{name}_high']:.3f})"
    values = [next((one for one in row.answers if one["way"] == way), None) for row in arm]
    questions = min((one.get("n", 0) for one in found), default=0) if name == "accuracy" else 0
    return report.told(numbered(arm, [None if one is None else one[name] for one in values]), questions=questions)


def numbered(arm: Sequence[Row], values: Sequence[float | None]) -> dict[tuple[int, int], float]:
    """The values that there are, by base and the place of their run."""
    return {(row.base, i): value for i, (row, value) in enumerate(zip(arm, values, strict=True)) if value is not None}


def gates(found: Sequence[Row]) -> str:
    """A line for every arm with a gate: where it is open, and how right it was at the end of training."""
    text = ""
    for arm in by_arm([row for row in found if isinstance(row.cfg.method, Adaptive)]):
        shares = [gate_shares(row) for row in arm]
        figures = (f"{what} {report.told(numbered(arm, [one[what] for one in shares]))}" for what in shares[0])
        text += f"\nGate of {arm[0].name}: {', '.join(figures)}\n"
    return text


def gate_shares(row: Row) -> dict[str, float]:
    """Share of positions of the test problems' texts where the gate is open: of all, and of those that are scored."""
    run = runs.load_run(row.directory)
    texts = Texts.of(question_items(run, row.cfg))

    @jax.jit
    def opens(params, batch, anchors):
        thinker = run.definition.bind(params)
        return run.method.opens(thinker, Context(thinker.lm.text(batch), batch, anchors))

    found = np.asarray(opens(*jax.device_put((run.params, texts.batch, texts.anchors))))
    metrics = json.loads((row.directory / "metrics.jsonl").read_text().splitlines()[-1])
    training = {name: metrics[name] for name in ("gate_precision", "gate_recall", "gate_brier")}
    everywhere, scored = found[texts.counts].mean(), found[texts.scored].mean()
    return {"of all positions": everywhere, "of scored positions": scored, **training}


def gains(run: runs.Run, cfg: TrainConfig) -> dict[str, float]:
    """What one sampled thought does to the log-likelihood of the next token of the test problems' texts, nats: before
    the tokens that are scored and before the others. Empty for a method that does not think."""
    if not isinstance(run.method, Thinks):
        return {}

    @jax.jit
    def gain(params, batch, anchors, key):
        thinker = run.definition.bind(params)
        context = Context(thinker.lm.text(batch), batch, anchors)
        found = run.method.think(thinker, context, key, greedy=False)[1]
        true = jnp.roll(batch.tokens, -1, 1)[..., None]
        return jnp.take_along_axis(found.mixed[:, 0] - found.base, true, -1)[..., 0]

    items, params, found = question_items(run, cfg), jax.device_put(run.params), []
    for first in range(0, len(items), cfg.eval.batch_size):
        texts = Texts.of(items[first : first + cfg.eval.batch_size])
        key = jax.random.fold_in(jax.random.key(cfg.seed), first)
        told = np.asarray(gain(params, *jax.device_put((texts.batch, texts.anchors)), key))
        found.append((told[texts.scored], told[texts.counts & ~texts.scored]))
    parts = zip(PLACES, zip(*found, strict=True), strict=True)
    return {place: float(np.concatenate(part).mean()) for place, part in parts}


def question_items(run: runs.Run, cfg: TrainConfig) -> Sequence[Item]:
    (questions,) = cfg.eval.measures(run.tokenizer)
    return questions.items


@dataclasses.dataclass(frozen=True)
class Texts:
    """Questions with their answers, padded, every position an anchor."""

    batch: Batch
    anchors: np.ndarray  # [B S]
    counts: np.ndarray  # [B S], a token comes next
    scored: np.ndarray  # [B S], and it is one that the question asks for

    @classmethod
    def of(cls, items: Sequence[Item]) -> "Texts":
        texts = [list(item.ids) for item in items]
        batch = rows.padded(texts, rows.bucket(max(map(len, texts))))
        anchors = np.broadcast_to(np.arange(batch.tokens.shape[1])[None], batch.tokens.shape)
        scored = np.zeros_like(batch.mask)
        for number, item in enumerate(items):
            scored[number, list(item.anchors)] = True
        return cls(batch, anchors, anchors < batch.mask.sum(1, keepdims=True) - 1, scored)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("runs/followups"))
    parser.add_argument("--answers", action="store_true", help="thoughts before answers alone, with these rates:")
    parser.add_argument("--lr", type=float, nargs="+", default=RATES)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--steps", type=int, default=0, help="of every arm of --answers; 0: for equal FLOPs")
    parser.add_argument(
        "--set", nargs="+", default=[], metavar="KEY=VALUE", help="overrides of the recipe of --answers"
    )
    parser.add_argument("--replace", action="store_true", help="replace the table that --out holds")
    args = parser.parse_args()
    with session.errors():
        session.prepare_jax()
        if args.answers:
            arms, out = answer_arms(args.methods, args.lr, args.set, args.steps), args.out / "answers"
            dev = answered_rows(arms, args.seeds, out, args.set)
            found = answered_rows(best(arms, dev), args.seeds, out, args.set)
            text, file = f"Dev:\n\n{table(dev)}\nTest:\n\n{table(found)}", args.out / "answers.md"
            held = counted([*dev, *found])
        else:
            found = [row for seed in args.seeds for row in table_rows(seed, args.out)]
            text, file, held = table(found) + gates(found), args.out / "table.md", counted(found)
        print(text)
        old = told_of(file.read_text(encoding="utf-8")) if file.is_file() else {}
        if not file.is_file() or file.read_text(encoding="utf-8") != text:
            records.check_replaced(old, held, str(file), args.replace)
            file.write_text(text, encoding="utf-8")


def counted(found: Sequence[Row]) -> dict[str, int]:
    """Runs of every arm."""
    return {arm[0].name: len(arm) for arm in by_arm(found)}


def told_of(text: str) -> dict[str, int]:
    """The same of a table that was written; an arm that is in several counts in all of them."""
    found: dict[str, int] = {}
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("| ").split(" | ")]
        if len(cells) > 1 and cells[1].isdecimal():
            found[cells[0]] = found.get(cells[0], 0) + int(cells[1])
    return found


if __name__ == "__main__":
    main()
