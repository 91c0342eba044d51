"""The whole comparison on the bundled task: every arm, every seed, one table.

    python experiments/quiet_star/tiny/compare.py [--seeds 0 1 2] [--out runs/tiny_compare]

Each arm is `qstar-train control=false` with the overrides in `ARMS`. Runs that are finished are not repeated and
interrupted ones go on, so the command can be given again. Prints the table of the README, and writes it with the
figure into --out.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from hydra import compose, initialize_config_dir

from qstar import config as configs
from qstar import entry, experiment
from qstar.config import TrainConfig
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
    lines = [
        "| arm | steps | thoughts at test | accuracy | probability of the answer | seeds |",
        "|---|---|---|---|---|---|",
    ]
    for arm, runs in results.items():
        for thoughts in sorted({row["thoughts"] for row in runs[0]}):
            rows = [next(row for row in run if row["thoughts"] == thoughts) for run in runs]
            accuracy = [row["accuracy"] for row in rows]
            cells = (
                arm,
                str(steps[arm]),
                "yes" if thoughts else "no",
                interval(accuracy),
                interval([row["probability"] for row in rows]),
                ", ".join(f"{value:.3f}" for value in accuracy),
            )
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


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
            results[arm].append(finished(cfg, args.out / arm.lower().replace(" ", "_").replace(",", "") / str(seed)))
            done = {arm: runs for arm, runs in results.items() if runs}
            (args.out / "table.md").write_text(table(done, steps), encoding="utf-8")
    print(table(results, steps))


if __name__ == "__main__":
    main()
