import dataclasses
import re
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from reference import gguf_blocks

from qstar import prepare, runs
from qstar.data import tokenizer as tokenizers
from qstar.models import lm
from qstar.models.formats import gguf as reader
from qstar.models.formats import hf

gguf = pytest.importorskip("gguf")

CFG = lm.LMConfig(
    vocab=12, width=32, layers=2, heads=4, kv_heads=2, head_size=8, ff=64, max_len=128, rope_theta=5000.0, norm_eps=1e-5
)
TOKENS = ["<|end|>", "<|user|>", *"ab1", "Ġ", "ab", "Ġa", "Ġab", "2", "c", "Ċ"]
MERGES = ["a b", "Ġ a", "Ġ ab"]


def interleaved(weight, heads):
    """Query or key rows as llama.cpp stores them: row 2 i + j of a head is row i of its half j."""
    size = weight.shape[0] // heads
    order = [head * size + j * size // 2 + i for head in range(heads) for i in range(size // 2) for j in (0, 1)]
    return weight[order]


def tensors(cfg, rng, tied):
    out = {
        "token_embd.weight": rng.normal(size=(cfg.vocab, cfg.width)),
        "output_norm.weight": rng.uniform(0.5, 1.5, cfg.width),
    }
    if not tied:
        out["output.weight"] = rng.normal(size=(cfg.vocab, cfg.width))
    inner, shared = cfg.heads * cfg.head_size, cfg.kv_heads * cfg.head_size
    for layer in range(cfg.layers):
        out |= {
            f"blk.{layer}.attn_norm.weight": rng.uniform(0.5, 1.5, cfg.width),
            f"blk.{layer}.attn_q.weight": rng.normal(size=(inner, cfg.width)),
            f"blk.{layer}.attn_k.weight": rng.normal(size=(shared, cfg.width)),
            f"blk.{layer}.attn_v.weight": rng.normal(size=(shared, cfg.width)),
            f"blk.{layer}.attn_output.weight": rng.normal(size=(cfg.width, inner)),
            f"blk.{layer}.ffn_norm.weight": rng.uniform(0.5, 1.5, cfg.width),
            f"blk.{layer}.ffn_gate.weight": rng.normal(size=(cfg.ff, cfg.width)),
            f"blk.{layer}.ffn_up.weight": rng.normal(size=(cfg.ff, cfg.width)),
            f"blk.{layer}.ffn_down.weight": rng.normal(size=(cfg.width, cfg.ff)),
        }
    return {name: weight.astype(np.float32) for name, weight in out.items()}


def bpe(writer, pre="smollm"):
    """The fields of a byte-level tokenizer."""
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(TOKENS)
    writer.add_token_types([3, 3] + [1] * 10)
    writer.add_token_merges(MERGES)


ADD = {str: "add_string", int: "add_uint32", float: "add_float32", bool: "add_bool", list: "add_array"}


def write(path, weights, quantised=(), architecture="llama", tokenizer=bpe, extra=None, cfg=CFG, raw=None):
    """A GGUF file of `weights` as llama.cpp's converter writes them.

    `quantised` names are stored as Q8_0; `raw` has the stored bytes of tensors by name, with their type.
    """
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_context_length(cfg.max_len)
    writer.add_embedding_length(cfg.width)
    writer.add_block_count(cfg.layers)
    writer.add_feed_forward_length(cfg.ff)
    writer.add_head_count(cfg.heads)
    writer.add_head_count_kv(cfg.kv_heads)
    writer.add_rope_freq_base(cfg.rope_theta)
    writer.add_layer_norm_rms_eps(cfg.norm_eps)
    tokenizer(writer)
    for name, value in (extra or {}).items():
        getattr(writer, ADD[type(value)])(name, value)
    for name, (stored, kind) in (raw or {}).items():
        writer.add_tensor(name, stored, raw_dtype=gguf.GGMLQuantizationType[kind])
    for name, weight in weights.items():
        heads = {"attn_q": cfg.heads, "attn_k": cfg.kv_heads}.get(name.split(".")[-2], 0)
        weight = interleaved(weight, heads) if heads else weight
        if name in quantised:
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(name, gguf.quants.quantize(weight, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return Path(path)


@pytest.fixture
def weights():
    return tensors(CFG, np.random.default_rng(0), tied=True)


def test_config_is_read(tmp_path, weights):
    assert reader.read_file(write(tmp_path / "m.gguf", weights))[0] == CFG


def test_every_weight_lands_in_its_place(tmp_path, weights):
    _, params, _ = reader.read_file(write(tmp_path / "m.gguf", weights))
    lm.definition(CFG).check(params)
    blocks = params["blocks"]
    np.testing.assert_array_equal(params["embedding"], weights["token_embd.weight"])
    np.testing.assert_array_equal(params["norm"]["scale"], weights["output_norm.weight"])
    for layer in range(2):
        at = {name.split(".")[2]: w for name, w in weights.items() if name.startswith(f"blk.{layer}.")}
        np.testing.assert_array_equal(blocks["attention_norm"]["scale"][layer], at["attn_norm"])
        np.testing.assert_array_equal(blocks["mlp_norm"]["scale"][layer], at["ffn_norm"])
        for head in range(4):
            rows = slice(8 * head, 8 * head + 8)
            np.testing.assert_array_equal(blocks["query"][layer, :, head], at["attn_q"][rows].T)
            np.testing.assert_array_equal(blocks["out"][layer, head], at["attn_output"][:, rows].T)
        for head in range(2):
            rows = slice(8 * head, 8 * head + 8)
            np.testing.assert_array_equal(blocks["key"][layer, :, head], at["attn_k"][rows].T)
            np.testing.assert_array_equal(blocks["value"][layer, :, head], at["attn_v"][rows].T)
        np.testing.assert_array_equal(blocks["gate"][layer], at["ffn_gate"].T)
        np.testing.assert_array_equal(blocks["up"][layer], at["ffn_up"].T)
        np.testing.assert_array_equal(blocks["down"][layer], at["ffn_down"].T)


def test_quantised_tensors_come_back_within_half_a_step(tmp_path, weights):
    names = ("token_embd.weight", "blk.1.attn_q.weight")
    exact = reader.read_file(write(tmp_path / "exact.gguf", weights))[1]
    rounded = reader.read_file(write(tmp_path / "rounded.gguf", weights, quantised=names))[1]
    # Q8_0 keeps 32 weights in steps of their largest / 127, the step itself in half precision.
    for a, b in (
        (exact["embedding"], rounded["embedding"]),
        (exact["blocks"]["query"][1], rounded["blocks"]["query"][1]),
    ):
        gap = np.abs(a - b).max()
        assert 0 < gap < np.abs(a).max() / 127 * 0.6
    np.testing.assert_array_equal(exact["blocks"]["key"], rounded["blocks"]["key"])


# Rows of 256 weights, so that the types with blocks of 256 fit.
WIDE = dataclasses.replace(CFG, vocab=12, width=256, layers=1, heads=2, kv_heads=1, head_size=128, ff=3)


@pytest.mark.parametrize("kind", gguf_blocks.BLOCKS)
def test_every_type_is_dequantised_bit_by_bit(tmp_path, kind):
    rng = np.random.default_rng(2)
    weights = tensors(WIDE, rng, tied=True)
    stored = {
        name: gguf_blocks.random_rows(kind, rng, *weights.pop(name).shape)
        for name in ("token_embd.weight", "blk.0.ffn_up.weight", "blk.0.attn_k.weight")
    }
    raw = {name: (bytes, kind) for name, bytes in stored.items()}
    _, params, _ = reader.read_file(write(tmp_path / "m.gguf", weights, cfg=WIDE, raw=raw))
    wanted = {name: gguf_blocks.weights(kind, rows) for name, rows in stored.items()}
    for name, rows in stored.items():
        # Two readings of the format that know nothing of each other.
        same = gguf.quants.dequantize(rows, gguf.GGMLQuantizationType[kind])
        np.testing.assert_array_equal(same, wanted[name])
        assert len(np.unique(wanted[name])) > 20
    np.testing.assert_array_equal(params["embedding"], wanted["token_embd.weight"])
    np.testing.assert_array_equal(params["blocks"]["up"][0], wanted["blk.0.ffn_up.weight"].T)
    # The bytes were of interleaved rows: 0, 2, 4, ... are the first half of the head.
    halves = [*range(0, 128, 2), *range(1, 128, 2)]
    np.testing.assert_array_equal(params["blocks"]["key"][0, :, 0], wanted["blk.0.attn_k.weight"][halves].T)


def test_an_output_layer_makes_the_model_untied(tmp_path):
    weights = tensors(CFG, np.random.default_rng(1), tied=False)
    cfg, params, _ = reader.read_file(write(tmp_path / "m.gguf", weights))
    assert not cfg.tied
    np.testing.assert_array_equal(params["head"], weights["output.weight"])


def test_the_weights_survive_export_to_huggingface(tmp_path, weights):
    cfg, params, _ = reader.read_file(write(tmp_path / "m.gguf", weights))
    hf.write_directory(tmp_path / "hf", cfg, params, None)
    jax.tree.map(np.testing.assert_array_equal, hf.read_directory(tmp_path / "hf")[1], params)


# --- tokenizers ---------------------------------------------------------------------------------------------------


def test_vocabulary_builds_the_tokenizer(tmp_path, weights):
    tokenizer = runs.load_model(write(tmp_path / "m.gguf", weights)).tokenizer
    assert tokenizer.encode("<|user|>ab ab 12") == [1, 6, 8, 5, 4, 9]


@pytest.mark.parametrize(
    "pre, style", [("gpt-2", "gpt-2"), ("smollm", "smollm"), ("llama-bpe", "llama3"), ("qwen2", "qwen2")]
)
def test_the_pre_tokenisers_have_their_styles(tmp_path, weights, pre, style):
    pieces = reader.read_file(write(tmp_path / "m.gguf", weights, tokenizer=lambda writer: bpe(writer, pre)))[2]
    assert (pieces.style, pieces.special) == (style, ("<|end|>", "<|user|>"))
    assert style in tokenizers.STYLES


PIECES = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "a", "b", "▁", "ab", "▁ab", "  ", "\n"]
SPM = dataclasses.replace(CFG, vocab=len(PIECES))


def spm(prefix):
    """The fields of a SentencePiece tokenizer; `prefix` None leaves its field out."""

    def add(writer):
        writer.add_tokenizer_model("llama")
        writer.add_tokenizer_pre("default")
        writer.add_token_list(PIECES)
        writer.add_token_scores([0.0] * 259 + [-10.0, -11.0, -12.0, -1.0, -2.0, -1000.0, -1000.0])
        writer.add_token_types([2, 3, 3] + [6] * 256 + [1] * 5 + [4, 4])
        if prefix is not None:
            writer.add_add_space_prefix(prefix)

    return add


@pytest.mark.parametrize("prefix", [None, True, False])
def test_a_sentencepiece_vocabulary_builds_the_tokenizer(tmp_path, prefix):
    path = write(tmp_path / "m.gguf", tensors(SPM, np.random.default_rng(0), True), tokenizer=spm(prefix), cfg=SPM)
    tokenizer = runs.load_model(path).tokenizer
    a, ab, spaced = 259, 262, 263
    first = ab if prefix is False else spaced  # llama.cpp puts the space before the text unless told otherwise
    assert tokenizer.encode("ab ab") == [first, spaced]
    assert tokenizer.encode("<s>ab</s>") == [1, first, 2]
    assert tokenizer.encode("abé")[1:] == [3 + 0xC3, 3 + 0xA9]
    for text in ("ab ab", "abé", "a  ab"):
        assert tokenizer.decode(tokenizer.encode(text)) == text
    if prefix is False:
        assert tokenizer.encode("ab  ab\na") == [ab, 264, ab, 265, a]  # what users defined goes before every merge


@pytest.mark.parametrize(
    "model, pre, more",
    [
        ("gpt2", "tekken", {}),
        ("gpt2", "default", {}),
        ("t5", "default", {}),
        ("llama", "default", {"tokenizer.ggml.remove_extra_whitespaces": True}),
    ],
)
def test_another_tokenizer_is_refused(tmp_path, weights, model, pre, more):
    def other(writer):
        writer.add_tokenizer_model(model)
        writer.add_tokenizer_pre(pre)
        writer.add_token_list(TOKENS)

    path = write(tmp_path / "m.gguf", weights, tokenizer=other, extra=more)
    with pytest.raises(ValueError, match=rf"tokenizer '{model}'.* with pre-tokeniser '{pre}'.* only 'llama' .*gpt-2"):
        reader.read_file(path)


# --- what is not read ---------------------------------------------------------------------------------------------


def test_another_architecture_is_refused(tmp_path, weights):
    path = write(tmp_path / "m.gguf", weights, architecture="gemma2")
    with pytest.raises(ValueError, match="architecture 'gemma2'; supported are llama, qwen2, qwen3, gemma3"):
        reader.read_file(path)


@pytest.mark.parametrize(
    "field, value, message",
    [
        ("general.type", "adapter", "general.type is 'adapter'"),
        ("split.count", 3, "is one of 3 parts (split.count); join them with llama-gguf-split --merge"),
        ("llama.expert_count", 8, "llama.expert_count is 8, only 0 is supported"),
        ("llama.final_logit_softcapping", 30.0, "llama.final_logit_softcapping is 30.0, only 0 is supported"),
        ("llama.attention.causal", False, "llama.attention.causal is False, only True is supported"),
        ("llama.rope.scaling.type", "yarn", "llama.rope.scaling.type is 'yarn', only none, linear and llama3's"),
        ("llama.rope.dimension_count", 4, "llama.rope.dimension_count is 4, only the size of a head's keys, 8, is"),
        ("llama.attention.value_length", 16, "llama.attention.value_length is 16, only the size of a head's keys, 8"),
        ("llama.rope.scaling.factor", [1, 2], "llama.rope.scaling.factor is [1, 2]; only models whose layers are all"),
        (
            "llama.attention.key_length",
            [8, 4],
            "llama.attention.key_length is [8, 4]; only models whose layers are all",
        ),
    ],
)
def test_settings_that_are_not_computed_are_named_with_their_value(tmp_path, weights, field, value, message):
    path = write(tmp_path / "m.gguf", weights, extra={field: value})
    with pytest.raises(ValueError, match=re.escape(message)):
        reader.read_file(path)


def test_settings_that_say_what_is_computed_anyway_are_no_obstacle(tmp_path, weights):
    said = {
        "general.type": "model", "split.count": 1, "llama.expert_count": 0, "llama.attention.causal": True,
        "llama.logit_scale": 1.0, "llama.rope.scaling.type": "none", "llama.rope.dimension_count": 8,
        "llama.attention.key_length": [8, 8], "llama.attention.value_length": 8,
    }  # fmt: skip
    assert reader.read_file(write(tmp_path / "m.gguf", weights, extra=said))[0] == CFG


def test_windows_are_read_where_llama_cpp_reads_them(tmp_path, weights):
    mistral = write(tmp_path / "m.gguf", weights, extra={"llama.attention.sliding_window": 16})
    assert reader.read_file(mistral)[0] == dataclasses.replace(CFG, window=16)
    biases = {
        f"blk.{i}.attn_{x}.bias": np.zeros(n, np.float32) for i in (0, 1) for x, n in (("q", 32), ("k", 16), ("v", 16))
    }
    # Of Qwen's configs the most name a window that no layer has.
    qwen = write(tmp_path / "q.gguf", weights | biases, (), "qwen2", extra={"qwen2.attention.sliding_window": 16})
    assert reader.read_file(qwen)[0] == dataclasses.replace(CFG, qkv_bias=True)


def test_a_type_that_cannot_be_dequantised_is_named_before_anything_is_written(tmp_path, weights):
    weights["blk.1.ffn_up.weight"] = weights["blk.1.ffn_up.weight"].astype(np.int8)
    path = write(tmp_path / "m.gguf", weights)
    message = (
        r"blk\.1\.ffn_up\.weight is stored as I8, which the package gguf cannot dequantise; it reads F32, F16, Q4_0, "
        r"Q4_1, .*Q8_0, .*Q4_K, Q5_K, Q6_K, .*BF16.*: take another quantisation"
    )
    with pytest.raises(ValueError, match=message):
        prepare.prepare(str(path), tmp_path / "out", "checkpoint", "float32")
    assert not (tmp_path / "out").exists()


def test_missing_and_foreign_tensors_are_listed(tmp_path, weights):
    del weights["blk.1.ffn_up.weight"]
    weights["blk.0.attn_q.bias"] = np.zeros(32, np.float32)
    path = write(tmp_path / "m.gguf", weights)
    with pytest.raises(
        ValueError, match=r"missing model\.layers\.1\.mlp\.up_proj.*\n.*unexpected model.layers.0.self_attn.q_proj.bias"
    ):
        reader.read_file(path)


@pytest.mark.parametrize("kept", [10, 700, 0.5, 0.99])
def test_a_truncated_file_is_named_with_its_size(tmp_path, weights, kept):
    whole = write(tmp_path / "m.gguf", weights).read_bytes()
    size = kept if isinstance(kept, int) else int(len(whole) * kept)
    (tmp_path / "cut.gguf").write_bytes(whole[:size])
    with pytest.raises(ValueError, match=rf"cut\.gguf \({size} bytes\) is damaged or cut short"):
        reader.read_file(tmp_path / "cut.gguf")


def test_what_is_no_gguf_file_is_told_apart(tmp_path):
    (tmp_path / "m.gguf").write_bytes(b"PK\x03\x04")
    with pytest.raises(ValueError, match="does not begin with the letters GGUF"):
        reader.read_file(tmp_path / "m.gguf")
    with pytest.raises(FileNotFoundError, match="no GGUF file at"):
        reader.read_file(tmp_path / "absent.gguf")


def test_without_the_package_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(ImportError, match=r'pip install "\.\[gguf\]"'):
        reader.read_file(tmp_path / "m.gguf")
