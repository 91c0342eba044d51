"""What came after Quiet-STaR, beside it at equal FLOPs: trains every arm, asks it, writes the table.

    python experiments/quiet_star/followups/compare.py [--seed 0] [--out runs/followups]

The arms are those of followups.yaml and the stages of fast_quiet_star.py. Runs that are finished are not repeated and
interrupted ones go on, so the command can be given again. The table goes to the screen and into table.md of --out.
"""

import argparse
import dataclasses
import json
import sys
from pathlib import Path

import jax
import numpy as np

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "ablations")]

import ablation  # noqa: E402
import fast_quiet_star  # noqa: E402
import sweep  # noqa: E402

from qstar import entry, experiment, runs  # noqa: E402
from qstar.config import TrainConfig  # noqa: E402
from qstar.evals.suite import NoEval  # noqa: E402
from qstar.methods.adaptive import Adaptive  # noqa: E402
from qstar.methods.fast_quiet_star import teacher_passes  # noqa: E402
from qstar.models import cost  # noqa: E402
from qstar.thoughts import rows  # noqa: E402


@dataclasses.dataclass(frozen=True)
class Row:
    """One trained arm."""

    name: str
    directory: Path
    cfg: TrainConfig
    flops: float  # of its training and of all that it began from
    answers: list[dict]  # a row for every way of asking


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
    lm = experiment.runs.load_model("bundled:cups").config
    passes = cfg.method.passes(cfg.data.length)
    if cfg is stages[-1][1]:
        passes = (*passes, *teacher_passes(stages[-2][1].method, cfg.data.length))
    return float(cfg.steps * cfg.batch_size * cost.flops(lm, passes))


def finished(name: str, directory: Path, cfg: TrainConfig, spent: float) -> Row:
    sweep.train(directory, dataclasses.replace(cfg, eval=NoEval()))
    return Row(name, directory, cfg, spent, sweep.ask(directory, "", cfg, checkpoints=False))


def table(found: list[Row]) -> str:
    """Markdown: accuracy with its 95 % interval, by way of asking."""
    head = ("arm", "steps", "FLOPs", "no thoughts", "likeliest thoughts", "sampled thoughts", "probability, likeliest")
    lines = [head, ("---",) * len(head)]
    for row in found:
        by_way = {one["way"]: one for one in row.answers}
        cells = [score(by_way.get(way)) for way in ("none", "likeliest", "sampled")]
        best = by_way.get("likeliest", by_way["none"])
        share = f"{row.flops / found[0].flops:.2f}"
        lines.append((row.name, str(row.cfg.steps), share, *cells, f"{best['probability']:.3f}"))
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def score(row: dict | None) -> str:
    if row is None:
        return ""
    return f"{row['accuracy']:.3f} ({row['accuracy_low']:.3f} to {row['accuracy_high']:.3f})"


def gate_shares(row: Row) -> dict[str, float]:
    """Share of positions of the test problems' texts where the gate is open: of all, and of those that are scored."""
    run = runs.load_run(row.directory)
    items = next(iter(row.cfg.eval.tasks(run.tokenizer).values()))
    texts = [list(item.ids) for item in items]
    batch = rows.padded(texts, rows.bucket(max(map(len, texts))))
    anchors = np.broadcast_to(np.arange(batch.tokens.shape[1])[None], batch.tokens.shape)

    @jax.jit
    def opens(params):
        thinker = run.definition.bind(params)
        return run.method.opens(thinker, thinker.lm.text(batch), anchors)

    found = np.asarray(opens(jax.device_put(run.params)))
    before_a_token = batch.mask & (np.arange(found.shape[1])[None] < batch.mask.sum(1, keepdims=True) - 1)
    scored = np.zeros_like(found)
    for number, item in enumerate(items):
        scored[number, list(item.anchors)] = True
    metrics = json.loads((row.directory / "metrics.jsonl").read_text().splitlines()[-1])
    training = {name: metrics[name] for name in ("gate_precision", "gate_recall", "gate_brier")}
    return {"of all positions": found[before_a_token].mean(), "of scored positions": found[scored].mean(), **training}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/followups"))
    args = parser.parse_args()
    with entry.errors():
        entry.prepare_jax()
        found = table_rows(args.seed, args.out)
        text = table(found)
        for row in found:
            if isinstance(row.cfg.method, Adaptive):
                shares = (f"{what} {share:.3f}" for what, share in gate_shares(row).items())
                text += f"\nGate of {row.name}: {', '.join(shares)}\n"
        (args.out / "table.md").write_text(text, encoding="utf-8")
        print(text)


if __name__ == "__main__":
    main()
