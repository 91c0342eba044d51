"""The directory of a self-training run: its configuration, the weights after each iteration, a line for each.

`improvement.py` writes it; what wants to ask the model of an iteration, or read what came out, starts here.
"""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from qstar import config as configs
from qstar.answering import Sampler
from qstar.config import ImproveConfig
from qstar.models import lm
from qstar.runs import Loaded, Pretrained

CONFIG = "improve.yaml"
LINES = "iterations.jsonl"


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
    directory.mkdir(parents=True, exist_ok=True)
    configs.save(dataclasses.replace(cfg, resume=""), file)


def fingerprint(base: Loaded) -> str:
    """The same for the same weights, shape and tokenizer."""
    digest = hashlib.sha256(json.dumps(_shape(base.config), sort_keys=True).encode())
    digest.update(base.tokenizer.to_json().encode())
    for leaf in jax.tree.leaves(base.params):
        digest.update(np.ascontiguousarray(leaf).view(np.uint8).data)
    return digest.hexdigest()[:16]


def _shape(shape: lm.LMConfig) -> dict:
    """What the weights mean, apart from how they are computed."""
    return {name: value for name, value in dataclasses.asdict(shape).items() if name not in lm.COMPUTED}


def lines(directory: Path) -> list[dict]:
    file = directory / LINES
    if not file.is_file():
        return []
    return [_migrated(json.loads(line)) for line in file.read_text(encoding="utf-8").splitlines()]


def _migrated(line: dict) -> dict:
    """Lines of earlier versions: training and dev stood beside the ledger."""
    moved = {phase: line.pop(name) for name, phase in (("train", "train"), ("asked", "dev")) if name in line}
    return joined(line, {"ledger": moved})


def rewrite(directory: Path, lines: Sequence[dict]) -> None:
    fresh = directory / f"{LINES}.new"
    fresh.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    fresh.replace(directory / LINES)


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


def sampler(cfg: ImproveConfig, directory: Path, iteration: int, base: Loaded | None = None) -> Sampler:
    """The weights after this iteration; 0: the base, which is loaded where it is not given."""
    found = trained(directory, iteration)
    loaded = (base or cfg.model.load(cfg.seed)) if found is None else pretrained(cfg, found).load(cfg.seed)
    definition = lm.definition(loaded.config)
    return Sampler(loaded, definition, jax.device_put(loaded.params), "base" if found is None else found.name)


def pretrained(cfg: ImproveConfig, folder: Path) -> Pretrained:
    return Pretrained(str(folder), **{name: getattr(cfg.model, name) for name in lm.COMPUTED})
