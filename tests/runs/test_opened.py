"""Run directories are found and runs, or refused with a reason."""

import dataclasses
import json
import os
import shutil

import numpy as np
import pytest
import run_folders
from small_runs import small

from qstar import config as configs
from qstar import runs
from qstar.methods.quiet_star import QuietStar
from qstar.models import lm as language_model
from qstar.models.thinker import Tokens
from qstar.runs import kinds, load, solve, stored
from qstar.sharding import MeshConfig, make_mesh
from qstar.training import build
from qstar.training.checkpoint import Checkpoints


@pytest.fixture(scope="module")
def run_directory(tmp_path_factory):
    """A run of no steps: its files, and the state it would begin with saved as step 1."""
    directory = tmp_path_factory.mktemp("run")
    cfg = small()
    loaded = runs.initial_model(cfg.model, cfg.seed)
    settings = (make_mesh(MeshConfig()), cfg.optim, cfg.steps, 1)
    program = build.Program.of(cfg.method, loaded.lm, *settings, vocabulary=loaded.tokenizer)
    runs.describe(directory, loaded.lm, loaded.tokenizer)
    configs.save(cfg, directory / "config.yaml")
    data = cfg.data.build(loaded.tokenizer, cfg.batch_size, cfg.seed)
    with Checkpoints(directory / "checkpoints", every=1, keep=1) as saved:
        saved.save(1, program.start(loaded.language_model, cfg.seed), build.stream(data))
    (directory / "metrics.jsonl").write_text('{"step": 1, "time_s": 0.5, "loss": 2.0}\n')
    return directory


@pytest.fixture
def copy(run_directory, tmp_path):
    return shutil.copytree(run_directory, tmp_path / "copy")


def test_an_opened_run_knows_its_method_model_tokenizer_and_step(run_directory):
    run = runs.load_run(run_directory)
    assert isinstance(run.method, QuietStar)
    assert run.definition.abstract_model.cfg.tokens == Tokens(delimiter=16)  # "-", the seventeenth character
    assert (run.lm.vocab, run.lm.width, run.step) == (19, 16, 1)
    assert run.tokenizer.decode([2, 5]) == "3a"
    assert run.config.batch_size == 4
    assert run.metrics == [{"step": 1, "time_s": 0.5, "loss": 2.0}]
    np.testing.assert_array_equal(run.params["start"], run.params["lm"]["embedding"][16])


def test_a_run_evaluated_with_another_method_has_the_tokens_of_that_method(run_directory):
    run = runs.load_run(run_directory)
    assert runs.definition_for(run, run.method) is run.definition
    dots = dataclasses.replace(run.method, fill="dots", dot="3", forbidden=("a",))
    cfg = runs.definition_for(run, dots).abstract_model.cfg
    assert cfg.tokens == Tokens(delimiter=16, dot=2, forbidden=(5,))
    assert dataclasses.replace(cfg, tokens=Tokens(delimiter=16)) == run.definition.abstract_model.cfg


def test_a_run_is_a_source_of_its_language_model(run_directory):
    loaded = runs.load_model(run_directory)
    language_model.definition(loaded.lm).check(loaded.language_model)
    np.testing.assert_array_equal(
        loaded.language_model["embedding"], runs.load_run(run_directory).params["lm"]["embedding"]
    )


def test_special_tokens_and_templates_of_its_model_go_along_through_a_run(copy, tmp_path):
    run = runs.load_run(copy)
    beside = {"tokenizer_config.json": '{"bos_token": "a"}', "chat_template.jinja": "{{ messages }}\n"}
    runs.describe(copy, run.lm, run.tokenizer, beside)
    loaded = runs.load_model(copy)
    assert loaded.companions == beside
    runs.save_huggingface(tmp_path / "hf", loaded)
    written = runs.load_model(tmp_path / "hf").companions
    assert written["chat_template.jinja"] == "{{ messages }}\n"
    assert json.loads(written["tokenizer_config.json"])["bos_token"] == "a"


def test_latest_is_the_newest_run_below_a_folder(run_directory, tmp_path, monkeypatch):
    for age, place in enumerate(("runs/b/1", "runs/a/2", "runs/a/2/control", "runs/c/interrupted", "runs/c/killed")):
        saved = {"runs/c/interrupted": ".", "runs/c/killed": "checkpoints/10.orbax-checkpoint-tmp-5/state"}
        (tmp_path / place / saved.get(place, "checkpoints/10/state")).mkdir(parents=True)
        file = tmp_path / place / "config.yaml"
        shutil.copyfile(run_directory / "config.yaml", file)
        os.utime(file, (1000 + age, 1000 + age))
    assert runs.latest_run(tmp_path) == tmp_path / "runs/a/2"
    monkeypatch.chdir(tmp_path)
    os.utime(tmp_path / "runs/b/1/config.yaml", (2000, 2000))
    assert str(runs.latest_run()) == "runs/b/1"


def test_no_run_at_all_says_where_was_looked(tmp_path):
    with pytest.raises(FileNotFoundError, match=rf"no run under {tmp_path}/absent: start one with qstar-train"):
        runs.latest_run(tmp_path / "absent")


def test_a_folder_that_is_not_a_run_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"is not a run directory \(no config.yaml in it\)"):
        runs.load_run(tmp_path)


def test_a_run_without_a_checkpoint_is_refused(copy):
    shutil.rmtree(copy / "checkpoints")
    with pytest.raises(FileNotFoundError, match=r"holds no committed checkpoint; .* get as far as its first save"):
        runs.load_run(copy)


def test_a_step_that_was_not_kept_names_those_that_were(run_directory):
    with pytest.raises(FileNotFoundError, match=r"has no checkpoint of step 7; there are \[1\]"):
        runs.load_run(run_directory, step=7)


@pytest.mark.parametrize(("name", "old", "new"), [("lm.json", "1e-05", "2e-01"), ("tokenizer.json", '"a"', '"Z"')])
def test_a_shape_or_a_tokenizer_that_was_changed_is_named(copy, name, old, new):
    """Either would be read without a word, and the weights as those of another model."""
    file = copy / name
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))
    message = rf"{name} holds other bytes than were written when the run began: .*, delete .*checksums.json"
    with pytest.raises(ValueError, match=message):
        runs.load_run(copy)


def test_weights_of_another_shape_than_the_run_says_are_refused(copy):
    (copy / "checksums.json").unlink()  # as a run of an earlier version
    file = copy / "lm.json"
    file.write_text(file.read_text().replace('"width": 16', '"width": 24'))
    with pytest.raises(
        ValueError,
        match=r"(?s)the weights of .*copy do not fit this model:.*lm/embedding is \(19, 16\), expected \(19, 24\)",
    ):
        runs.load_run(copy)


def test_a_tokenizer_that_is_gone_is_named(copy):
    (copy / "tokenizer.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"no tokenizer at .*copy/tokenizer.json"):
        runs.load_run(copy)


# --- the folder of a sweep ------------------------------------------------------------------------------------------


def test_runs_are_looked_for_in_folders_near_by(tmp_path):
    for place in ("a/b/c/d", "a/b/e"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "config.yaml").touch()
    assert "it holds at least 1 of them (a/b/e)" in kinds.held(tmp_path, "config.yaml")
    assert kinds.held(tmp_path / "a/b/e", "config.yaml") == kinds.held(tmp_path / "gone", "config.yaml") == ""


def test_a_file_is_no_run(tmp_path):
    make_run = tmp_path / "run"
    run_folders.train(make_run)
    file = make_run / "config.yaml"
    for opened in (load.load_run, stored.steps, lambda path: stored.RUN.check(path, f"resume={path}")):
        with pytest.raises(FileNotFoundError, match=r"config\.yaml.* is a file"):
            opened(file)


@pytest.mark.parametrize("command", ["train", "solve"])
def test_the_folder_of_a_sweep_is_answered_with_its_runs(tmp_path, command):
    kind, make = {"train": (stored.RUN, run_folders.train), "solve": (solve.KIND, run_folders.search)}[command]
    for number in range(3):
        make(tmp_path / str(number))
        os.utime(tmp_path / str(number) / kind.file, (100 + number % 2, 100 + number % 2))
    expected = rf"it holds at least 3 of them \(0, 1, 2\): name one, such as {tmp_path / '1'}, the newest"
    with pytest.raises(FileNotFoundError, match=rf"resume={tmp_path}: .* has no {kind.file}; {expected}"):
        kind.check(tmp_path, f"resume={tmp_path}")
    if command == "train":
        for opened in (load.load_run, load.load_model, load.load_scorer, stored.steps):
            with pytest.raises(FileNotFoundError, match=expected):
                opened(tmp_path)
