"""GGUF files of every family, made from the golden Hugging Face directories as llama.cpp's converter makes them."""

import dataclasses
import functools
import json
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
import tolerances

from qstar.models import lm
from qstar.models.formats import gguf as reader
from qstar.models.formats import hf
from qstar.ops.rotary import Scaling
from qstar.structs import Batch

gguf = pytest.importorskip("gguf")

GOLDEN = Path(__file__).parents[2] / "golden" / "families"
NAMES = sorted(path.name for path in GOLDEN.iterdir())
ARCHITECTURES = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3", "gemma3_text": "gemma3"}
TENSORS = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
GEMMA_TENSORS = TENSORS | {
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}


def converted_name(name, names):
    stem, kind = name.rsplit(".", 1)
    if not stem.startswith("model.layers."):
        return f"{names[stem]}.{kind}"
    _, _, layer, rest = stem.split(".", 3)
    return f"blk.{layer}.{names[rest]}.{kind}"


def interleaved(weight, heads):
    """Query or key rows as architecture llama stores them: row 2 i + j of a head is row i of its half j."""
    size = weight.shape[0] // heads
    order = [head * size + j * size // 2 + i for head in range(heads) for i in range(size // 2) for j in (0, 1)]
    return weight[order]


def rope_factors(size, rope):
    """What every frequency of llama3's scaling is divided by (section 3.4.3 and the reference code of Llama 3.1)."""
    low, high, length = rope["low_freq_factor"], rope["high_freq_factor"], rope["original_max_position_embeddings"]
    factors = []
    for pair in range(size // 2):
        wavelength = 2 * math.pi * rope["rope_theta"] ** (2 * pair / size)
        smooth = (length / wavelength - low) / (high - low)
        if wavelength < length / high:
            factors.append(1.0)
        elif wavelength > length / low:
            factors.append(rope["factor"])
        else:
            factors.append(1 / ((1 - smooth) / rope["factor"] + smooth))
    return np.array(factors, np.float32)


def tensors_of(config, weights):
    """Name and contents of every tensor of the GGUF file."""
    kind, out = config["model_type"], {}
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
    for name, weight in weights.items():
        if kind == "gemma3_text" and name.endswith("norm.weight"):
            weight = weight + np.float32(1)
        # The file has no place for the scale of Gemma's scores, so the one that is not the head's size is in the norm.
        if name.endswith("q_norm.weight") and "query_pre_attn_scalar" in config:
            weight = weight * np.float32(math.sqrt(config["head_dim"] / config["query_pre_attn_scalar"]))
        if ARCHITECTURES[kind] == "llama" and name.split(".")[-2] in heads:
            weight = interleaved(weight, heads[name.split(".")[-2]])
        out[converted_name(name, GEMMA_TENSORS if kind == "gemma3_text" else TENSORS)] = weight
    rope = config["rope_parameters"]
    if rope.get("rope_type") == "llama3":
        out["rope_freqs.weight"] = rope_factors(config["head_dim"], rope)
    return out


def write(path, config, tensors, pattern=None):
    """A GGUF file with the fields of a config.json, as llama.cpp's converter names them."""
    gemma = config["model_type"] == "gemma3_text"
    writer = gguf.GGUFWriter(path, ARCHITECTURES[config["model_type"]])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    rope = config["rope_parameters"]
    wide = rope["full_attention"] if gemma else rope
    writer.add_rope_freq_base(wide["rope_theta"])
    if wide["rope_type"] == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(wide["factor"])
    if gemma and rope["sliding_attention"]["rope_theta"] != 10000.0:
        writer.add_rope_freq_base_swa(rope["sliding_attention"]["rope_theta"])
    if not gemma:
        writer.add_rope_dimension_count(config["head_dim"])
        writer.add_vocab_size(config["vocab_size"])
    if config.get("sliding_window"):
        writer.add_sliding_window(config["sliding_window"])
    if pattern is not None:
        writer.add_sliding_window_pattern(pattern)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list([chr(ord("0") + id) for id in range(config["vocab_size"])])
    writer.add_token_merges(["0 0"])
    for name, weight in tensors.items():
        writer.add_tensor(name, np.ascontiguousarray(weight, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


# Which layers have the window, in both forms that the field has: a truth a layer, or the period of those that have not.
PATTERNS = {
    "gemma3": [True, True, False, True],
    "gemma3_untied": 2,
    "qwen2_untied_window": [False, True, True],
    "gemma3_all_full": [False, False],
    "qwen2_all_window": [True, True],
}


def converted(name, folder):
    config = json.loads((GOLDEN / name / "config.json").read_text())
    tensors = tensors_of(config, safetensors.numpy.load_file(GOLDEN / name / "model.safetensors"))
    return write(folder / f"{name}.gguf", config, tensors, PATTERNS.get(name))


@functools.partial(jax.jit, static_argnums=0)
def logits(model, params, tokens):
    position = jnp.broadcast_to(jnp.arange(tokens.shape[1])[None], tokens.shape)
    bound = model.bind(params)
    text = bound.text(Batch(tokens, jnp.ones(tokens.shape, bool), jnp.ones(tokens.shape, int), position))
    return bound.logits(text.hidden)


@pytest.mark.parametrize("name", NAMES)
def test_config_and_weights_equal_those_of_the_original_directory(name, tmp_path):
    cfg, params, _ = reader.read_file(converted(name, tmp_path))
    wanted_cfg, wanted = hf.read_directory(GOLDEN / name)
    assert cfg == dataclasses.replace(wanted_cfg, query_scalar=None)
    if name.startswith("gemma3"):
        # 1 + w was rounded to float32, and the scale of the scores is in the queries' norm.
        blocks = wanted["blocks"]
        scale = math.sqrt(6 / wanted_cfg.query_scalar)
        blocks["query_norm"]["scale"] = (1 + blocks["query_norm"]["scale"]) * scale - 1
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=tolerances.rounding(2)), params, wanted)
    else:
        jax.tree.map(np.testing.assert_array_equal, params, wanted)


@pytest.mark.parametrize(
    "name", ["llama3_untied", "llama_linear", "mistral_window", "qwen2_tied", "qwen3_tied", "gemma3", "gemma3_untied"]
)
def test_logits_equal_those_of_transformers(name, tmp_path):
    cfg, params, _ = reader.read_file(converted(name, tmp_path))
    expected = np.load(GOLDEN / name / "expected.npz")
    found = logits(lm.definition(cfg), jax.tree.map(jnp.asarray, params), jnp.asarray(expected["tokens"]))
    # Weights are 0.4 of a normal number.
    bound = tolerances.forward(
        cfg, expected["tokens"].shape[1], np.abs(expected["logits"]).max(), scores=0.16 * cfg.width
    )
    np.testing.assert_allclose(found, expected["logits"], rtol=0, atol=bound)


# --- what the files leave to the reader ---------------------------------------------------------------------------

GEMMA_27B = {
    "model_type": "gemma3_text", "vocab_size": 8, "hidden_size": 8, "num_hidden_layers": 62, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 2, "intermediate_size": 4, "max_position_embeddings": 64,
    "rms_norm_eps": 1e-6, "sliding_window": 4,
    "rope_parameters": {"full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
                        "sliding_attention": {"rope_theta": 1e4}},
}  # fmt: skip


def gemma_tensors(config):
    """Tensors of these shapes, all ones."""
    width, size, ff = config["hidden_size"], config["head_dim"], config["intermediate_size"]
    inner, shared = config["num_attention_heads"] * size, config["num_key_value_heads"] * size
    shapes = {
        "attn_norm": (width,), "attn_q": (inner, width), "attn_k": (shared, width), "attn_v": (shared, width),
        "attn_q_norm": (size,), "attn_k_norm": (size,), "attn_output": (width, inner), "post_attention_norm": (width,),
        "ffn_norm": (width,), "ffn_gate": (ff, width), "ffn_up": (ff, width), "ffn_down": (width, ff),
        "post_ffw_norm": (width,),
    }  # fmt: skip
    layers = range(config["num_hidden_layers"])
    out = {f"blk.{layer}.{name}.weight": np.ones(shape) for layer in layers for name, shape in shapes.items()}
    return out | {"token_embd.weight": np.ones((config["vocab_size"], width)), "output_norm.weight": np.ones(width)}


def test_the_largest_gemma_scales_by_its_width_and_every_sixth_layer_is_global(tmp_path):
    cfg = reader.read_file(write(tmp_path / "m.gguf", GEMMA_27B, gemma_tensors(GEMMA_27B)))[0]
    assert cfg.query_scalar == 4.0  # width / heads, though a head has 2 channels
    assert cfg.global_layers == (5, 11, 17, 23, 29, 35, 41, 47, 53, 59)
    assert (cfg.window, cfg.local_rope_theta, cfg.rope_theta) == (4, 10000.0, 1e6)
    assert cfg.rope_scaling == Scaling(8.0)
    assert cfg.embed_scale == math.sqrt(8)


def test_the_other_gemmas_scale_scores_by_the_size_of_a_head(tmp_path):
    config = GEMMA_27B | {"num_hidden_layers": 7}
    cfg = reader.read_file(write(tmp_path / "m.gguf", config, gemma_tensors(config)))[0]
    assert cfg.query_scalar is None
    assert cfg.global_layers == (5,)


LLAMA_3_2 = {
    "rope_type": "llama3", "rope_theta": 500000.0, "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}  # fmt: skip


def llama(tmp_path, factors, theta=500000.0, size=64):
    """A Llama of one layer with a head of 64 channels and these rope_freqs."""
    config = {
        "model_type": "llama", "vocab_size": 4, "hidden_size": 4, "num_hidden_layers": 1, "num_attention_heads": 1,
        "num_key_value_heads": 1, "head_dim": size, "intermediate_size": 2, "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-5, "rope_parameters": {"rope_type": "default", "rope_theta": theta},
    }  # fmt: skip
    shapes = {
        "attn_norm": (4,), "attn_q": (size, 4), "attn_k": (size, 4), "attn_v": (size, 4), "attn_output": (4, size),
        "ffn_norm": (4,), "ffn_gate": (2, 4), "ffn_up": (2, 4), "ffn_down": (4, 2),
    }  # fmt: skip
    tensors = {f"blk.0.{name}.weight": np.ones(shape) for name, shape in shapes.items()}
    tensors |= {"token_embd.weight": np.ones((4, 4)), "output_norm.weight": np.ones(4), "rope_freqs.weight": factors}
    return write(tmp_path / "m.gguf", config, tensors)


@pytest.mark.parametrize("factor, length", [(8.0, 8192), (32.0, 8192), (4.0, 2048)])
def test_llama3s_scaling_is_found_in_its_factors(tmp_path, factor, length):
    rope = LLAMA_3_2 | {"factor": factor, "original_max_position_embeddings": length}
    cfg = reader.read_file(llama(tmp_path, rope_factors(64, rope)))[0]
    assert cfg.rope_scaling == Scaling(factor, 1.0, 4.0, length)
    assert cfg.rope_theta == 500000.0


def test_factors_of_one_scale_nothing(tmp_path):
    assert reader.read_file(llama(tmp_path, np.ones(32)))[0].rope_scaling is None


@pytest.mark.parametrize(
    "factors", [rope_factors(64, LLAMA_3_2 | {"high_freq_factor": 9.0}), np.linspace(1, 8, 32), np.full(16, 2.0)]
)
def test_factors_of_another_scaling_are_refused(tmp_path, factors):
    with pytest.raises(
        ValueError, match=r"the factors in rope_freqs\.weight .* are not those of llama3's scaling of 32"
    ):
        reader.read_file(llama(tmp_path, factors))
