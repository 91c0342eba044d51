"""Whole runs with low-rank adapters: what they write, resumed bit for bit, runs, exported, refused."""

import json
import shutil

import jax
import numpy as np
import pytest
import safetensors.numpy
import small_runs
from tolerances import rounding

from qstar import prepare, runs
from qstar.runs import train
from qstar.training import checkpoint

SETTINGS = ("lora.rank=2", "lora.alpha=4", "lora.targets=[query,down]", "steps=3", "save_every=1", "control=false")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A language model on disk to adapt, with the tokenizer of the task."""
    path = tmp_path_factory.mktemp("source") / "model"
    cfg = small_runs.small()
    runs.save_huggingface(path, runs.initial_model(cfg.model, 0))
    return path


def of_source(source, *overrides):
    run = [one for one in small_runs.RUN if not ("method=lm" in overrides and one.startswith("method."))]
    return small_runs.composed(
        "model=pretrained",
        f"model.source={source}",
        *run,
        *SETTINGS,
        "eval=none",
        "sample_every=0",
        *overrides,
    )


@pytest.fixture(scope="module")
def finished(source, tmp_path_factory):
    directory = tmp_path_factory.mktemp("run") / "run"
    train.run(of_source(source), directory)
    return directory


def assert_same(found, wanted):
    jax.tree.map(np.testing.assert_array_equal, found, wanted)


def test_the_language_model_is_kept_once_and_checkpoints_hold_what_trains(finished, source):
    run = runs.load_run(finished)
    assert set(run.params) == {"lm", "start", "end", "mixing", "lora"}
    assert_same(run.params["lm"], runs.load_model(source).language_model)
    assert set(run.params["lora"]) == {"query", "down"}
    assert np.any(run.params["lora"]["query"]["b"])
    with checkpoint.Checkpoints(finished / "checkpoints", every=1, keep=9) as saved:
        assert set(saved.load_params()) == {"start", "end", "mixing", "lora"}
    assert (finished / "frozen").is_dir() and not (finished / "frozen.json").exists()


def test_a_run_says_how_much_trains(source, tmp_path, capsys):
    train.run(of_source(source, "steps=1", "method=lm"), tmp_path / "run")
    # Rank 2 times the inputs and outputs of query, 16 and 16, and of down, 20 and 16; the model is 1,968 - and a norm.
    said = capsys.readouterr().out
    assert "136 of " in said and " weights train; held over all devices, in MiB: frozen " in said


def test_a_run_that_was_stopped_resumes_bit_for_bit(finished, source, tmp_path):
    train.run(of_source(source, "steps=1"), tmp_path)
    train.run(of_source(source, f"resume={tmp_path}"), tmp_path)
    assert_same(runs.load_run(tmp_path).params, runs.load_run(finished).params)
    assert small_runs.lines(tmp_path / "metrics.jsonl") == small_runs.lines(finished / "metrics.jsonl")


def test_a_run_that_keeps_no_base_resumes_bit_for_bit(source, tmp_path):
    settings = ("method=lm", "lora.keep_base=false")
    train.run(of_source(source, *settings), tmp_path / "straight")
    train.run(of_source(source, *settings, "steps=1"), tmp_path / "stopped")
    train.run(of_source(source, *settings, f"resume={tmp_path}/stopped"), tmp_path / "stopped")
    straight, stopped = (runs.load_run(tmp_path / name).params for name in ("straight", "stopped"))
    assert_same(stopped, straight)
    assert not (tmp_path / "stopped" / "frozen").exists()


def test_a_kept_base_makes_the_run_independent_of_its_source(source, tmp_path):
    moved = shutil.copytree(source, tmp_path / "model")
    train.run(of_source(moved, "method=lm"), tmp_path / "run")
    wanted = runs.load_run(tmp_path / "run").params
    shutil.rmtree(moved)
    assert_same(runs.load_run(tmp_path / "run").params, wanted)


def test_without_a_kept_base_another_model_at_the_source_is_refused(source, tmp_path):
    moved = shutil.copytree(source, tmp_path / "model")
    train.run(of_source(moved, "method=lm", "lora.keep_base=false"), tmp_path / "run")
    before = runs.load_run(tmp_path / "run").params
    assert_same({name: part for name, part in before.items() if name != "lora"}, runs.load_model(source).language_model)
    file = moved / "model.safetensors"
    tensors = safetensors.numpy.load_file(file)
    tensors["model.norm.weight"][0] += 2.0**-20
    safetensors.numpy.save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(
        ValueError, match=r"kept no copy \(lora.keep_base=false\), and model.source has other weights now"
    ):
        runs.load_run(tmp_path / "run")
    with pytest.raises(ValueError, match=r"model.source has other weights now"):
        train.run(
            of_source(moved, "method=lm", "lora.keep_base=false", "steps=4", f"resume={tmp_path}/run"), tmp_path / "run"
        )


def test_a_base_in_bfloat16_is_kept_in_it(source, tmp_path):
    train.run(of_source(source, "method=lm", "lora.base=bfloat16", "steps=1"), tmp_path / "run")
    run = runs.load_run(tmp_path / "run")
    assert run.params["blocks"]["query"].dtype.name == "bfloat16"
    assert runs.load_model(tmp_path / "run").language_model["blocks"]["query"].dtype == np.float32


def test_exports_merged_and_apart_are_the_same_model_with_the_methods_weights_beside(finished, tmp_path, capsys):
    for to in ("huggingface", "adapter"):
        prepare.main([str(finished), str(tmp_path / to), "--to", to])
    assert f"wrote {tmp_path / 'adapter'} (adapter, float32)" in capsys.readouterr().out
    merged, apart = (runs.load_model(tmp_path / to) for to in ("huggingface", "adapter"))
    assert_same(merged.params, apart.params)
    assert_same(merged.params, runs.load_model(finished).language_model)
    assert merged.tokenizer.to_json() == apart.tokenizer.to_json()
    run = runs.load_run(finished)
    scale, adapter = 4 / 2, run.params["lora"]["down"]
    change = scale * adapter["a"][0] @ adapter["b"][0]
    np.testing.assert_allclose(
        merged.params["blocks"]["down"][0] - run.params["lm"]["blocks"]["down"][0], change, rtol=0, atol=rounding(4 + 2)
    )
    assert np.abs(change).max() > 1e-4
    for to in ("huggingface", "adapter"):
        extras = safetensors.numpy.load_file(tmp_path / to / "thinker.safetensors")
        assert set(extras) == {"start", "end"} | {
            f"mixing.{name}" for name in ("first", "first_bias", "second", "second_bias", "last")
        }
        np.testing.assert_array_equal(extras["mixing.first"], run.params["mixing"]["first"])
    names = sorted(path.name for path in (tmp_path / "adapter").iterdir())
    assert names == ["adapter_config.json", "adapter_model.safetensors", "thinker.safetensors"]
    written = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert sorted(written["target_modules"]) == ["down_proj", "q_proj"]


def test_runs_without_adapters_or_without_a_base_have_none_to_export(tmp_path, source):
    train.run(
        small_runs.composed(*small_runs.MODEL, *SETTINGS, "eval=none", "batch_size=4", "method=lm", "steps=1"),
        tmp_path / "scratch",
    )
    with pytest.raises(SystemExit, match="scratch is a model from scratch: write it with --to huggingface"):
        prepare.main([str(tmp_path / "scratch"), str(tmp_path / "out"), "--to", "adapter"])
    plain = small_runs.composed(*small_runs.MODEL, "eval=none", "batch_size=4", "method=lm", "steps=1", "control=false")
    train.run(plain, tmp_path / "plain")
    with pytest.raises(SystemExit, match=r"plain is trained without adapters \(lora.rank = 0\)"):
        prepare.main([str(tmp_path / "plain"), str(tmp_path / "out"), "--to", "adapter"])
    with pytest.raises(SystemExit, match="is not a run directory"):
        prepare.main([str(source), str(tmp_path / "out"), "--to", "adapter"])
    assert not (tmp_path / "out").exists()


def test_a_target_is_refused_before_anything_is_written(source, tmp_path):
    with pytest.raises(ValueError, match=r"lora.targets = \('q_proj',\): name some of query, key, value"):
        of_source(source, "lora.targets=[q_proj]")
    assert of_source(source, "lora.targets=[all]").lora.targets == ("all",)


def test_a_directory_with_frozen_weights_and_no_run_is_left_alone(source, tmp_path):
    (tmp_path / "run" / "frozen").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"holds frozen but no config\.yaml: choose another run_dir"):
        train.run(of_source(source, "method=lm"), tmp_path / "run")
