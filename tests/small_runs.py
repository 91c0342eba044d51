"""Configurations of runs that take seconds, composed as the command line composes them."""

import json
from pathlib import Path

from hydra import compose, initialize_config_dir

from qstar import config as configs
from qstar.cli import entry
from qstar.paths import CONFIGS

ALPHABET = "12345abcdefghij=-;."
MODEL = (
    "model=scratch",
    f"model.tokenizer='characters:{ALPHABET}'",
    "model.width=16",
    "model.layers=1",
    "model.heads=2",
    "model.kv_heads=2",
    "model.head_size=8",
    "model.ff=20",
    "model.max_len=64",
)
"""A new model of the cups task's characters."""
RUN = ("batch_size=4", "method.thought_len=2", "optim.lr=0.01", "eval.items=6", "eval.batch_size=6")
"""The default experiment with little of everything."""


def composed(*overrides: str, name: str = "train"):
    """What `qstar-train` makes of these arguments."""
    configs.register()
    with initialize_config_dir(version_base="1.3", config_dir=CONFIGS):
        return configs.build(compose(name, list(overrides)))


def small(*overrides: str):
    """A tiny run of Quiet-STaR on the cups task."""
    return composed(*MODEL, *RUN, *overrides)


def chosen(kind, *overrides: str):
    """The configuration and directory of the run that these arguments of its command mean."""
    named = ("resume", "tables", "run_dir", *kind.groups)
    given = [override for override in overrides if override.partition("=")[0].partition(".")[0] in named]
    configs.register()
    with initialize_config_dir(version_base="1.3", config_dir=CONFIGS):
        node = compose(kind.command, given)
    return entry.chosen(kind, node, overrides, "tables" if node.get("tables") else "resume")


def lines(file: Path) -> list[dict]:
    """The records of a .jsonl file, without the clock and what depends on the machine."""
    records = [json.loads(line) for line in file.read_text().splitlines()]
    clock = lambda name: name == "time_s" or name.startswith("machine/")  # noqa: E731
    return [{name: value for name, value in record.items() if not clock(name)} for record in records]
