"""Ablations as their files say them: arms by name, each a run with changes.

    title: Thought length
    reference: "8"                         # the arm that the others are held against
    experiment: quiet_star/ablations       # the recipe that the arms change; this one where nothing is said
    checkpoints: false                     # ask every checkpoint instead of the last one
    arms:
      "8": []                              # overrides as for qstar-train; none: the recipe itself
      "4": [method.thought_len=4]
      "8, tested with 4": {test: [method.thought_len=4]}  # trained as `train` says (here: the recipe), asked otherwise

Arms with the same training, in whatever files, are one run.
"""

import dataclasses
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from qstar import config as configs
from qstar import runs
from qstar.config import TrainConfig
from qstar.evals.suite import NoEval
from qstar.models import cost as models_cost
from qstar.paths import CONFIGS

HERE = Path(__file__).resolve().parent
RECIPE = "quiet_star/ablations"


@dataclass(frozen=True)
class Arm:
    """Overrides of the recipe: in training, and besides them when the trained model is asked."""

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
class Run:
    """An arm with one seed: how it is trained and where, and how it is asked."""

    directory: Path
    trained: TrainConfig  # asks nothing while it trains
    asked: TrainConfig
    test: str  # what differs when it is asked, as in `changed`


def shipped() -> list[str]:
    """Names of the ablations in this directory."""
    return sorted(file.stem for file in HERE.glob("*.yaml"))


def read(name: str) -> Ablation:
    """The ablation of that name in this directory, or in a file with that path.

    Raises FileNotFoundError where there is none, ValueError for a file that is no ablation.
    """
    file = Path(name) if name.endswith(".yaml") else HERE / f"{name}.yaml"
    if not file.is_file():
        raise FileNotFoundError(f"no ablation {name!r}: give a .yaml file or one of {', '.join(shipped())}")
    contents = OmegaConf.to_container(OmegaConf.load(file))
    fields = {one.name for one in dataclasses.fields(Ablation)} - {"name"}
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
        raise ValueError(f"{where}: {sorted(wrong)}: a list of overrides, or train and test, is wanted")
    return Arm(*(tuple(parts.get(name, ())) for name in ("train", "test")))


# --- configurations -----------------------------------------------------------------------------------------------


@functools.cache
def composed(experiment: str, overrides: tuple[str, ...]) -> TrainConfig:
    """What `qstar-train` makes of a recipe with these overrides. Raises hydra's errors, and ValueError."""
    configs.register()
    arguments = [f"experiments={experiment}", "control=false", "run_dir=unused", *overrides]
    with initialize_config_dir(version_base="1.3", config_dir=CONFIGS):
        return configs.build(compose("train", arguments))


def run(ablation: Ablation, arm: Arm, seed: int, out: Path, extra: Sequence[str] = ()) -> Run:
    """The run of an arm below `out`; `extra` overrides the recipe of every arm."""
    recipe, trained, asked = (
        dataclasses.replace(composed(ablation.experiment, (*extra, *more)), seed=seed)
        for more in ((), arm.train, (*arm.train, *arm.test))
    )
    directory = out / ablation.experiment.replace("/", ".") / (changed(recipe, trained) or "recipe") / str(seed)
    return Run(directory, dataclasses.replace(trained, eval=NoEval()), asked, changed(trained, asked))


def changed(old: TrainConfig, new: TrainConfig) -> str:
    """What is different, short enough for the name of a directory: `beta=0.0,clip=0.0`; empty where nothing is."""
    found = []
    for line in configs.changes(old, new):
        key, _, values = line.partition(" = ")
        now = values.rpartition(", now ")[2]
        if now != "None":  # else a value of a method that was replaced
            found.append(f"{key.rpartition('.')[2]}={now}")
    return ",".join(found).replace("/", "_").replace(" ", "")


# --- cost ---------------------------------------------------------------------------------------------------------


def cost(cfg: TrainConfig) -> float:
    """FLOPs of a whole training, by `models/cost.py`."""
    lm = runs.initial_model(cfg.model, cfg.seed).config
    return float(cfg.steps * cfg.batch_size * models_cost.flops(lm, cfg.method.passes(cfg.data.length)))
