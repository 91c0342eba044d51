"""Ablations as their files say them: arms by name, each a run with changes; and their sweep, training and asking.

    title: Thought length
    reference: "8"                         # the arm that the others are compared with
    experiment: quiet_star/ablations       # the recipe that the arms change; this one where nothing is said
    checkpoints: false                     # ask every checkpoint instead of the last one
    arms:
      "8": []                              # overrides as for qstar-train; none: the recipe itself
      "4": [method.thought_len=4]
      "8, tested with 4": {test: [method.thought_len=4]}  # trained as `train` says (here: the recipe), asked otherwise

Arms with the same training, in whatever files, are one run, in a directory that says what it changes.
"""

import contextlib
import dataclasses
import functools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import yaml

from qstar import config as configs
from qstar import files
from qstar.config import TrainConfig
from qstar.evals import measure
from qstar.evals.suite import Evaluator, NoEval, as_dict
from qstar.methods.protocol import Method
from qstar.models import cost as models_cost
from qstar.paths import ROOT
from qstar.reports import frames
from qstar.reports.ablations import Result
from qstar.runs import load, stored
from qstar.runs import train as train_run
from qstar.runs.load import Run
from qstar.training.loop import NonFiniteLoss

RECIPE = "quiet_star/ablations"
FOLDER = ROOT / "experiments" / RECIPE
ANSWERS, DONE, DIVERGED = "answers.jsonl", "done", "diverged.txt"


@dataclass(frozen=True)
class Arm:
    """Overrides of the recipe: in training, and in addition when the trained model is asked."""

    train: tuple[str, ...] = ()
    test: tuple[str, ...] = ()


@dataclass(frozen=True)
class Ablation:
    """One file."""

    name: str
    title: str
    reference: str
    arms: dict[str, Arm]
    experiment: str = RECIPE
    checkpoints: bool = False


@dataclass(frozen=True)
class Planned:
    """An arm with one seed: how it is trained and where, and how it is asked."""

    directory: Path
    trained: TrainConfig  # asks nothing while it trains
    asked: TrainConfig
    test: str  # what differs when it is asked, as in `changed`


def shipped() -> list[str]:
    """Names of the ablations of the recipe."""
    return sorted(file.stem for file in FOLDER.glob("*.yaml"))


def read(name: str) -> Ablation:
    """The ablation of that name, or in a file with that path.

    Raises FileNotFoundError where there is none, ValueError for a file that is not an ablation.
    """
    file = Path(name) if name.endswith(".yaml") else FOLDER / f"{name}.yaml"
    if not file.is_file():
        raise FileNotFoundError(f"no ablation {name!r}: give a .yaml file or one of {', '.join(shipped())}")
    contents = yaml.safe_load(file.read_text(encoding="utf-8"))
    fields = {field.name for field in dataclasses.fields(Ablation)} - {"name"}
    unknown, missing = contents.keys() - fields, {"title", "reference", "arms"} - contents.keys()
    if unknown or missing:
        raise ValueError(
            f"{file}: unknown {sorted(unknown)}, missing {sorted(missing)}; an ablation has {', '.join(sorted(fields))}"
        )
    contents["arms"] = {arm: _arm(said, f"{file}: arms.{arm}") for arm, said in contents["arms"].items()}
    if contents["reference"] not in contents["arms"]:
        raise ValueError(f"{file}: reference = {contents['reference']!r} is not among {list(contents['arms'])}")
    return Ablation(file.stem, **contents)


def _arm(said: list | dict, where: str) -> Arm:
    parts = {"train": said} if isinstance(said, list) else said
    wrong = parts.keys() - {"train", "test"}
    if wrong:
        raise ValueError(f"{where}: {sorted(wrong)}: expected a list of overrides, or train and test")
    return Arm(*(tuple(parts.get(name, ())) for name in ("train", "test")))


# --- configurations -----------------------------------------------------------------------------------------------


@functools.cache
def composed(experiment: str, overrides: tuple[str, ...]) -> TrainConfig:
    """What `qstar-train` makes of a recipe with these overrides. Raises hydra's errors, and ValueError."""
    return configs.composed("train", [f"experiments={experiment}", "control=false", "run_dir=unused", *overrides])


def plan(ablation: Ablation, arm: Arm, seed: int, out: Path, extra: Sequence[str] = ()) -> Planned:
    """The run of an arm below `out`; `extra` overrides the recipe of every arm."""
    recipe, trained, asked = (
        dataclasses.replace(composed(ablation.experiment, (*extra, *more)), seed=seed)
        for more in ((), arm.train, (*arm.train, *arm.test))
    )
    directory = out / ablation.experiment.replace("/", ".") / (changed(recipe, trained) or "recipe") / str(seed)
    return Planned(directory, dataclasses.replace(trained, eval=NoEval()), asked, changed(trained, asked))


def changed(old: TrainConfig, new: TrainConfig) -> str:
    """What is different, short enough for the name of a directory: `beta=0.0,clip=0.0`; empty where nothing is."""
    differences = []
    for line in configs.changes(old, new):
        key, _, values = line.partition(" = ")
        now = values.rpartition(", now ")[2]
        if now != "None":  # else a value of a method that was replaced
            differences.append(f"{key.rpartition('.')[2]}={now}")
    return ",".join(differences).replace("/", "_").replace(" ", "")


def cost(cfg: TrainConfig) -> float:
    """FLOPs of a whole training, by `models/cost.py`."""
    lm = load.initial_model(cfg.model, cfg.seed).lm
    return float(cfg.steps * cfg.batch_size * models_cost.flops(lm, cfg.method.passes(cfg.data.length)))


# --- the sweep --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Job:
    """A run, and the configurations under which it is asked, by what they change."""

    directory: Path
    trained: TrainConfig
    asked: dict[str, TrainConfig]
    checkpoints: bool  # ask them all


def jobs(ablations: Sequence[Ablation], seeds: Sequence[int], out: Path, extra: Sequence[str] = ()) -> list[Job]:
    """The jobs of these ablations, each run once, in order of seeds."""
    planned: dict[Path, Job] = {}
    for seed in seeds:
        for ablation in ablations:
            for arm in ablation.arms.values():
                run = plan(ablation, arm, seed, out, extra)
                job = planned.setdefault(run.directory, Job(run.directory, run.trained, {}, False))
                asked = {**job.asked, run.test: run.asked}
                planned[run.directory] = dataclasses.replace(
                    job, asked=asked, checkpoints=job.checkpoints or ablation.checkpoints
                )
    return list(planned.values())


def work(job: Job) -> str:
    """Train and ask what is not done yet; returns a line with the outcome."""
    directory, started = job.directory, time.monotonic()
    name = f"{directory.parent.name}, seed {directory.name}"
    try:
        train(directory, job.trained)
    except NonFiniteLoss as error:
        (directory / DIVERGED).write_text(f"{error}\n", encoding="utf-8")
    if (directory / DIVERGED).is_file():
        return f"{name}: diverged"
    answers = [ask(directory, test, cfg, job.checkpoints) for test, cfg in job.asked.items()]
    shares = "  ".join(f"{row['way']} {row['accuracy']:.3f}" for row in answers[0][-len(measure.WAYS) :])
    return f"{name}: {shares}  ({time.monotonic() - started:.0f} s)"


def train(directory: Path, cfg: TrainConfig) -> None:
    """Train, or resume training, unless it is done. Raises ValueError where the directory holds another run."""
    if (directory / DONE).is_file() or (directory / DIVERGED).is_file():
        changes = configs.changes(configs.load(directory / "config.yaml"), cfg)
        if changes:
            raise ValueError(f"{directory} holds another run: {'; '.join(changes)}: choose another --out")
        return
    directory.mkdir(parents=True, exist_ok=True)
    with open(directory / "training.log", "a", encoding="utf-8") as log, contextlib.redirect_stdout(log):
        train_run.run(cfg, directory)
    (directory / DONE).touch()


def ask(directory: Path, test: str, cfg: TrainConfig, checkpoints: bool) -> list[dict]:
    """The answers of a finished run to the questions of `cfg`, with its method; only what is new is asked."""
    file = directory / ANSWERS
    known = frames.lines(file)
    answers = []
    for step in stored.saved_steps(directory) if checkpoints else [cfg.steps]:
        rows = [row for row in known if (row["step"], row["test"]) == (step, test)]
        if not rows:
            rows = [{"step": step, "test": test, **row} for row in answered(load.load_run(directory, step), cfg)]
            files.append(file, rows)
        answers += rows
    return answers


def answered(run: Run, cfg: TrainConfig) -> list[dict]:
    """A run's answers to the questions of `cfg`, a row for every task and every way of asking."""
    questions = dataclasses.replace(cfg.eval, thoughts=measure.WAYS)
    rows = _evaluator(questions, cfg.method, run)(jax.device_put(run.params), jax.random.key(cfg.seed))
    return [{**as_dict(row), "way": measure.NAMES[row.way]} for row in rows]


_EVALUATORS: dict[tuple, Evaluator] = {}  # by what their compiled programs depend on: seeds share them


def _evaluator(questions, method: Method, run: Run) -> Evaluator:
    key = (questions, method, run.lm)
    if key not in _EVALUATORS:
        _EVALUATORS[key] = Evaluator(questions, method, load.definition_for(run, method), run.tokenizer)
    return _EVALUATORS[key]


def collect(
    ablation: Ablation, seeds: Sequence[int], out: Path, extra: Sequence[str] = (), base: int = 0
) -> list[Result]:
    """What the runs of an ablation from one base answered; runs that are not finished are left out."""
    results = []
    for arm, said in ablation.arms.items():
        for seed in seeds:
            run = plan(ablation, said, seed, out, extra)
            who, spent = (ablation.name, arm, seed), cost(run.trained)
            if (run.directory / DIVERGED).is_file():
                results.append(Result(*who, run.trained.steps, spent, "diverged", base=base))
                continue
            for row in frames.lines(run.directory / ANSWERS):
                if row["test"] == run.test and (ablation.checkpoints or row["step"] == run.trained.steps):
                    reward = _reward(run.directory, row["step"])
                    scores = (row["way"], row["accuracy"], row["probability"], row["n"], reward, base)
                    results.append(Result(*who, row["step"], spent, *scores))
    return results


def _reward(directory: Path, step: int) -> float:
    """Of the last log line up to a step; nan for a method without rewards."""
    logged = frames.metrics(directory, "reward")
    return float(logged["reward"][logged["step"] <= step][-1])
