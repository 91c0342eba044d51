"""Fast Quiet-STaR with one command: ever shorter thoughts, each stage from the one before, then a student without any.

    python experiments/quiet_star/followups/fast_quiet_star.py                       the bundled task, a few minutes
    python experiments/quiet_star/followups/fast_quiet_star.py --experiment quiet_star/smollm2_math \\
        --stages 16-8 12-4 8-4 --steps 100 100 100 --student-steps 100 model.source=DIRECTORY    the paper's stages

A stage THOUGHT-AHEAD is `qstar-train method.thought_len=THOUGHT method.lookahead=AHEAD model.source=STAGE BEFORE`: it
continues from all trained weights, mixing head and delimiters included. The student is `method=fast_quiet_star` with
the last stage as `model.source` and as `method.teacher`. Differs from the paper: each stage continues from the last
checkpoint of a stage, not from the best one of an evaluation. Stages that are done are not repeated.
"""

from collections.abc import Sequence
from pathlib import Path

from qstar import config as configs
from qstar.cli import entry, flags
from qstar.config import TrainConfig
from qstar.runs import train
from qstar.runs.ablation import RECIPE

STAGES, STEPS, STUDENT_STEPS = ("8-1", "7-1", "6-1"), (13, 15, 17), 189
"""For the bundled task: three parts of the FLOPs of 40 steps of Quiet-STaR, and a student of as many again."""


def plan(
    out: Path,
    seed: int = 0,
    recipe: str = RECIPE,
    stages: Sequence[str] = STAGES,
    steps: Sequence[int] = STEPS,
    student_steps: int = STUDENT_STEPS,
    extra: Sequence[str] = (),
) -> list[tuple[Path, TrainConfig]]:
    """Directories and configurations of the stages, in order, the student's last.

    Raises ValueError for stages that are not written THOUGHT-AHEAD and where there are not as many steps as stages.
    """
    if len(steps) != len(stages):
        raise ValueError(f"--stages {' '.join(stages)} with --steps {' '.join(map(str, steps))}: one number for each")
    common, planned = [f"experiments={recipe}", "control=false", f"seed={seed}", *extra], []
    for stage, count in zip(stages, steps, strict=True):
        thought, _, ahead = stage.partition("-")
        if not (thought.isdigit() and ahead.isdigit()):
            raise ValueError(f"--stages {stage}: expected THOUGHT-AHEAD, two numbers as in 12-4")
        directory = out / f"{len(planned) + 1}_{stage}" / str(seed)
        changes = [f"method.thought_len={thought}", f"method.lookahead={ahead}", f"steps={count}", *after(planned)]
        planned.append((directory, configs.composed("train", [*common, *changes, f"run_dir={directory}"])))
    directory = out / "student" / str(seed)
    teacher = f"method.teacher='{planned[-1][0]}'"
    changes = ["method=fast_quiet_star", teacher, f"steps={student_steps}", *after(planned)]
    return [*planned, (directory, configs.composed("train", [*common, *changes, f"run_dir={directory}"]))]


def after(planned: Sequence[tuple[Path, TrainConfig]]) -> list[str]:
    """Overrides that start a run from the last one."""
    return [f"model.source='{planned[-1][0]}'"] if planned else []


def main() -> None:
    parser = flags.parser(__doc__)
    parser.add_argument("--stages", nargs="+", default=STAGES, metavar="THOUGHT-AHEAD")
    parser.add_argument("--steps", type=int, nargs="+", default=STEPS, help="of each stage")
    parser.add_argument("--student-steps", type=int, default=STUDENT_STEPS)
    parser.add_argument("--experiment", default=RECIPE, help="the recipe of all stages, of Quiet-STaR")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/fast_quiet_star"))
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="for every stage, as for qstar-train")
    args = parser.parse_intermixed_args()
    with entry.errors():
        entry.prepare_jax()
        todo = plan(
            args.out, args.seed, args.experiment, args.stages, args.steps, args.student_steps, tuple(args.overrides)
        )
        for directory, cfg in todo:
            train.run(cfg, directory)


if __name__ == "__main__":
    main()
