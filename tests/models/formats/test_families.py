import dataclasses
import functools
import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
import tiny
import tolerances

from qstar import prepare, runs
from qstar.data import tokenizer as tokenizers
from qstar.methods.quiet_star import QuietStar
from qstar.models import lm
from qstar.models.formats import families, hf
from qstar.models.lm import LMConfig
from qstar.ops.rotary import Scaling
from qstar.structs import Batch, Context
from qstar.thoughts.draw import sample
from qstar.thoughts.fill import fill
from qstar.thoughts.talk import thought_columns
from qstar.thoughts.writing import generate

LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
GOLDEN = Path(__file__).parents[2] / "golden" / "families"
KINDS = {
    "smollm2": "llama",
    "llama3_untied": "llama",
    "llama3_tied": "llama",
    "llama_linear": "llama",
    "mistral_window": "mistral",
    "mistral_no_window": "mistral",
    "qwen2_tied": "qwen2",
    "qwen2_untied_window": "qwen2",
    "qwen3_tied": "qwen3",
    "qwen3_untied": "qwen3",
    "gemma3": "gemma3_text",
    "gemma3_untied": "gemma3_text",
    "gemma3_all_full": "gemma3_text",
    "gemma3_all_window": "gemma3_text",
    "qwen2_all_window": "qwen2",
}


def config_of(name):
    return json.loads((GOLDEN / name / "config.json").read_text())


@functools.partial(jax.jit, static_argnums=0)
def logits(model, params, tokens):
    position = jnp.broadcast_to(jnp.arange(tokens.shape[1])[None], tokens.shape)
    bound = model.bind(params)
    text = bound.text(Batch(tokens, jnp.ones(tokens.shape, bool), jnp.ones(tokens.shape, int), position))
    return bound.logits(text.hidden)


# --- what transformers computes -----------------------------------------------------------------------------------


def test_there_is_a_golden_model_of_every_family():
    assert {path.name for path in GOLDEN.iterdir()} == set(KINDS)
    assert set(KINDS.values()) == set(families.FAMILIES)
    assert {name: config_of(name)["model_type"] for name in KINDS} == KINDS


@pytest.mark.parametrize("name", KINDS)
def test_logits_equal_those_of_transformers(name):
    cfg, params = hf.read_directory(GOLDEN / name)
    expected = np.load(GOLDEN / name / "expected.npz")
    assert expected["tokens"].shape[1] > 4 * (cfg.window or 0)
    found = logits(lm.definition(cfg), jax.tree.map(jnp.asarray, params), jnp.asarray(expected["tokens"]))
    # Weights are 0.4 of a normal number.
    bound = tolerances.forward(
        cfg, expected["tokens"].shape[1], np.abs(expected["logits"]).max(), scores=0.16 * cfg.width
    )
    np.testing.assert_allclose(found, expected["logits"], rtol=0, atol=bound)


@pytest.mark.parametrize("name", KINDS)
def test_what_is_written_is_read_back_bit_by_bit_and_has_the_original_names(name, tmp_path):
    cfg, params = hf.read_directory(GOLDEN / name)
    hf.write_directory(tmp_path, cfg, params, None)
    again, restored = hf.read_directory(tmp_path)
    assert again == cfg
    jax.tree.map(np.testing.assert_array_equal, restored, params)
    contents = json.loads((tmp_path / "config.json").read_text())
    assert (contents["model_type"], contents["architectures"]) == (KINDS[name], config_of(name)["architectures"])
    written, original = (safetensors.numpy.load_file(d / "model.safetensors") for d in (tmp_path, GOLDEN / name))
    assert written.keys() == original.keys()
    for tensor in original:
        np.testing.assert_array_equal(written[tensor], original[tensor], err_msg=tensor)


def test_gemma_without_windows_is_written_with_a_number_that_transformers_needs():
    cfg = hf.read_config(GOLDEN / "gemma3_all_full")
    assert cfg.window is None
    written = families.write(cfg, "float32")
    assert (written["sliding_window"], written["layer_types"]) == (4096, ["full_attention", "full_attention"])


def test_shapes_are_kept_as_json(tmp_path):
    for name in KINDS:
        cfg = hf.read_config(GOLDEN / name)
        assert LMConfig(**json.loads(json.dumps(dataclasses.asdict(cfg)))) == cfg
        hash(cfg)


# --- reading and writing config.json ------------------------------------------------------------------------------

PLAIN = {"vocab": 48, "width": 16, "heads": 4, "kv_heads": 2, "head_size": 6, "ff": 24, "max_len": 64, "norm_eps": 1e-6}


def test_gemma_is_read_field_by_field():
    assert hf.read_config(GOLDEN / "gemma3") == LMConfig(
        **PLAIN, layers=4, tied=True, rope_theta=500.0, rope_scaling=Scaling(4.0), window=5, global_layers=(2,),
        local_rope_theta=50.0, qk_norm=True, post_norms=True, norm_offset=1.0, activation="gelu_tanh",
        embed_scale=4.0, query_scalar=10.0,
    )  # fmt: skip


def test_the_others_are_read_field_by_field():
    assert hf.read_config(GOLDEN / "qwen2_untied_window") == LMConfig(
        **PLAIN, layers=3, tied=False, qkv_bias=True, window=5, global_layers=(0,)
    )
    assert hf.read_config(GOLDEN / "qwen3_tied") == LMConfig(**PLAIN, layers=2, qk_norm=True)
    assert hf.read_config(GOLDEN / "mistral_window") == LMConfig(**PLAIN, layers=3, tied=False, window=5)
    assert hf.read_config(GOLDEN / "llama3_tied") == LMConfig(
        **PLAIN, layers=2, rope_theta=500.0, rope_scaling=Scaling(8.0, 1.0, 4.0, 60)
    )


# Configs as they lie on the hub, written by older versions of transformers, shortened to what is read.
LLAMA_3_2_1B = {
    "model_type": "llama", "vocab_size": 128256, "hidden_size": 2048, "num_hidden_layers": 16,
    "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 64, "intermediate_size": 8192,
    "max_position_embeddings": 131072,
    "rope_theta": 500000.0, "rms_norm_eps": 1e-05, "tie_word_embeddings": True, "hidden_act": "silu",
    "attention_bias": False, "mlp_bias": False,
    "rope_scaling": {"factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
                     "original_max_position_embeddings": 8192, "rope_type": "llama3"},
}  # fmt: skip
MISTRAL_7B_V01 = {
    "model_type": "mistral", "vocab_size": 32000, "hidden_size": 4096, "num_hidden_layers": 32, "hidden_act": "silu",
    "num_attention_heads": 32, "num_key_value_heads": 8, "intermediate_size": 14336, "max_position_embeddings": 32768,
    "rope_theta": 10000.0, "rms_norm_eps": 1e-05, "sliding_window": 4096, "tie_word_embeddings": False,
}  # fmt: skip
QWEN_2_5_HALF_B = {
    "model_type": "qwen2", "vocab_size": 151936, "hidden_size": 896, "num_hidden_layers": 24, "num_attention_heads": 14,
    "num_key_value_heads": 2, "intermediate_size": 4864, "max_position_embeddings": 32768, "max_window_layers": 24,
    "rope_theta": 1000000.0, "rms_norm_eps": 1e-06, "sliding_window": 32768, "use_sliding_window": False,
    "tie_word_embeddings": True, "hidden_act": "silu", "use_mrope": False,
}  # fmt: skip
GEMMA_3_1B = {
    "model_type": "gemma3_text", "vocab_size": 262144, "hidden_size": 1152, "num_hidden_layers": 26, "head_dim": 256,
    "num_attention_heads": 4, "num_key_value_heads": 1, "intermediate_size": 6912, "max_position_embeddings": 32768,
    "rope_theta": 1000000, "rope_local_base_freq": 10000, "rope_scaling": None, "rms_norm_eps": 1e-06,
    "sliding_window": 512, "sliding_window_pattern": 6, "query_pre_attn_scalar": 256, "attention_bias": False,
    "hidden_activation": "gelu_pytorch_tanh", "attn_logit_softcapping": None, "final_logit_softcapping": None,
}  # fmt: skip


def test_configs_of_the_hub_are_understood():
    llama = families.read(LLAMA_3_2_1B, "config")
    assert (llama.rope_theta, llama.rope_scaling) == (5e5, Scaling(32.0, 1.0, 4.0, 8192))
    mistral = families.read(MISTRAL_7B_V01, "config")
    assert (mistral.window, mistral.global_layers, mistral.head_size) == (4096, (), 128)
    qwen = families.read(QWEN_2_5_HALF_B, "config")
    assert (qwen.qkv_bias, qwen.window, qwen.head_size, qwen.rope_theta, qwen.tied) == (True, None, 64, 1e6, True)
    gemma = families.read(GEMMA_3_1B, "config")
    assert (gemma.window, gemma.global_layers, gemma.local_rope_theta) == (512, (5, 11, 17, 23), 1e4)
    assert (gemma.rope_theta, gemma.query_scalar, gemma.tied, gemma.kv_heads) == (1e6, None, True, 1)
    assert gemma.embed_scale == pytest.approx(33.9411, abs=1e-4)  # the root of 1152


# Qwen3-0.6B as published: 596,049,920 weights, the embedding of 155,582,464 counted once.
QWEN_3 = {
    "model_type": "qwen3", "vocab_size": 151936, "hidden_size": 1024, "num_hidden_layers": 28,
    "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128, "intermediate_size": 3072,
    "max_position_embeddings": 40960,
    "rope_theta": 1000000, "rms_norm_eps": 1e-06, "tie_word_embeddings": True, "hidden_act": "silu",
    "sliding_window": None, "use_sliding_window": False, "max_window_layers": 28, "attention_bias": False,
}  # fmt: skip


@pytest.mark.parametrize(
    ("config", "weights"),
    [
        (LLAMA_3_2_1B, 1_235_814_400),
        (MISTRAL_7B_V01, 7_241_732_096),
        (QWEN_2_5_HALF_B, 494_032_768),
        (QWEN_3, 596_049_920),
        (GEMMA_3_1B, 999_885_952),
    ],
)
def test_models_have_as_many_weights_as_their_makers_say(config, weights):
    assert lm.definition(families.read(config, "config")).size == weights


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("qwen3_tied", {"attention_bias": True}, "attention_bias is True, only false"),
        ("qwen2_tied", {"hidden_act": "gelu"}, "hidden_act is 'gelu', only silu"),
        ("qwen2_tied", {"layer_types": [families.FULL]}, "layer_types is .* for each of 2 layers"),
        ("mistral_window", {"layer_types": [families.FULL] * 3}, "only sliding_attention is supported"),
        ("gemma3", {"hidden_activation": "gelu"}, "hidden_activation is 'gelu', only gelu_pytorch_tanh"),
        ("gemma3", {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping is 50.0, only null"),
        ("gemma3", {"final_logit_softcapping": 30.0}, "final_logit_softcapping is 30.0, only null"),
        ("gemma3", {"use_bidirectional_attention": True}, "use_bidirectional_attention is True, only false"),
        ("gemma3", {"sliding_window": None}, "sliding_window is None, only a number"),
        (
            "gemma3",
            {"rope_parameters": {families.SLIDING: {"rope_type": "linear", "factor": 2.0}}},
            "rope_scaling is 'linear', only default",
        ),
        (
            "llama3_tied",
            {"rope_parameters": {"rope_type": "yarn", "factor": 2.0}},
            "'yarn', only default, linear, llama3",
        ),
        ("llama3_tied", {"rope_parameters": {"rope_type": "llama3", "factor": 2.0}}, "lacks 'low_freq_factor'"),
        ("llama3_tied", {"rope_parameters": {families.FULL: {}}}, "rope_parameters is .* only one set for all layers"),
        ("llama3_tied", {"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor is 0.5, only 1"),
        ("llama3_tied", {"quantization_config": {"bits": 4}}, "quantization_config is .* only null"),
        *(
            (name, {"is_causal": False}, "is_causal is False, only true")
            for name in ("llama3_tied", "qwen3_tied", "gemma3")
        ),
        ("gemma3", {"final_logit_softcapping": 0.0}, "final_logit_softcapping is 0.0, only null"),
        ("gemma3", {"rope_parameters": {"rope_type": "linear", "factor": 2.0}}, "only an object for full_attention"),
        ("gemma3", {"rope_parameters": {"rope_theta": 50.0}}, "only an object for full_attention"),
        ("llama3_tied", {"layer_types": [families.SLIDING] * 2}, "layer_types is .* for there is no window"),
        ("qwen2_untied_window", {"use_sliding_window": False}, "layer_types is .* for there is no window"),
        ("qwen2_untied_window", {"sliding_window": None}, "layer_types is .* for there is no window"),
        ("llama3_tied", {"model_type": "gemma3"}, "'gemma3'; supported are llama, mistral, qwen2, qwen3, gemma3_text"),
    ],
)
def test_variants_that_are_not_computed_are_refused(name, change, message):
    with pytest.raises(ValueError, match=message):
        families.read(config_of(name) | change, "config.json")


@pytest.mark.parametrize(
    ("name", "change", "differ"),
    [
        ("llama_linear", {"rope_scaling": {"rope_type": "linear", "factor": 4.0}}, "rope_theta"),  # 10,000 and 500
        ("llama_linear", {"rope_scaling": {"factor": 4.0}}, "rope_type, rope_theta"),
        ("llama3_tied", {"rope_scaling": LLAMA3 | {"rope_theta": 500.0, "high_freq_factor": 9.0}}, "high_freq_factor"),
        ("llama3_tied", {"rope_scaling": LLAMA3 | {"rope_theta": 500.0}}, "original_max_position_embeddings"),
        ("gemma3", {"rope_scaling": {"rope_type": "default"}}, "rope_type"),
        ("gemma3", {"rope_scaling": {"rope_type": "linear", "factor": 8.0}}, "factor"),
        ("gemma3", {"rope_scaling": {"rope_type": "linear", "factor": 4.0, "rope_theta": 50.0}}, "rope_theta"),
    ],
)
def test_two_statements_of_rotary_positions_differ_in_what_one_of_them_leaves_out(name, change, differ):
    # transformers 5.24 takes rope_scaling alone, but adds it to what Gemma's other entry says; 4 takes either.
    with pytest.raises(ValueError, match=f"rope_scaling and rope_parameters differ in {differ}"):
        families.read(config_of(name) | change, "config.json")


def test_two_statements_of_rotary_positions_that_agree_are_one():
    expected = families.read(config_of("gemma3"), "")
    both = config_of("gemma3") | {"rope_scaling": {"rope_type": "linear", "factor": 4.0}}
    assert families.read(both, "") == expected


def test_the_length_of_llama_3s_first_training_is_read_where_it_stands():
    config = config_of("llama3_tied")
    rope = {name: value for name, value in config["rope_parameters"].items() if name != families.ORIGINAL}
    above = config | {"rope_parameters": rope, families.ORIGINAL: 60}
    assert families.read(above, "") == families.read(config, "")
    with pytest.raises(ValueError, match="original_max_position_embeddings is 16, and 60 of the rotary positions"):
        families.read(config | {families.ORIGINAL: 16}, "")


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("qwen2_tied", "self_attn.k_proj.bias"),
        ("qwen3_tied", "self_attn.q_norm.weight"),
        ("gemma3", "pre_feedforward_layernorm.weight"),
    ],
)
def test_a_missing_tensor_is_named(name, tensor, tmp_path):
    path = Path(shutil.copytree(GOLDEN / name, tmp_path / name))
    tensors = safetensors.numpy.load_file(path / "model.safetensors")
    shape = tensors.pop(f"model.layers.1.{tensor}").shape
    safetensors.numpy.save_file(tensors, path / "model.safetensors")
    with pytest.raises(ValueError, match=rf"missing model\.layers\.1\.{tensor} \({shape[0]},\)"):
        hf.read_directory(path)


def test_biases_that_a_config_does_not_speak_of_are_not_dropped(tmp_path):
    path = Path(shutil.copytree(GOLDEN / "qwen2_tied", tmp_path / "qwen2"))
    (path / "config.json").write_text(json.dumps(config_of("qwen2_tied") | {"model_type": "llama"}))
    with pytest.raises(ValueError, match=r"unexpected model\.layers\.0\.self_attn\.k_proj\.bias \(12,\)"):
        hf.read_directory(path)


@pytest.mark.parametrize(
    "options",
    [
        {"qkv_bias": True, "qk_norm": True},
        {"embed_scale": 4.0},
        {"window": 5, "global_layers": (1,)},
        {"norm_offset": 1.0},
        {"query_scalar": 9.0},
        {"activation": "gelu_tanh"},
    ],
)
def test_a_shape_that_no_family_has_is_not_written(options, tmp_path):
    cfg = dataclasses.replace(tiny.LM, **options)
    name, value = next(iter(options.items()))
    with pytest.raises(ValueError, match=f"no model of transformers .* has this shape.*{name} = {value}"):
        hf.write_directory(tmp_path / "out", cfg, tiny.lm_of(cfg)[1], None)
    assert not (tmp_path / "out").exists()


def test_half_precision_and_recomputation_are_no_part_of_a_shape():
    cfg = hf.read_config(GOLDEN / "gemma3")
    assert families.write(dataclasses.replace(cfg, dtype="bfloat16", remat="none"), "float32") == families.write(
        cfg, "float32"
    )


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"window": 0}, "model.window = 0: expected a positive integer"),
        ({"global_layers": (0,)}, "give model.window too"),
        ({"local_rope_theta": 10.0}, "give model.window too"),
        ({"window": 3, "global_layers": (0, 1)}, "model.global_layers = .* layers 0 to 1"),
        ({"window": 3, "global_layers": (2,)}, "model.global_layers = .* layers 0 to 1"),
        ({"activation": "relu"}, "model.activation = 'relu': choose one of silu, gelu_tanh"),
        ({"embed_scale": 0.0}, "model.embed_scale = 0.0: expected a positive number"),
        ({"query_scalar": -1.0}, "model.query_scalar = -1.0: expected a positive number"),
    ],
)
def test_illegal_options_are_named(wrong, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(tiny.LM, **wrong)


def test_options_that_are_off_leave_no_weights_and_draw_none():
    plain = lm.definition(tiny.LM).init(jax.random.key(0))
    everything = dataclasses.replace(tiny.LM, qkv_bias=True, qk_norm=True, post_norms=True, norm_offset=1.0)
    more = lm.definition(everything).init(jax.random.key(0))
    added = {
        "query_bias": (2, 4, 4), "key_bias": (2, 2, 4), "value_bias": (2, 2, 4), "query_norm": (2, 4),
        "key_norm": (2, 4), "attention_post_norm": (2, 16), "mlp_post_norm": (2, 16),
    }  # fmt: skip
    shapes = {name: np.shape(leaf["scale"] if "norm" in name else leaf) for name, leaf in more["blocks"].items()}
    assert {name: shape for name, shape in shapes.items() if name not in plain["blocks"]} == added
    for name in ("query", "down"):
        np.testing.assert_array_equal(more["blocks"][name], plain["blocks"][name])
    # Norms multiply by one at the start, biases add nothing.
    for name in added:
        assert not np.any(jax.tree.leaves(more["blocks"][name])[0])
    assert np.all(plain["blocks"]["attention_norm"]["scale"] == 1)


def test_gemma_goes_through_a_checkpoint_and_back(tmp_path):
    source = Path(shutil.copytree(GOLDEN / "gemma3", tmp_path / "source"))
    (source / "tokenizer.json").write_text(tokenizers.characters("".join(map(chr, range(33, 81)))).to_json())
    prepare.prepare(str(source), tmp_path / "checkpoint", "checkpoint", "float32")
    prepare.prepare(str(tmp_path / "checkpoint"), tmp_path / "back", "huggingface", "float32")
    first, last = runs.load_model(source), runs.load_model(tmp_path / "back")
    assert last.lm == first.lm == hf.read_config(GOLDEN / "gemma3")
    jax.tree.map(np.testing.assert_array_equal, last.params, first.params)


# --- thinking -----------------------------------------------------------------------------------------------------

THINKERS = {
    "mistral": dataclasses.replace(tiny.EXACT, window=3),
    "qwen": dataclasses.replace(
        tiny.EXACT, window=4, global_layers=(0,), qkv_bias=True, qk_norm=True, rope_scaling=Scaling(8.0, 1.0, 4.0, 20)
    ),
    "gemma": dataclasses.replace(
        tiny.EXACT, window=3, global_layers=(1,), local_rope_theta=10.0, rope_scaling=Scaling(4.0), qk_norm=True,
        post_norms=True, norm_offset=1.0, activation="gelu_tanh", embed_scale=4.0, query_scalar=7.0, tied=True,
    ),
}  # fmt: skip
START, END, SCALE = 11, 12, 2.0
TEXT = tiny.batch(
    tokens=[[3, 7, 1, 9, 4, 4, 0, 11, 8, 2, 5, 12, 6, 1], [5, 2, 10, 6, 1, 7, 0, 3, 9, 8, 2, 4, 0, 0]],
    segment=[[1, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2], [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0]],
)
ANCHORS = np.array([[1, 6, 10], [0, 5, 9]])
LOOKAHEAD = 3  # two true tokens behind the thought, inside the anchor's document


def thinker_of(cfg):
    """A thinker whose delimiters are the embeddings of two tokens, so that a text can be spliced out of tokens."""
    model, params = tiny.thinker_of(cfg, delimiter_scale=SCALE, pause=True)
    table = params["lm"]["embedding"]
    return model, {**params, "start": table[START] / SCALE, "end": table[END] / SCALE, "pause": table[5]}


def spliced(thoughts):
    """Every thought in its document, start and end around it and the true tokens behind it, a row each."""
    rows, before = [], []
    for b, r, a in np.ndindex(thoughts.shape[:3]):
        anchor, tokens = ANCHORS[b, a], np.asarray(TEXT.tokens[b])
        first = int(np.flatnonzero(np.asarray(TEXT.segment[b]) == TEXT.segment[b, anchor])[0])
        seen = [*tokens[first : anchor + 1]]
        rows.append([*seen, START, *thoughts[b, r, a], END, *tokens[anchor + 1 : anchor + LOOKAHEAD]])
        before.append(len(seen))
    width = max(map(len, rows))
    batch = tiny.batch(
        [row + [0] * (width - len(row)) for row in rows], [[1] * len(row) + [0] * (width - len(row)) for row in rows]
    )
    return batch, np.array(before)


@functools.partial(jax.jit, static_argnums=0)
def in_parallel(model, params):
    """Thoughts grown a column at a time, and the hidden states of all columns at once."""
    thinker = model.bind(params)
    context = tiny.context(thinker, TEXT, ANCHORS)
    settings = {"thought_len": 4, "num_thoughts": 2, "temperature": 1.0}
    thoughts = sample(thinker, context, jax.random.key(0), **settings)
    inner = thinker.lm.embed(thoughts.tokens)
    return thoughts, thought_columns(thinker, context, inner, LOOKAHEAD)


@functools.partial(jax.jit, static_argnums=0)
def in_one_text(model, params, batch):
    bound = model.bind(params).lm
    hidden = bound.text(batch).hidden
    return hidden, jax.nn.log_softmax(bound.logits(hidden))


@pytest.mark.parametrize(
    "family", ["gemma", *(pytest.param(name, marks=pytest.mark.slow) for name in ("mistral", "qwen"))]
)
def test_columns_equal_the_ordinary_text_with_the_thought_written_into_it(x64, family):
    model, params = thinker_of(THINKERS[family])
    thoughts, found = in_parallel(model, params)
    batch, before = spliced(np.asarray(thoughts.tokens))
    hidden, logprobs = in_one_text(model, params, batch)
    assert before.max() + found.shape[3] > 3 * THINKERS[family].window
    for row, at in enumerate(np.ndindex(thoughts.tokens.shape[:3])):
        columns = slice(before[row], before[row] + found.shape[3])
        np.testing.assert_allclose(found[at], hidden[row, columns], rtol=0, atol=tolerances.forward(THINKERS[family]))
        picked = np.take_along_axis(
            np.asarray(logprobs[row, before[row] : before[row] + 4]), np.asarray(thoughts.tokens[at])[:, None], 1
        )[:, 0]
        np.testing.assert_allclose(thoughts.logprobs[at], picked, rtol=0, atol=tolerances.forward(THINKERS[family]))


def test_writing_continues_as_if_the_text_so_far_were_the_prompt(x64):
    model, params = thinker_of(THINKERS["gemma"])
    method = QuietStar(thought_len=3)
    # Prompts of different lengths stand in rows of one width: what is new lies far behind the end of the shorter.
    prompts = [[3, 7, 1, 9, 4, 4, 0, 11, 8], [5, 2]]
    whole = generate(method, model, params, prompts * 5, jax.random.key(0), max_new_tokens=5)  # as many rows as below
    grown = [prompt + whole.text(row)[:count] for row, prompt in enumerate(prompts) for count in range(5)]
    steps = generate(method, model, params, grown, jax.random.key(0), max_new_tokens=1)
    np.testing.assert_array_equal(np.asarray(whole.tokens)[:2].ravel(), np.asarray(steps.tokens).ravel())
    bound = tolerances.forward(THINKERS["gemma"])
    np.testing.assert_allclose(
        np.asarray(whole.logprobs)[:2].ravel(), np.asarray(steps.logprobs).ravel(), rtol=0, atol=bound
    )


def test_delimiters_and_pauses_are_scaled_as_tokens_are(x64):
    model, params = thinker_of(THINKERS["gemma"])
    thinker = model.bind(params)
    table, wanted = params["lm"]["embedding"], thinker.lm.embed(jnp.array([START, END, 5]))
    np.testing.assert_allclose(wanted[0], 4 * table[START], rtol=tolerances.rounding(1, "float64"))
    np.testing.assert_allclose(thinker.start_embedding, wanted[0], rtol=tolerances.rounding(1, "float64"))
    np.testing.assert_allclose(thinker.end_embedding, wanted[1], rtol=tolerances.rounding(1, "float64"))
    settings = {"thought_len": 1, "num_thoughts": 1}
    context = Context(thinker.lm.text(TEXT), TEXT, jnp.asarray(ANCHORS))
    pause = fill("pause", thinker, context, jax.random.key(0), **settings)
    np.testing.assert_allclose(pause.embedding[0, 0, 0, 0], wanted[2], rtol=tolerances.rounding(1, "float64"))


def test_a_window_as_long_as_the_row_is_not_a_window():
    batch = tiny.packed()
    plain, windowed = (lm.definition(dataclasses.replace(tiny.LM, window=window)) for window in (None, 9))
    params = tiny.lm_of()[1]
    run = lambda model: jax.jit(lambda params: model.bind(params).text(batch).hidden).lower(params).as_text()  # noqa: E731
    assert run(windowed) == run(plain)


@pytest.mark.parametrize("remat", ["full", pytest.param("minimal", marks=pytest.mark.slow)])
def test_recomputing_layers_of_two_kinds_changes_no_gradient(x64, remat):
    def gradient(remat):
        model, params = tiny.lm_of(dataclasses.replace(THINKERS["gemma"], remat=remat))
        return jax.jit(jax.grad(lambda params: jnp.sum(model.bind(params).text(TEXT).hidden ** 3)))(params)

    for found, wanted in zip(jax.tree.leaves(gradient(remat)), jax.tree.leaves(gradient("none")), strict=True):
        assert np.any(wanted)
        assert tiny.relative_error(found, wanted) < tolerances.gradient(THINKERS["gemma"])
