"""`qstar-train`: which run is meant, and what it says when it cannot work."""

import dataclasses
import os
import re
import shutil
import sys
from pathlib import Path

import jax
import pytest
from hydra.core.global_hydra import GlobalHydra
from small_runs import MODEL, RUN, chosen, composed, lines, small

from qstar import config as configs
from qstar import train
from qstar.cli import entry
from qstar.runs import train as train_run
from qstar.runs.load import BUNDLED
from qstar.runs.stored import TRAINING
from qstar.training.loop import Interrupted


@pytest.fixture
def qstar_train(monkeypatch, tmp_path, capsys):
    """Runs the console script in an empty folder; gives its exit status, output and error output."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", jax.config.jax_compilation_cache_dir)
    monkeypatch.setenv("QSTAR_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("QSTAR_DATA", raising=False)

    def call(*arguments: str) -> tuple[int, str, str]:
        GlobalHydra.instance().clear()
        monkeypatch.setattr(sys, "argv", ["qstar-train", *arguments])
        try:
            train.main()
            status = 0
        except SystemExit as end:
            status = end.code
        finally:
            GlobalHydra.instance().clear()
        return status, *capsys.readouterr()

    return call


@pytest.fixture
def saved(tmp_path) -> Path:
    """A run directory as far as the choice of a run looks at it."""
    directory = tmp_path / "saved"
    directory.mkdir()
    configs.save(small("steps=5", "log_every=2", "optim.warmup_steps=3"), directory / "config.yaml")
    return directory


# --- which run ----------------------------------------------------------------------------------------------------


def test_a_new_run_is_what_was_given():
    assert chosen(TRAINING, "run_dir=runs/mine") == (composed("run_dir=runs/mine"), Path("runs/mine"))


def test_resume_takes_the_runs_configuration_and_single_values_of_the_command_line(saved):
    cfg, directory = chosen(TRAINING, f"resume={saved}", "steps=9", "mesh=fsdp", "method.delimiter=-")
    assert directory == saved
    assert (cfg.steps, cfg.mesh.fsdp, cfg.method.delimiter) == (9, -1, "-")
    assert (cfg.log_every, cfg.optim.warmup_steps) == (2, 3)


def test_resume_latest_is_the_run_started_last_and_not_its_control(saved, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for place in ("a/second", "b/first", "b/first/control", "a/second/control"):
        (tmp_path / "runs" / place / "checkpoints" / "5" / "state").mkdir(parents=True)
        file = tmp_path / "runs" / place / "config.yaml"
        file.write_bytes((saved / "config.yaml").read_bytes())
        os.utime(file, (2000, 2000) if "second" in place else (1000, 1000))
    _, directory = chosen(TRAINING, "resume=latest")
    assert directory == Path("runs/a/second")


@pytest.mark.parametrize("group", ["method=lm", "experiments=quiet_star/tiny", "optim=adamw", "~experiments"])
def test_resume_with_another_option_of_a_group_is_refused(saved, group):
    with pytest.raises(ValueError, match=f"{group} with resume: "):
        chosen(TRAINING, f"resume={saved}", group)


def test_resume_of_what_is_not_a_run_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=rf"resume={tmp_path}: .* no config.yaml"):
        chosen(TRAINING, f"resume={tmp_path}")


# --- the console script -------------------------------------------------------------------------------------------


def test_a_run_and_its_resumption_from_the_command_line(qstar_train, tmp_path):
    plain = [argument for argument in RUN if not argument.startswith("method.")]
    arguments = (*MODEL, *plain, "method=lm", "eval=none", "control=false", "name=mine", "steps=2")
    arguments = [argument for argument in arguments if not argument.startswith("eval.")]
    status, out, err = qstar_train(*arguments)
    assert (status, err) == (0, "")
    (directory,) = (tmp_path / "runs" / "mine").iterdir()
    assert f"Everything is in runs/mine/{directory.name}" in out
    assert {path.name for path in tmp_path.iterdir()} == {"cache", "runs"}  # nothing of Hydra's
    status, out, err = qstar_train("resume=latest", "steps=3")
    assert (status, err) == (0, "")
    assert f"resuming from step 2 of runs/mine/{directory.name}" in out
    assert [line["step"] for line in lines(directory / "metrics.jsonl")] == [1, 2, 3]
    assert configs.load(directory / "config.yaml").steps == 3


def test_every_job_of_a_sweep_has_its_own_directory(qstar_train, tmp_path, monkeypatch):
    started = []
    monkeypatch.setattr(train_run, "run", lambda cfg, directory: started.append((cfg.seed, directory)))
    status, _, err = qstar_train("-m", "seed=0,1")
    assert (status, err) == (0, "")
    (sweep,) = (tmp_path / "runs" / "tiny").iterdir()
    assert [(seed, directory.resolve()) for seed, directory in started] == [(0, sweep / "0"), (1, sweep / "1")]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("stesp=3",), "there is no setting stesp: did you mean steps=3"),
        (("steps=many",), "steps = many: expected a positive integer"),
        (
            ("method=quiet_stat",),
            r"there is no method=quiet_stat: did you mean method=quiet_star\?\nmethod is one of adaptive, ",
        ),
        (("+stesp=3",), "there is no setting stesp: did you mean steps"),
        (("optim.lr=nan",), "ValueError: optim.lr = nan: expected a positive number"),
        (("seed=-1",), "ValueError: seed = -1: expected"),
        (("experiments=foo",), r"there is no experiments=foo\nexperiments is one of\n  quiet_star/ablations\n"),
        (("run_dir=",), "ValueError: run_dir = '': expected a folder"),
        (("steps=0",), "ValueError: steps = 0: expected a positive integer"),
        (("data=text",), "ValueError: data.paths has no value: give data.paths=VALUE"),
        (("model.source=./absent",), "FileNotFoundError: no model at './absent'"),
        (("resume=latest",), "FileNotFoundError: no run under"),
        (("resume=absent",), "FileNotFoundError: resume=absent: .* no config.yaml"),
        (("eval=questions",), "FileNotFoundError: eval.gsm8k = '/gsm8k' is not a folder: set QSTAR_DATA"),
        (("experiments=quiet_star/smollm2_math",), "Environment variable 'QSTAR_DATA' not found"),
        (("mesh.data=16",), r"ValueError: mesh \(data, fsdp, tensor\) = \(16, 1, 1\) .* 16 devices, found 8"),
    ],
)
def test_a_mistake_is_one_message_and_status_1(qstar_train, tmp_path, arguments, message):
    status, out, err = qstar_train(*arguments)
    assert status == 1
    assert re.search(message, out + err)
    assert "Traceback" not in out + err
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(("damage", "message"), [("cut", "is damaged or cut short"), ("none", "has no .*safetensors")])
def test_damaged_weights_are_one_message_and_status_1(qstar_train, tmp_path, damage, message):
    model = tmp_path / "model"
    shutil.copytree(BUNDLED / "cups", model)
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000]) if damage == "cut" else weights.unlink()
    status, out, err = qstar_train(f"model.source={model}")
    assert status == 1
    assert [line for line in out.splitlines() if not line.endswith(" ...")] == []  # what was being done
    assert re.search(message, err) and str(model) in err
    assert err.strip().count("\n") <= 1
    assert not (tmp_path / "runs").exists()


# --- endings ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arm", ["", "control"])
def test_an_interrupted_run_says_how_to_resume(capsys, arm):
    with pytest.raises(SystemExit) as end, entry.errors():
        raise Interrupted(7, Path("runs/mine") / arm / "checkpoints")
    assert end.value.code == 130
    assert "interrupted after step 7" in (err := capsys.readouterr().err)
    assert err.endswith("Resume with  qstar-train resume=runs/mine\n")


def test_ctrl_c_outside_the_loop_is_not_a_traceback(capsys):
    with pytest.raises(SystemExit) as end, entry.errors():
        raise KeyboardInterrupt
    assert end.value.code == 130
    assert capsys.readouterr().err == "\ninterrupted\n"


def test_an_error_nobody_expected_keeps_its_traceback(monkeypatch):
    with pytest.raises(KeyError), entry.errors():
        raise KeyError("a bug")
    monkeypatch.setenv("QSTAR_TRACEBACK", "1")
    with pytest.raises(ValueError, match="shown in full"), entry.errors():
        raise ValueError("shown in full")


def test_a_lack_of_memory_is_a_message_with_ways_out(capsys):
    with pytest.raises(SystemExit) as end, entry.errors():
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 34359738368 bytes.")
    assert end.value.code == 1
    said = capsys.readouterr().err
    assert "allocating 34359738368 bytes" in said and "search.n" in said
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"), entry.errors():
        raise jax.errors.JaxRuntimeError("INTERNAL: a fault of ours")


def test_the_sizes_of_a_run_can_be_changed_only_where_they_are_legal(saved):
    cfg, _ = chosen(TRAINING, f"resume={saved}", "steps=7")
    assert dataclasses.replace(cfg, resume="", steps=5) == configs.load(saved / "config.yaml")
    with pytest.raises(ValueError, match="steps = 0: expected a positive integer"):
        chosen(TRAINING, f"resume={saved}", "steps=0")
