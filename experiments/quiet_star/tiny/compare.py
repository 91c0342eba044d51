"""The whole comparison on the bundled task: every arm, every seed, one table.

    python experiments/quiet_star/tiny/compare.py [--seeds 0 1 2] [--out runs/tiny_compare]

Each arm is `qstar-train control=false` with the overrides in `ARMS`. Runs that are finished are not repeated and
interrupted ones go on, so the command can be given again. Prints the table of the README, and writes it with the
figure into --out.
"""

import argparse
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from hydra import compose, initialize_config_dir

from qstar import config as configs
from qstar import entry, experiment, runs
from qstar.config import TrainConfig
from qstar.evals.suite import Evaluator, as_dict
from qstar.methods.quiet_star import QuietStar
from qstar.paths import CONFIGS

ARMS = {
    "Quiet-STaR": [],
    "Quiet-STaR without REINFORCE": ["method.beta=0"],
    "shuffled thoughts": ["method.fill=shuffled"],
    "pause tokens": ["method.fill=pause"],
    "plain LM, same steps": ["method=lm"],
    "plain LM, same FLOPs": ["method=lm"],  # as many more steps as `flop_ratio` says
}
T_95 = {1: float("nan"), 2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}  # Student's t, two-sided 95 %, by number of runs


def flop_ratio(method: QuietStar) -> float:
    """Trunk FLOPs of a Quiet-STaR step over those of a plain step on the same text; a backward pass counts as two.

    Text and columns go forward and backward once; sampling feeds `thought_len` columns more per thought, forward only.
    """
    columns = method.thought_len + 1 + method.lookahead
    return (1 + method.num_thoughts * columns) + method.num_thoughts * method.thought_len / 3


def configuration(arm: str, seed: int, extra: Sequence[str]) -> TrainConfig:
    def composed(*overrides: str) -> TrainConfig:
        return configs.build(compose("train", ["control=false", "run_dir=unused", f"seed={seed}", *overrides, *extra]))

    with initialize_config_dir(version_base="1.3", config_dir=CONFIGS):
        steps = []
        if arm.endswith("same FLOPs"):
            thinking = composed()
            steps = [f"steps={round(thinking.steps * flop_ratio(thinking.method))}", "save_every=1000", "log_every=20"]
        return composed(*ARMS[arm], *steps)


def finished(cfg: TrainConfig, directory: Path) -> list[dict]:
    """The evaluation of the last step, training first where it is not there yet."""
    return recorded(directory, cfg.steps) or (experiment.run(cfg, directory), recorded(directory, cfg.steps))[1]


def sampled(directory: Path) -> dict:
    """The finished run asked once more, its thoughts sampled as in training instead of the likeliest."""
    file = directory / "sampled.json"
    if not file.is_file():
        run = runs.load_run(directory)
        cfg = dataclasses.replace(run.config.eval, thoughts=("sampled",))
        evaluator = Evaluator(cfg, run.method, run.definition, run.tokenizer)
        (row,) = evaluator(jax.device_put(run.params), jax.random.key(run.config.seed))
        file.write_text(json.dumps(as_dict(row)), encoding="utf-8")
    return json.loads(file.read_text())


def recorded(directory: Path, step: int) -> list[dict]:
    file = directory / "evals.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []
    return [line for line in lines if line["step"] == step]


def interval(values: Sequence[float]) -> str:
    """Mean and 95 % interval over runs, by Student's t."""
    mean = np.mean(values)
    half = T_95[len(values)] * np.std(values, ddof=1) / np.sqrt(len(values)) if len(values) > 1 else float("nan")
    return f"{mean:.3f} ± {half:.3f}"


def table(results: dict[str, list[list[dict]]], steps: dict[str, int]) -> str:
    head = ("arm", "steps", "thoughts at test", "accuracy", "probability of the answer", "accuracy by seed")
    lines = [head, ("---",) * len(head)]
    for arm, found in results.items():
        for way, rows in zip(("none", "likeliest", "sampled"), zip(*found, strict=True), strict=False):
            accuracy = [row["accuracy"] for row in rows]
            by_seed = ", ".join(f"{value:.3f}" for value in accuracy)
            probability = interval([row["probability"] for row in rows])
            lines.append((arm, str(steps[arm]), way, interval(accuracy), probability, by_seed))
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("runs/tiny_compare"))
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="for every arm, as for qstar-train")
    args = parser.parse_args()
    configs.register()
    entry.prepare_jax()
    results, steps = {arm: [] for arm in args.arms}, {}
    for seed in args.seeds:
        for arm in args.arms:
            cfg = configuration(arm, seed, args.overrides)
            steps[arm] = cfg.steps
            directory = args.out / arm.lower().replace(" ", "_").replace(",", "") / str(seed)
            rows = finished(cfg, directory)
            results[arm].append([*rows, sampled(directory)] if len(rows) > 1 else rows)
            done = {arm: rows for arm, rows in results.items() if rows}
            (args.out / "table.md").write_text(table(done, steps), encoding="utf-8")
    print(table(results, steps))


if __name__ == "__main__":
    main()
