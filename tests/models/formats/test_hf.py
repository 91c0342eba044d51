import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
import tolerances

from qstar.models import lm
from qstar.models.formats import hf, hub
from qstar.runs import load
from qstar.structs import Batch

GOLDEN = Path(__file__).parents[2] / "golden"
NAMES = ("llama_mha_tied", "llama_gqa_untied", "llama_wide_heads")


def logits(directory, tokens):
    cfg, params = hf.read_directory(directory)
    shape = tokens.shape
    position = jnp.broadcast_to(jnp.arange(shape[1])[None], shape)
    batch = Batch(jnp.asarray(tokens), jnp.ones(shape, bool), jnp.ones(shape, int), position)
    model = lm.definition(cfg).bind(jax.tree.map(jnp.asarray, params))
    return np.asarray(model.logits(model.text(batch).hidden))


def edit(directory, **changes):
    """A directory's config with some entries changed; None removes one."""
    file = directory / "config.json"
    raw = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({name: value for name, value in raw.items() if value is not None}))


@pytest.fixture
def copy(tmp_path):
    def make(name):
        return Path(shutil.copytree(GOLDEN / name, tmp_path / name))

    return make


@pytest.mark.parametrize("name", NAMES)
def test_logits_equal_those_of_transformers(name):
    expected = np.load(GOLDEN / name / "expected.npz")
    cfg = hf.read_config(GOLDEN / name)
    # Weights are 0.4 of a normal number.
    bound = tolerances.forward(
        cfg, expected["tokens"].shape[1], np.abs(expected["logits"]).max(), scores=0.16 * cfg.width
    )
    np.testing.assert_allclose(logits(GOLDEN / name, expected["tokens"]), expected["logits"], rtol=0, atol=bound)


def test_config_is_read_field_by_field():
    cfg = hf.read_config(GOLDEN / "llama_gqa_untied")
    assert cfg == lm.LMConfig(
        vocab=48, width=16, layers=2, heads=4, kv_heads=2, head_size=4, ff=24, max_len=64, rope_theta=500.0,
        norm_eps=1e-3, tied=False,
    )  # fmt: skip
    assert hf.read_config(GOLDEN / "llama_wide_heads").head_size == 12


def test_older_configs_name_theta_at_the_top_and_leave_defaults_out(copy):
    path = copy("llama_gqa_untied")
    edit(path, rope_parameters=None, rope_theta=777.0, head_dim=None, rms_norm_eps=None, num_key_value_heads=None)
    cfg = hf.read_config(path)
    assert (cfg.rope_theta, cfg.head_size, cfg.norm_eps, cfg.kv_heads) == (777.0, 4, 1e-6, 4)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_written_is_read_back_bit_by_bit(name, tmp_path):
    cfg, params = hf.read_directory(GOLDEN / name)
    hf.write_directory(tmp_path, cfg, params, None)
    again, restored = hf.read_directory(tmp_path)
    assert again == cfg
    jax.tree.map(np.testing.assert_array_equal, restored, params)


@pytest.mark.parametrize("name", NAMES)
def test_written_tensors_are_those_of_the_original_file(name, tmp_path):
    hf.write_directory(tmp_path, *hf.read_directory(GOLDEN / name), tokenizer_json=None)
    written = safetensors.numpy.load_file(tmp_path / "model.safetensors")
    original = safetensors.numpy.load_file(GOLDEN / name / "model.safetensors")
    assert written.keys() == original.keys()
    for tensor in original:
        np.testing.assert_array_equal(written[tensor], original[tensor], err_msg=tensor)


@pytest.mark.parametrize(("dtype", "digits"), [("bfloat16", 8), ("float16", 11)])
def test_half_precision_is_stored_rounded_and_read_as_float32(dtype, digits, tmp_path):
    cfg, params = hf.read_directory(GOLDEN / "llama_mha_tied")
    hf.write_directory(tmp_path, cfg, params, None, dtype)
    restored = hf.read_directory(tmp_path)[1]["embedding"]
    assert restored.dtype == np.float32
    gap = np.abs(restored / params["embedding"] - 1).max()
    assert 0 < gap <= 2.0**-digits


def test_mistral_without_a_window_is_the_same_model(copy):
    path = copy("llama_gqa_untied")
    before = hf.read_directory(path)
    edit(path, model_type="mistral", architectures=["MistralForCausalLM"])
    file = path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"sliding_window": None}))
    after = hf.read_directory(path)
    assert after[0] == before[0]
    jax.tree.map(np.testing.assert_array_equal, after[1], before[1])


def test_mistral_leaving_its_window_out_has_the_default(copy):
    path = copy("llama_gqa_untied")
    edit(path, model_type="mistral")
    assert hf.read_config(path).window == 4096


def shard(path):
    """The directory's weights in two files with an index."""
    tensors = safetensors.numpy.load_file(path / "model.safetensors")
    (path / "model.safetensors").unlink()
    names = sorted(tensors)
    weight_map = {name: f"part-{1 + names.index(name) % 2}.safetensors" for name in names}
    for file in set(weight_map.values()):
        part = {name: tensors[name] for name in names if weight_map[name] == file}
        safetensors.numpy.save_file(part, path / file)
    (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def test_shards_read_as_one_file_does(copy):
    path = copy("llama_gqa_untied")
    whole = hf.read_directory(path)[1]
    shard(path)
    jax.tree.map(np.testing.assert_array_equal, hf.read_directory(path)[1], whole)


def test_a_missing_shard_is_named(copy):
    path = copy("llama_gqa_untied")
    shard(path)
    (path / "part-2.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"lacks part-2\.safetensors"):
        hf.read_directory(path)


def test_a_second_copy_under_other_names_is_not_read(copy):
    path = copy("llama_mha_tied")
    safetensors.numpy.save_file({"tok_embeddings.weight": np.zeros(3)}, path / "consolidated.safetensors")
    assert hf.read_directory(path)[0].vocab == 48


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "gpt2"}, "model_type 'gpt2'; supported are llama, mistral"),
        ({"attention_bias": True}, "attention_bias is True, only false"),
        ({"mlp_bias": True}, "mlp_bias is True, only false"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 8.0}, "rope_parameters": None}, "rope_scaling is 'yarn'"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}, "rope_parameters": None}, "rope_scaling is 'dynamic'"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu', only silu"),
        ({"hidden_size": None}, "lacks 'hidden_size'"),
        ({"intermediate_size": 32}, r"gate_proj.weight is \(24, 16\), expected \(32, 16\)"),
        ({"num_hidden_layers": 1}, r"unexpected model.layers.1.input_layernorm.weight \(16,\)"),
        ({"num_hidden_layers": 3}, r"missing model.layers.2.input_layernorm.weight \(16,\)"),
        ({"tie_word_embeddings": True}, "lm_head.weight differs from the embedding by up to"),
    ],
)
def test_models_that_cannot_be_computed_are_refused(copy, change, message):
    path = copy("llama_gqa_untied")
    edit(path, **change)
    with pytest.raises(ValueError, match=message):
        hf.read_directory(path)


def test_a_tied_model_may_carry_its_output_layer_twice(copy):
    path = copy("llama_mha_tied")
    tensors = safetensors.numpy.load_file(path / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].copy()
    safetensors.numpy.save_file(tensors, path / "model.safetensors")
    assert "head" not in hf.read_directory(path)[1]


def test_an_untied_config_without_output_layer_is_told_to_tie(copy):
    path = copy("llama_mha_tied")
    edit(path, tie_word_embeddings=False)
    with pytest.raises(ValueError, match=r"missing lm_head.weight \(48, 16\); set tie_word_embeddings"):
        hf.read_directory(path)


def test_integer_weights_are_refused(copy):
    path = copy("llama_mha_tied")
    tensors = safetensors.numpy.load_file(path / "model.safetensors")
    tensors["model.norm.weight"] = tensors["model.norm.weight"].astype(np.int8)
    safetensors.numpy.save_file(tensors, path / "model.safetensors")
    with pytest.raises(ValueError, match=r"model\.norm\.weight is stored as I8; supported are F32, F16, BF16"):
        hf.read_directory(path)


def test_a_truncated_file_is_named_with_its_size(copy):
    path = copy("llama_mha_tied")
    file = path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:9000])
    with pytest.raises(ValueError, match=r"model\.safetensors \(9000 bytes\) is damaged or cut short"):
        hf.read_directory(path)


def test_a_directory_without_weights_says_what_is_expected(copy):
    path = copy("llama_mha_tied")
    (path / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"no \*\.safetensors; weights in PyTorch's \.bin form"):
        hf.read_directory(path)


def test_a_directory_without_config_is_not_a_model(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"has no config\.json"):
        hf.read_directory(tmp_path)


def test_a_config_that_is_not_json_is_named(copy):
    path = copy("llama_mha_tied")
    (path / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json is not JSON"):
        hf.read_directory(path)


def test_weights_of_another_shape_are_not_written(tmp_path):
    cfg, params = hf.read_directory(GOLDEN / "llama_mha_tied")
    with pytest.raises(ValueError, match=r"embedding is \(47, 16\), expected \(48, 16\)"):
        hf.write_directory(tmp_path / "out", cfg, params | {"embedding": params["embedding"][1:]}, None)
    with pytest.raises(ValueError, match="dtype 'int8': choose one of float32, bfloat16, float16"):
        hf.write_directory(tmp_path / "out", cfg, params, None, "int8")
    assert not (tmp_path / "out").exists()


def test_fetching_without_a_network_names_the_way_out(monkeypatch):
    huggingface_hub = pytest.importorskip("huggingface_hub")

    def offline(*_, **__):
        raise huggingface_hub.errors.LocalEntryNotFoundError("cannot find the appropriate snapshot folder")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(ConnectionError, match="hf download some/model --local-dir DIR"):
        hub.fetch("some/model")


@pytest.mark.parametrize("error", [ImportError, ConnectionError, ValueError])
def test_a_folder_that_is_missing_is_named_as_one_before_the_hub(error, monkeypatch):
    def fetch(name):
        raise error(f"could not fetch {name}")

    monkeypatch.setattr(hub, "fetch", fetch)
    with pytest.raises(
        error, match=r"^there is no folder models/absent here .*qstar-prepare.*could not fetch models/absent"
    ):
        load.load_model("models/absent")


def test_fetching_an_impossible_name_is_an_error_about_the_name():
    pytest.importorskip("huggingface_hub")
    with pytest.raises(ValueError, match="the Hugging Face hub has no model 'a/b/c'"):
        hub.fetch("a/b/c")
