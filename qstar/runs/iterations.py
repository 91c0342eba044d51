"""The directory of a self-training run: its configuration, the weights after each iteration, a line for each.

`runs/improve.py` writes it; code that uses the model of an iteration, or reads its results, starts here.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from qstar import config as configs
from qstar import files
from qstar.config import ImproveConfig
from qstar.data import rationales
from qstar.data.rationales import Store
from qstar.models import lm
from qstar.models.origins import Pretrained
from qstar.policy import Policy
from qstar.recipes.catalog import made
from qstar.reports import summaries, tables
from qstar.runs import load, stored, train
from qstar.runs.kinds import Kind
from qstar.sharding import MeshConfig
from qstar.training import console, metrics
from qstar.training.metrics import Rows, Sinks

LINES = "iterations.jsonl"
SHOWN = ("question", "hint", "written", "answer", "correct", "reason")  # of a sample, in a table for a sink
MOST = 200  # samples of an iteration in such a table
FIELDS = {"iteration": int, "accuracy": dict, "groups": dict}  # of every line


def _has_results(directory: Path) -> bool:
    return (directory / LINES).is_file() or any(directory.glob(f"{rationales.FOLDER}/*.parquet"))


KIND = Kind(
    "improve",
    "self-training run",
    ImproveConfig,
    "improve.yaml",
    groups=("mesh",),
    free=("test", "overlong", "sandbox", "sinks", "mesh"),
    has_results=_has_results,
)


def claim(cfg: ImproveConfig, directory: Path) -> None:
    """Write the configuration, or check that the directory holds this run; more iterations may be new."""

    def comparable(each: ImproveConfig) -> ImproveConfig:
        recipe = made(dataclasses.replace(each.improve, iterations=cfg.improve.iterations))
        return dataclasses.replace(each, improve=recipe)

    KIND.claim(cfg, directory, comparable)


def lines(directory: Path) -> list[dict]:
    file = directory / LINES
    whole = files.lines(file, "the line of an iteration", **FIELDS)
    for number, line in enumerate(whole):
        if line.record["iteration"] != number:
            difference = f"iteration {line.record['iteration']} in the place of iteration {number}"
            raise ValueError(f"{line.where}: {difference}; {files.WAY_OUT}")
    return [_migrated(line.record) for line in whole]


def _migrated(line: dict) -> dict:
    """Lines of earlier versions: training and dev were next to the ledger."""
    moved = {phase: line.pop(name) for name, phase in (("train", "train"), ("asked", "dev")) if name in line}
    return joined(line, {"ledger": moved})


def rewrite(directory: Path, lines: Sequence[dict]) -> None:
    files.write_records(directory / LINES, lines)


def finish(directory: Path, line: dict) -> None:
    """Write the line of an iteration, which is done then, and show it: in a terminal the table of all of them."""
    done = [*lines(directory), line]
    rewrite(directory, done)
    if console.console().is_interactive:
        console.console().print(summaries.progress(done))
    else:
        console.console().print(_told(line), markup=False)


def show(sinks: Sinks, directory: Path, lines: Sequence[dict]) -> None:
    """The figures of every iteration, and its samples as tables."""
    if not sinks:
        return
    sinks.open(0)
    for line in lines:
        sinks.write(line["iteration"], metrics.numbers(line))
        if (directory / rationales.FOLDER).is_dir():
            store = Store.open(directory / rationales.FOLDER)
            rows = store.rows(rationales.of_iteration(line["iteration"]), list(SHOWN)).to_pylist()
            if rows:
                table = Rows(SHOWN, [[row[name] for name in SHOWN] for row in rows[:MOST]])
                sinks.table(line["iteration"], "rationales", table)


def _told(line: dict) -> str:
    said = f"iteration {line['iteration']}: {tables.share(line['accuracy'])} dev problems"
    if len(line["groups"]) > 1:
        said += " (" + ", ".join(f"{name}: {share['share']:.2f}" for name, share in line["groups"].items()) + ")"
    if "sampled" in line:
        said += (
            f"; {line['right']}/{line['sampled']} samples right, {line['right_hinted']}/{line['hinted']} with a hint"
        )
    if "overlong" in line:
        counts = ", ".join(f"{count} {split}" for split, count in line["overlong"].items())
        said += f"; left out, longer than the model can read: {counts} questions"
    if "wrong_hints" in line:
        said += f"; {line['wrong_hints']['followed']}/{line['wrong_hints']['asked']} wrong hints followed"
    if line.get("mismatch"):
        said += f"; sampler and trainer {line['mismatch']['largest']:.1e} nats apart at most"
    return said


def joined(line: dict, more: dict) -> dict:
    """Both, their ledgers joined."""
    return line | more | {"ledger": line.get("ledger", {}) | more.get("ledger", {})}


# --- weights ------------------------------------------------------------------------------------------------------


def folder(directory: Path, iteration: int) -> Path:
    return directory / f"iteration_{iteration}"


def trained(directory: Path, iteration: int) -> Path | None:
    """The newest training up to this iteration; None for the base. One that had nothing to learn trained nothing.

    Iteration 0 is the fine-tuning on human rationales, where a recipe samples from that first.
    """
    folders = (folder(directory, number) for number in range(iteration, -1, -1))
    return next((folder for folder in folders if (folder / "config.yaml").is_file()), None)


def sampler(cfg: ImproveConfig, directory: Path, iteration: int, base: Policy | None = None) -> Policy:
    """The weights after this iteration; 0: the base, which is loaded where it is not given."""
    training = trained(directory, iteration)
    if training is None and base is not None:
        loaded = base
    else:
        loaded = load.initial_model(cfg.model if training is None else pretrained(cfg, training), cfg.seed)
    return dataclasses.replace(loaded.plain(), name="base" if training is None else training.name)


class Policies:
    """The models of a run, requested in the order of its iterations: each is read once, and the newest is held."""

    def __init__(self, cfg: ImproveConfig, directory: Path, base: Policy):
        self._cfg, self._directory, self._base = cfg, directory, base
        self._held: tuple[Path | None, Policy] | None = None

    def after(self, iteration: int) -> Policy:
        """Of this iteration, which is the one before where it trained nothing."""
        folder = trained(self._directory, iteration)
        if self._held is None or self._held[0] != folder:
            self._held = None  # its memory is free before the next one is read
            self._held = folder, sampler(self._cfg, self._directory, iteration, self._base)
        return self._held[1]


def train_again(directory: Path, iteration: int, mesh: MeshConfig) -> None:
    """Train again for the weights after an iteration, where its checkpoint was put aside."""
    folder = trained(directory, iteration)
    if folder is not None and not stored.saved_steps(folder):
        console.say(f"{folder} has no checkpoint: it is trained again on the examples stored then")
        train.run(dataclasses.replace(configs.load(folder / "config.yaml"), mesh=mesh), folder)


def pretrained(cfg: ImproveConfig, folder: Path) -> Pretrained:
    return Pretrained(str(folder), **{name: getattr(cfg.model, name) for name in lm.COMPUTED})
