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
from qstar.models.formats import hf, peft
from qstar.models.lora import LoraConfig, adapted
from qstar.structs import Batch

GOLDEN = Path(__file__).parents[2] / "golden"
BASE, ADAPTER = GOLDEN / "llama_gqa_untied", GOLDEN / "lora_peft"


def read(path=ADAPTER):
    return peft.read(path, hf.read_config(BASE))


@pytest.fixture
def copy(tmp_path):
    return Path(shutil.copytree(ADAPTER, tmp_path / "adapter"))


def edit(path, **changes):
    file = path / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def logits(model, params, tokens):
    shape = tokens.shape
    position = jnp.broadcast_to(jnp.arange(shape[1])[None], shape)
    batch = Batch(jnp.asarray(tokens), jnp.ones(shape, bool), jnp.ones(shape, int), position)
    bound = model.bind(jax.tree.map(jnp.asarray, params))
    return np.asarray(bound.logits(bound.text(batch).hidden))


def test_an_adapter_of_peft_gives_the_logits_of_peft():
    cfg, adapters = read()
    model_cfg, base = hf.read_directory(BASE)
    model = adapted(lm.definition(model_cfg), cfg)
    expected = np.load(ADAPTER / "expected.npz")
    params = {**base, "lora": adapters}
    # Weights are 0.4 of a normal number.
    bound = tolerances.forward(
        model_cfg, expected["tokens"].shape[1], np.abs(expected["logits"]).max(), scores=0.16 * model_cfg.width
    )
    for definition, weights in ((model, params), (model.base, model.merged(params))):
        found = logits(definition, weights, expected["tokens"])
        np.testing.assert_allclose(found, expected["logits"], rtol=0, atol=bound)
    assert np.abs(logits(model.base, base, expected["tokens"]) - expected["logits"]).max() > 0.1


def test_the_configuration_is_read():
    assert read()[0] == LoraConfig(rank=3, alpha=12.0, targets=("query", "value", "out", "down"))


def test_rank_stabilised_adapters_are_scaled_by_the_root_of_the_rank(copy):
    edit(copy, use_rslora=True)
    assert read(copy)[0].scale == pytest.approx(12 / 3**0.5)


def test_what_is_written_is_what_peft_wrote(tmp_path):
    cfg, adapters = read()
    peft.write(tmp_path, cfg, adapters, base="some/model")
    found, wanted = (safetensors.numpy.load_file(path / peft.WEIGHTS) for path in (tmp_path, ADAPTER))
    assert sorted(found) == sorted(wanted)
    for name, tensor in wanted.items():
        np.testing.assert_array_equal(found[name], tensor)
    raw = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (raw["r"], raw["lora_alpha"], raw["base_model_name_or_path"]) == (3, 12.0, "some/model")
    assert sorted(raw["target_modules"]) == ["down_proj", "o_proj", "q_proj", "v_proj"]
    theirs = json.loads((ADAPTER / "adapter_config.json").read_text())
    assert {name: theirs[name] for name in ("peft_type", "task_type", "bias", "fan_in_fan_out")} == {
        name: raw[name] for name in ("peft_type", "task_type", "bias", "fan_in_fan_out")
    }
    assert peft.base_of(tmp_path) == "some/model"


def test_bfloat16_rounds_what_is_stored(tmp_path):
    cfg, adapters = read()
    peft.write(tmp_path, cfg, adapters, base="some/model", dtype="bfloat16")
    found, wanted = read(tmp_path)[1]["query"]["a"], adapters["query"]["a"]
    assert found.dtype == np.float32
    assert 0 < np.abs(found / wanted - 1).max() <= 2.0**-8  # eight bits of mantissa
    with pytest.raises(ValueError, match="dtype 'int8': choose one of float32, bfloat16, float16"):
        peft.write(tmp_path, cfg, adapters, base="some/model", dtype="int8")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"peft_type": "IA3"}, "peft_type 'IA3', missing .*LORA"),
        ({"use_dora": True}, "use_dora = True is not supported; merge the adapter with peft"),
        ({"alora_invocation_tokens": [1, 2]}, r"alora_invocation_tokens = \[1, 2\] is not supported"),
        ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights = 'pissa_niter_4' is not supported"),
        ({"init_lora_weights": "olora"}, "init_lora_weights = 'olora' is not supported"),
        ({"use_rslora": "false"}, "use_rslora is 'false', expected true or false"),
        ({"alpha_pattern": {"q_proj": 4}}, "alpha_pattern = "),
        ({"r": 4}, r"config and base model:\n  .*down_proj.lora_A.weight is \(3, 24\), expected \(4, 24\)"),
    ],
)
def test_other_kinds_of_adapters_are_refused(copy, changes, message):
    edit(copy, **changes)
    with pytest.raises(ValueError, match=message):
        read(copy)


def test_tensors_that_are_missing_or_foreign_are_listed(copy):
    tensors = safetensors.numpy.load_file(copy / peft.WEIGHTS)
    tensors["base_model.model.lm_head.weight"] = tensors.pop(
        "base_model.model.model.layers.1.mlp.down_proj.lora_B.weight"
    )
    safetensors.numpy.save_file(tensors, copy / peft.WEIGHTS)
    with pytest.raises(ValueError) as error:
        read(copy)
    assert "missing base_model.model.model.layers.1.mlp.down_proj.lora_B.weight (16, 3)" in str(error.value)
    assert "unexpected base_model.model.lm_head.weight (16, 3)" in str(error.value)


def test_files_that_are_absent_or_damaged_are_named(copy, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"has no adapter_config\.json"):
        read(tmp_path)
    (copy / peft.WEIGHTS).write_bytes((copy / peft.WEIGHTS).read_bytes()[:700])
    with pytest.raises(ValueError, match=r"adapter_model.safetensors \(700 bytes\) is damaged or cut short"):
        read(copy)
    (copy / peft.WEIGHTS).unlink()
    with pytest.raises(FileNotFoundError, match=r"there is no .*adapter_model\.safetensors"):
        read(copy)
    edit(copy, base_model_name_or_path=None)
    with pytest.raises(ValueError, match="names no base model"):
        peft.base_of(copy)
    (copy / "adapter_config.json").write_text("{")
    with pytest.raises(ValueError, match="is not JSON"):
        peft.base_of(copy)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"r": "big"}, "r is 'big'"),
        ({"r": True}, "r is 'True'"),
        ({"r": 0}, "r is '0'"),
        ({"r": 10**9}, "r = 1000000000 does not fit"),
        ({"r": 10**400, "use_rslora": True}, "r = 1000"),
        ({"lora_alpha": float("nan")}, "lora_alpha is 'nan'"),
        ({"lora_alpha": float("inf")}, "lora_alpha is 'inf'"),
        ({"lora_alpha": -1}, "lora_alpha is '-1'"),
        ({"lora_alpha": 10**400}, "lora_alpha is '1000"),
        ({"lora_alpha": 2**63}, "lora_alpha is '9223"),
        ({"lora_alpha": []}, r"lora_alpha is '\[\]'"),
    ],
)
def test_numbers_of_an_adapter_that_cannot_be_are_named_before_memory_is_taken(copy, changes, message):
    edit(copy, **changes)
    with pytest.raises(ValueError, match=rf"adapter_config\.json: {message}"):
        read(copy)


@pytest.mark.parametrize("contents", ["[]", "{", "null"])
def test_an_adapter_config_that_is_not_an_object_is_named(copy, contents):
    (copy / "adapter_config.json").write_text(contents)
    with pytest.raises(ValueError, match=r"adapter_config\.json is "):
        read(copy)


def test_an_adapter_with_numbers_that_are_not_finite_is_refused(copy):
    tensors = safetensors.numpy.load_file(copy / "adapter_model.safetensors")
    name = sorted(tensors)[0]
    tensors[name][0, 1] = np.nan
    safetensors.numpy.save_file(tensors, copy / "adapter_model.safetensors")
    with pytest.raises(ValueError, match=rf"adapter_model\.safetensors: {name} holds 1 of .* first at \(0, 1\)"):
        read(copy)


def test_links_out_of_an_adapter_are_refused(copy, tmp_path):
    shutil.move(copy / "adapter_model.safetensors", tmp_path / "outside")
    (copy / "adapter_model.safetensors").symlink_to(tmp_path / "outside")
    with pytest.raises(ValueError, match=r"adapter_model\.safetensors is a link that leads out of the directory"):
        read(copy)


@pytest.mark.parametrize("base", [None, [], 3, "", "SELF"])
def test_an_adapter_of_no_model_or_of_adapters_is_refused(copy, base):
    edit(copy, base_model_name_or_path=str(copy) if base == "SELF" else base)
    with pytest.raises(ValueError, match=r"adapter_config\.json.* base_model_name_or_path"):
        peft.base_of(copy)
