import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from qstar import prepare, runs
from qstar.data import tokenizer as tokenizers
from qstar.models import hf

GOLDEN = Path(__file__).parent / "golden" / "llama_gqa_untied"
ALPHABET = "".join(chr(33 + i) for i in range(48))


@pytest.fixture
def source(tmp_path):
    """The golden model with a tokenizer of its 48 tokens."""
    path = Path(shutil.copytree(GOLDEN, tmp_path / "source"))
    (path / "tokenizer.json").write_text(tokenizers.characters(ALPHABET).to_json(), encoding="utf-8")
    return path


def convert(capsys, *arguments):
    prepare.main([str(argument) for argument in arguments])
    return capsys.readouterr().out


def test_a_huggingface_directory_is_loaded_with_its_tokenizer(source):
    model = runs.load_model(source)
    assert model.config.heads == 4
    assert model.tokenizer.encode("!#") == [0, 2]
    assert model.source == str(source)
    np.testing.assert_array_equal(model.params["embedding"], hf.read_directory(GOLDEN)[1]["embedding"])


def test_checkpoint_and_back_to_huggingface_keeps_every_bit(source, tmp_path, capsys):
    out = convert(capsys, source, tmp_path / "ckpt")
    # 2 x 48 x 16 embedded, a norm of 16, and twice 2 norms, q and o 16 x 16, k and v 16 x 8, three of 16 x 24.
    assert "5,456 parameters, 2 layers of width 16, 48 tokens" in out
    assert f"wrote {tmp_path / 'ckpt'} (checkpoint, float32)" in out
    convert(capsys, tmp_path / "ckpt", tmp_path / "hf", "--to", "huggingface")
    original, final = runs.load_model(source), runs.load_model(tmp_path / "hf")
    assert final.config == original.config
    assert final.tokenizer.to_json() == original.tokenizer.to_json()
    jax.tree.map(np.testing.assert_array_equal, final.params, original.params)


def test_bfloat16_halves_the_files_and_loads_as_float32(source, tmp_path, capsys):
    convert(capsys, source, tmp_path / "ckpt", "--dtype", "bfloat16")
    convert(capsys, source, tmp_path / "hf", "--dtype", "bfloat16", "--to", "huggingface")
    exact, half = runs.load_model(source).params["embedding"], runs.load_model(tmp_path / "ckpt").params["embedding"]
    assert half.dtype == np.float32
    assert 0 < np.abs(half / exact - 1).max() <= 2.0**-8  # eight bits of mantissa
    np.testing.assert_array_equal(half, runs.load_model(tmp_path / "hf").params["embedding"])
    whole, halved = (path / "model.safetensors" for path in (source, tmp_path / "hf"))
    assert halved.stat().st_size < 0.6 * whole.stat().st_size


def test_an_output_directory_that_holds_something_is_left_alone(source, tmp_path):
    before = sorted(path.name for path in source.iterdir())
    for out in (source, source / "config.json"):
        with pytest.raises(SystemExit, match="exists and is not empty: name a new directory"):
            prepare.main([str(tmp_path / "nowhere"), str(out)])
    assert sorted(path.name for path in source.iterdir()) == before


def test_errors_are_one_line_of_the_program(tmp_path):
    with pytest.raises(SystemExit, match=r"^qstar-prepare: no model at '.*'; a model is one of\n  bundled:NAME"):
        prepare.main([str(tmp_path / "absent"), str(tmp_path / "out")])


def test_help_comes_without_importing_jax():
    code = """
import sys
from qstar import prepare
try:
    prepare.main(["--help"])
finally:
    assert "jax" not in sys.modules and "numpy" not in sys.modules
"""
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    run = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert "qstar-prepare models/smollm2 export/smollm2 --to huggingface --dtype bfloat16" in run.stdout


def test_bundled_models_are_found_by_name(source, tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "BUNDLED", tmp_path / "bundled")
    with pytest.raises(ValueError, match="no bundled model 'tiny'; there are: none in this installation"):
        runs.load_model("bundled:tiny")
    shutil.copytree(source, tmp_path / "bundled" / "tiny")
    assert runs.load_model("bundled:tiny").config.width == 16
    with pytest.raises(ValueError, match=r"no bundled model '\.\./source'; there are: tiny"):
        runs.load_model("bundled:../source")


def test_hub_models_are_fetched_once_named_either_way(source, monkeypatch):
    asked = []
    monkeypatch.setattr(hf, "fetch", lambda name: asked.append(name) or source)
    assert runs.load_model("hub:some/model").config.width == 16
    assert runs.load_model("some/model").source == "some/model"
    assert asked == ["some/model", "some/model"]


@pytest.mark.parametrize("absent", ["./some/model", "/some/model", "some/deep/model", "model", "../model"])
def test_paths_that_do_not_exist_are_not_asked_of_the_hub(absent, monkeypatch):
    monkeypatch.setattr(hf, "fetch", lambda name: pytest.fail(f"fetched {name}"))
    with pytest.raises(FileNotFoundError, match=f"no model at '{absent}'; a model is one of"):
        runs.load_model(absent)


def test_files_and_directories_that_are_no_model_say_what_is_accepted(tmp_path):
    (tmp_path / "weights.pt").write_bytes(b"0")
    with pytest.raises(ValueError, match=r"weights\.pt is a file, but no \.gguf or \.bin; a model is one of"):
        runs.load_model(tmp_path / "weights.pt")
    with pytest.raises(FileNotFoundError, match=r"holds neither a config\.json nor a model\.json"):
        runs.load_model(tmp_path)


def test_a_tokenizer_that_does_not_fit_the_model_is_refused(source):
    larger = tokenizers.characters(ALPHABET + "é").to_json()
    (source / "tokenizer.json").write_text(larger, encoding="utf-8")
    with pytest.raises(ValueError, match="source: the tokenizer has ids up to 48, the model embeds only 48 tokens"):
        runs.load_model(source)


def test_a_model_without_tokenizer_is_refused(source):
    (source / "tokenizer.json").unlink()
    with pytest.raises(FileNotFoundError, match="no tokenizer at"):
        runs.load_model(source)


def test_prepared_directories_of_another_format_or_model_are_refused(source, tmp_path, capsys):
    convert(capsys, source, tmp_path / "ckpt")
    file = tmp_path / "ckpt" / "model.json"
    contents = json.loads(file.read_text())
    assert contents["format"] == 1
    file.write_text(json.dumps(contents | {"format": 99}))
    with pytest.raises(ValueError, match="is of format 99, this qstar reads 1; run qstar-prepare again"):
        runs.load_model(tmp_path / "ckpt")
    file.write_text(json.dumps(contents | {"model": contents["model"] | {"ff": 32}}))
    with pytest.raises(ValueError, match=r"blocks/gate is \(2, 16, 24\), wanted \(2, 16, 32\)"):
        runs.load_model(tmp_path / "ckpt")
