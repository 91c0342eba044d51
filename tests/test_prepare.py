import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from qstar import files, prepare, runs
from qstar.data import tokenizer as tokenizers
from qstar.models.formats import hf, hub
from qstar.policy import Policy
from qstar.runs import load

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
    assert model.lm.heads == 4
    assert model.tokenizer.encode("!#") == [0, 2]
    assert model.name == str(source)
    np.testing.assert_array_equal(model.params["embedding"], hf.read_directory(GOLDEN)[1]["embedding"])


def test_checkpoint_and_back_to_huggingface_keeps_every_bit(source, tmp_path, capsys):
    out = convert(capsys, source, tmp_path / "ckpt")
    # 2 x 48 x 16 embedded, a norm of 16, and twice 2 norms, q and o 16 x 16, k and v 16 x 8, three of 16 x 24.
    assert "5,456 parameters, 2 layers of width 16, 48 tokens" in out
    assert f"wrote {tmp_path / 'ckpt'} (checkpoint, float32)" in out
    convert(capsys, tmp_path / "ckpt", tmp_path / "hf", "--to", "huggingface")
    original, final = runs.load_model(source), runs.load_model(tmp_path / "hf")
    assert final.lm == original.lm
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


@pytest.mark.parametrize("kind", ["checkpoint", "huggingface", "trl"])
def test_an_output_directory_that_another_process_writes_is_left_alone(source, tmp_path, kind):
    with files.locked(tmp_path / "out"):
        with pytest.raises(SystemExit, match=r"out is being written by process \d+"):
            prepare.main([str(source), str(tmp_path / "out"), "--to", kind])
    assert not (tmp_path / "out").exists()


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
    monkeypatch.setattr(load, "BUNDLED", tmp_path / "bundled")
    with pytest.raises(ValueError, match="no bundled model 'tiny'; there are: none in this installation"):
        runs.load_model("bundled:tiny")
    shutil.copytree(source, tmp_path / "bundled" / "tiny")
    assert runs.load_model("bundled:tiny").lm.width == 16
    with pytest.raises(ValueError, match=r"no bundled model '\.\./source'; there are: tiny"):
        runs.load_model("bundled:../source")


def test_hub_models_are_fetched_once_named_either_way(source, monkeypatch):
    asked = []
    monkeypatch.setattr(hub, "fetch", lambda name: asked.append(name) or source)
    assert runs.load_model("hub:some/model").lm.width == 16
    assert runs.load_model("some/model").name == "some/model"
    assert asked == ["some/model", "some/model"]


def test_a_prepared_model_is_opened_from_the_hub_as_from_a_directory(source, tmp_path, monkeypatch):
    prepare.prepare(str(source), tmp_path / "out", "checkpoint", "float32")
    monkeypatch.setattr(hub, "fetch", lambda name: tmp_path / "out")
    for name in ("hub:some/model", "some/model"):
        assert runs.load_model(name).lm == runs.load_model(tmp_path / "out").lm


@pytest.mark.parametrize("absent", ["./some/model", "/some/model", "some/deep/model", "model", "../model"])
def test_paths_that_do_not_exist_are_not_fetched_from_the_hub(absent, monkeypatch):
    monkeypatch.setattr(hub, "fetch", lambda name: pytest.fail(f"fetched {name}"))
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
    with pytest.raises(ValueError, match=r"blocks/gate is \(2, 16, 24\), expected \(2, 16, 32\)"):
        runs.load_model(tmp_path / "ckpt")


# --- special tokens, chat templates, generation -------------------------------------------------------------------


BESIDE = {
    "tokenizer_config.json": {
        "tokenizer_class": "LlamaTokenizer",
        "add_bos_token": True,
        "bos_token": {"__type": "AddedToken", "content": "!", "special": True},
        "eos_token": '"',
        "added_tokens_decoder": {"0": {"content": "!"}},
        "chat_template": [{"name": "default", "template": "{{ messages }}"}, {"name": "tools", "template": "\u2028"}],
    },
    "special_tokens_map.json": {"bos_token": "!", "additional_special_tokens": ["#"]},
    "generation_config.json": {"eos_token_id": [1, 3], "bos_token_id": 0, "pad_token_id": 2, "temperature": 0.6},
}
TEMPLATE = "{% for message in messages %}\n  {{ message['content'] }}é\n{% endfor %}"


def contents_of(path):
    return {name: json.loads((path / name).read_text(encoding="utf-8")) for name in BESIDE}


@pytest.fixture
def chat(source):
    for name, contents in BESIDE.items():
        (source / name).write_text(json.dumps(contents), encoding="utf-8")
    (source / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
    (source / "additional_chat_templates").mkdir()
    (source / "additional_chat_templates" / "tools.jinja").write_text("{{ tools }}", encoding="utf-8")
    return source


@pytest.mark.parametrize(
    "through", [("huggingface",), ("checkpoint", "huggingface"), ("checkpoint", "checkpoint", "huggingface")]
)
def test_special_tokens_templates_and_generation_go_along(chat, tmp_path, capsys, through):
    last = chat
    for number, to in enumerate(through):
        convert(capsys, last, tmp_path / str(number), "--to", to)
        last = tmp_path / str(number)
    assert contents_of(last) == BESIDE
    assert (last / "chat_template.jinja").read_text(encoding="utf-8") == TEMPLATE
    assert (last / "additional_chat_templates" / "tools.jinja").read_text(encoding="utf-8") == "{{ tools }}"
    config = json.loads((last / "config.json").read_text())
    assert [config[f"{name}_token_id"] for name in ("bos", "eos", "pad")] == [0, [1, 3], 2]


def test_they_go_along_through_the_merging_of_adapters(chat, tmp_path, capsys):
    shutil.copytree(GOLDEN.parent / "lora_peft", tmp_path / "adapter")
    file = tmp_path / "adapter" / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"base_model_name_or_path": str(chat)}))
    convert(capsys, tmp_path / "adapter", tmp_path / "merged", "--to", "huggingface")
    assert contents_of(tmp_path / "merged") == BESIDE


def test_ids_of_a_config_are_kept_where_no_generation_config_is_there(source, tmp_path, capsys):
    file = source / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"bos_token_id": 7, "eos_token_id": [8, 9]}))
    convert(capsys, source, tmp_path / "ckpt")
    convert(capsys, tmp_path / "ckpt", tmp_path / "hf", "--to", "huggingface")
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert [config[f"{name}_token_id"] for name in ("bos", "eos", "pad")] == [7, [8, 9], None]
    generation = json.loads((tmp_path / "hf" / "generation_config.json").read_text())
    assert (generation["bos_token_id"], generation["eos_token_id"]) == (7, [8, 9])


@pytest.mark.parametrize(
    ("name", "contents", "said"),
    [
        ("generation_config.json", {"temperature": math.nan}, "temperature is NaN"),
        ("generation_config.json", {"top_p": math.inf}, "top_p is Infinity"),
        ("generation_config.json", {"nested": {"values": [1.0, -math.inf]}}, "nested.values.1 is -Infinity"),
        ("config.json", {"initializer_range": math.nan}, "initializer_range is NaN"),
    ],
)
def test_settings_that_are_not_numbers_are_refused_by_name_before_anything_is_written(
    source, tmp_path, capsys, name, contents, said
):
    file = source / name
    file.write_text(json.dumps((json.loads(file.read_text()) if file.is_file() else {}) | contents))
    with pytest.raises(SystemExit, match=rf"{name}: {said}"):
        convert(capsys, source, tmp_path / "out", "--to", "huggingface")
    assert not (tmp_path / "out").exists()


def test_a_model_that_names_no_special_tokens_is_exported_as_having_none(tmp_path):
    # Left out, transformers would take 1 and 2.
    cfg, params = hf.read_directory(GOLDEN)
    runs.save_huggingface(
        tmp_path / "hf", Policy.of_language_model(cfg, params, tokenizers.characters(ALPHABET), "scratch")
    )
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert [config[f"{name}_token_id"] for name in ("bos", "eos", "pad")] == [None, None, None]
    assert not (tmp_path / "hf" / "generation_config.json").exists()


@pytest.mark.parametrize("id", [48, -1])
def test_a_padding_token_beyond_the_vocabulary_is_not_exported(chat, tmp_path, capsys, id):
    # An embedding of transformers refuses it.
    (chat / "generation_config.json").write_text(json.dumps({"pad_token_id": id}))
    convert(capsys, chat, tmp_path / "hf", "--to", "huggingface")
    assert json.loads((tmp_path / "hf" / "config.json").read_text())["pad_token_id"] is None


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("generation_config.json", "[]", "is a JSON list"),
        ("generation_config.json", '{"eos_token_id": "x"}', "eos_token_id is 'x'"),
        ("generation_config.json", '{"eos_token_id": [1, true]}', "eos_token_id is .*True"),
        ("tokenizer_config.json", "{", "is not JSON"),
        ("special_tokens_map.json", "3", "is a JSON int"),
    ],
)
def test_damaged_settings_are_named_by_their_file(chat, name, text, message):
    (chat / name).write_text(text)
    with pytest.raises(ValueError, match=rf"{name}(:| ).*{message}"):
        runs.load_model(chat)


@pytest.mark.parametrize(
    "name", ["tokenizer.json", "generation_config.json", "chat_template.jinja", "additional_chat_templates"]
)
def test_settings_that_are_links_out_of_the_directory_are_refused(chat, tmp_path, name):
    shutil.move(chat / name, tmp_path / "outside")
    (chat / name).symlink_to(tmp_path / "outside")
    with pytest.raises(ValueError, match=rf"{name} is a link that leads out of the directory"):
        runs.load_model(chat)


# --- prepared directories that are damaged ------------------------------------------------------------------------


def test_a_prepared_directory_whose_sizes_do_not_fit_is_refused_at_once(source, tmp_path, capsys):
    convert(capsys, source, tmp_path / "ckpt")
    file = tmp_path / "ckpt" / "model.json"
    contents = json.loads(file.read_text())
    for field in ("vocab", "width", "layers", "heads", "kv_heads", "head_size", "ff"):
        # A multiple of all that heads have to be.
        file.write_text(json.dumps(contents | {"model": contents["model"] | {"heads": 2**30, field: 2**30}}))
        with pytest.raises(ValueError, match=rf"ckpt: (heads|{field}) = {2**30} does not fit its 5456 weights"):
            runs.load_model(tmp_path / "ckpt")


@pytest.mark.parametrize("value", [[], "x", 3, True, [1]])
def test_rotary_scaling_of_a_prepared_directory_that_is_none_is_named(source, tmp_path, capsys, value):
    convert(capsys, source, tmp_path / "ckpt")
    file = tmp_path / "ckpt" / "model.json"
    contents = json.loads(file.read_text())
    file.write_text(json.dumps(contents | {"model": contents["model"] | {"rope_scaling": value}}))
    with pytest.raises(ValueError, match=r"model\.json: model\.rope_scaling = "):
        runs.load_model(tmp_path / "ckpt")


def test_numbers_of_a_prepared_directory_that_are_not_finite_are_named(source, tmp_path):
    model = runs.load_model(source)
    model.params["blocks"]["down"][1, 2, 3] = np.nan
    runs.save_model(tmp_path / "ckpt", model)
    with pytest.raises(ValueError, match=r"params: blocks/down holds 1 of 768 .* first at \(1, 2, 3\)"):
        runs.load_model(tmp_path / "ckpt")
