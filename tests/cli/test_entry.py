"""Which run directory `resume` and `tables` mean, for every command that has runs."""

import dataclasses
import os

import pytest
from small_runs import chosen, composed

from qstar import config as configs
from qstar.runs import iterations, label, solve
from qstar.runs.stored import TRAINING

KINDS = {kind.command: kind for kind in (TRAINING, iterations.KIND, solve.KIND, label.KIND)}
RESULTS = {"train": "checkpoints/5/state", "improve": "rationales/batch.parquet"}  # what makes a run one to resume
GIVEN = {"improve": ("model.source=bundled:cups",)}
OTHER = {"train": "optim=adamw", "improve": "task=cups", "solve": "label=truth", "label": "task=gsm8k"}


@pytest.fixture(scope="module", params=KINDS)
def kind(request):
    return KINDS[request.param]


@pytest.fixture(scope="module")
def saved(kind, tmp_path_factory):
    """Two runs of a kind; the second was started last."""
    runs = tmp_path_factory.mktemp(kind.command) / "runs"
    cfg = composed(*GIVEN.get(kind.command, ()), name=kind.command)
    for second, name in ((1000, "first"), (2000, "second")):
        directory = runs / name
        (directory / RESULTS.get(kind.command, "any")).mkdir(parents=True)
        configs.save(dataclasses.replace(cfg, seed=second), directory / kind.file)
        os.utime(directory / kind.file, (second, second))
    return runs / "second"


def test_resume_latest_is_the_newest_run_with_its_configuration(kind, saved, monkeypatch):
    monkeypatch.chdir(saved.parent.parent)
    cfg, directory = chosen(kind, "resume=latest", "name=again")
    assert directory.resolve() == saved
    assert cfg == dataclasses.replace(
        configs.load(saved / kind.file, ["name=again"], kind.schema), resume=str(directory)
    )
    assert cfg.seed == 2000


def test_a_resumed_run_does_not_take_another_choice_of_a_group(kind, saved):
    with pytest.raises(ValueError, match=f"{OTHER[kind.command]} with resume"):
        chosen(kind, f"resume={saved}", OTHER[kind.command])


def test_no_run_of_a_kind_names_the_command_that_starts_one(kind, tmp_path):
    with pytest.raises(FileNotFoundError, match=rf"{tmp_path}: .*qstar-{kind.command}"):
        kind.latest(tmp_path)


def test_a_directory_of_another_configuration_is_refused_with_what_differs(kind, saved):
    cfg = configs.load(saved / kind.file, schema=kind.schema)
    kind.claim(cfg, saved)
    with pytest.raises(ValueError, match=r"seed = 2000, now 7"):
        kind.claim(dataclasses.replace(cfg, seed=7), saved)
