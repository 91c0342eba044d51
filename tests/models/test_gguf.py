import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from qstar.data import tokenizer as tokenizers
from qstar.models import gguf as reader
from qstar.models import hf, lm

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


def write(path, weights, quantised=(), architecture="llama", pre="smollm", extra=None):
    """A GGUF file of `weights` as llama.cpp's converter writes them; `quantised` names are stored as Q8_0."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_context_length(CFG.max_len)
    writer.add_embedding_length(CFG.width)
    writer.add_block_count(CFG.layers)
    writer.add_feed_forward_length(CFG.ff)
    writer.add_head_count(CFG.heads)
    writer.add_head_count_kv(CFG.kv_heads)
    writer.add_rope_freq_base(CFG.rope_theta)
    writer.add_layer_norm_rms_eps(CFG.norm_eps)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(TOKENS)
    writer.add_token_types([3, 3] + [1] * 10)
    writer.add_token_merges(MERGES)
    for name, value in (extra or {}).items():
        writer.add_string(name, value)
    for name, weight in weights.items():
        heads = {"attn_q": CFG.heads, "attn_k": CFG.kv_heads}.get(name.split(".")[-2], 0)
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


def test_an_output_layer_makes_the_model_untied(tmp_path):
    weights = tensors(CFG, np.random.default_rng(1), tied=False)
    cfg, params, _ = reader.read_file(write(tmp_path / "m.gguf", weights))
    assert not cfg.tied
    np.testing.assert_array_equal(params["head"], weights["output.weight"])


def test_the_weights_survive_export_to_huggingface(tmp_path, weights):
    cfg, params, _ = reader.read_file(write(tmp_path / "m.gguf", weights))
    hf.write_directory(tmp_path / "hf", cfg, params, None)
    jax.tree.map(np.testing.assert_array_equal, hf.read_directory(tmp_path / "hf")[1], params)


def test_vocabulary_builds_the_tokenizer(tmp_path, weights):
    pieces = reader.read_file(write(tmp_path / "m.gguf", weights))[2]
    assert pieces.special == ("<|end|>", "<|user|>")
    assert pieces.digits
    vocab = {token: id for id, token in enumerate(pieces.tokens)}
    tokenizer = tokenizers.byte_level_bpe(vocab, pieces.merges, pieces.special, pieces.digits)
    assert tokenizer.encode("<|user|>ab ab 12") == [1, 6, 8, 5, 4, 9]


def test_another_architecture_is_refused(tmp_path, weights):
    path = write(tmp_path / "m.gguf", weights, architecture="gemma3")
    with pytest.raises(ValueError, match="architecture 'gemma3'; only llama is supported"):
        reader.read_file(path)


def test_another_tokenizer_is_refused(tmp_path, weights):
    with pytest.raises(ValueError, match="pre-tokeniser 'llama-bpe' cannot be rebuilt, only 'gpt2' with one of gpt-2"):
        reader.read_file(write(tmp_path / "m.gguf", weights, pre="llama-bpe"))


def test_scaled_positions_are_refused(tmp_path, weights):
    path = write(tmp_path / "m.gguf", weights, extra={"llama.rope.scaling.type": "yarn"})
    with pytest.raises(ValueError, match=r"rotary positions are scaled \(yarn\)"):
        reader.read_file(path)
    path = write(tmp_path / "n.gguf", weights | {"rope_freqs.weight": np.ones(4, np.float32)})
    with pytest.raises(ValueError, match="rotary positions are scaled"):
        reader.read_file(path)


def test_a_type_that_cannot_be_dequantised_is_named(tmp_path, weights):
    weights["blk.1.ffn_up.weight"] = weights["blk.1.ffn_up.weight"].astype(np.int8)
    path = write(tmp_path / "m.gguf", weights)
    with pytest.raises(ValueError, match=r"blk\.1\.ffn_up\.weight is stored as I8, which the package gguf cannot"):
        reader.read_file(path)


def test_missing_and_foreign_tensors_are_listed(tmp_path, weights):
    del weights["blk.1.ffn_up.weight"]
    weights["blk.0.attn_q.bias"] = np.zeros(32, np.float32)
    path = write(tmp_path / "m.gguf", weights)
    with pytest.raises(
        ValueError, match=r"missing model\.layers\.1\.mlp\.up_proj.*\n.*unexpected blk\.0\.attn_q\.bias"
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
    with pytest.raises(ImportError, match=r'pip install "qstar\[gguf\]"'):
        reader.read_file(tmp_path / "m.gguf")
