"""The directory of a self-training run: its configuration, the weights after each iteration, a line for each.

`runs/improve.py` writes it; what wants to ask the model of an iteration, or read what came out, starts here.
"""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from qstar import config as configs
from qstar import files
from qstar.config import ImproveConfig
from qstar.data import rationales
from qstar.models import lm
from qstar.models.sources import Pretrained
from qstar.policy import Policy
from qstar.runs import load

CONFIG = "improve.yaml"
LINES = "iterations.jsonl"
FIELDS = {"iteration": int, "accuracy": dict, "groups": dict}  # of every line


def latest(root: str | Path = "runs") -> Path:
    """The self-training under `root` that was started or gone on with last, of those that have sampled or asked.

    Raises FileNotFoundError where there is none.
    """
    started = list(Path(root).glob(f"**/{CONFIG}"))
    begun = [file for file in started if _has_something(file.parent)]
    if not begun:
        some = f", of {len(started)} that were started, has sampled or asked anything yet" if started else ""
        raise FileNotFoundError(
            f"no self-training under {Path(root).absolute()}{some}: start one with qstar-improve, or name a directory"
        )
    return max(begun, key=lambda file: (file.stat().st_mtime, str(file))).parent


def _has_something(directory: Path) -> bool:
    return (directory / LINES).is_file() or any(directory.glob(f"{rationales.FOLDER}/*.parquet"))


def claim(cfg: ImproveConfig, directory: Path) -> None:
    """Write the configuration, or check that the directory holds this run.

    More iterations, the test, what to do with overlong questions and the settings of the sandbox may be new.
    """
    file = directory / CONFIG
    if file.is_file():
        old = configs.load(file, schema=ImproveConfig)
        recipe = dataclasses.replace(old.improve, iterations=cfg.improve.iterations)
        same = dataclasses.replace(old, test=cfg.test, overlong=cfg.overlong, sandbox=cfg.sandbox, improve=recipe)
        changed = configs.changes(same, cfg)
        if changed:
            raise ValueError(
                f"{directory} holds a run of another configuration:\n  "
                + "\n  ".join(changed)
                + "\nchoose another run_dir"
            )
    files.make(directory)
    configs.save(dataclasses.replace(cfg, resume=""), file)


def fingerprint(base: Policy) -> str:
    """The same for the same weights, shape and tokenizer."""
    digest = hashlib.sha256(json.dumps(_shape(base.lm), sort_keys=True).encode())
    digest.update(base.tokenizer.to_json().encode())
    for leaf in jax.tree.leaves(base.language_model):
        digest.update(np.ascontiguousarray(leaf).view(np.uint8).data)
    return digest.hexdigest()[:16]


def _shape(shape: lm.LMConfig) -> dict:
    """What the weights mean, apart from how they are computed."""
    return {name: value for name, value in dataclasses.asdict(shape).items() if name not in lm.COMPUTED}


def lines(directory: Path) -> list[dict]:
    file = directory / LINES
    whole = files.lines(file, "the line of an iteration", **FIELDS)
    for number, line in enumerate(whole):
        if line.record["iteration"] != number:
            found = f"iteration {line.record['iteration']} in the place of iteration {number}"
            raise ValueError(f"{line.where}: {found}; {files.WAY_OUT}")
    return [_migrated(line.record) for line in whole]


def _migrated(line: dict) -> dict:
    """Lines of earlier versions: training and dev stood beside the ledger."""
    moved = {phase: line.pop(name) for name, phase in (("train", "train"), ("asked", "dev")) if name in line}
    return joined(line, {"ledger": moved})


def rewrite(directory: Path, lines: Sequence[dict]) -> None:
    files.write_records(directory / LINES, lines)


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
    found = (folder(directory, number) for number in range(iteration, -1, -1))
    return next((folder for folder in found if (folder / "config.yaml").is_file()), None)


def sampler(cfg: ImproveConfig, directory: Path, iteration: int, base: Policy | None = None) -> Policy:
    """The weights after this iteration; 0: the base, which is loaded where it is not given."""
    found = trained(directory, iteration)
    if found is None and base is not None:
        loaded = base
    else:
        loaded = load.initial_model(cfg.model if found is None else pretrained(cfg, found), cfg.seed)
    params = jax.device_put(loaded.language_model)
    name = "base" if found is None else found.name
    return Policy.of_language_model(loaded.lm, params, loaded.tokenizer, name, loaded.companions)


def pretrained(cfg: ImproveConfig, folder: Path) -> Pretrained:
    return Pretrained(str(folder), **{name: getattr(cfg.model, name) for name in lm.COMPUTED})
