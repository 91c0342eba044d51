"""GGUF files that are cut, damaged or made to mislead: refused at once, by the name of the file and of the fault."""

import json
import random
import struct
import time

import numpy as np
import pytest

from qstar import runs
from qstar.models.formats import gguf as reader
from qstar.models.formats import gguf_header

gguf = pytest.importorskip("gguf")

from test_gguf import CFG, TOKENS, bpe, tensors, write  # noqa: E402

BLOCKS = {int(type): sizes for type, sizes in gguf.GGML_QUANT_SIZES.items()}


@pytest.fixture
def weights():
    return tensors(CFG, np.random.default_rng(0), tied=True)


def text(value):
    return struct.pack("<Q", len(value)) + value.encode()


def header(path, fields=(), infos=(), data=b"", counts=None):
    """A file of these fields and tensors, each as bytes."""
    counts = (len(infos), len(fields)) if counts is None else counts
    contents = b"GGUF" + struct.pack("<IQQ", 3, *counts) + b"".join(fields) + b"".join(infos)
    path.write_bytes(contents + bytes(-len(contents) % 32) + data if fields or infos else contents)
    return path


def info(name="a", shape=(8,), kind=0, offset=0):
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


@pytest.mark.parametrize(
    ("fields", "infos", "counts", "cause"),
    [
        ([], [], (0, 2**62), "name of field 0"),
        ([], [], (2**62, 0), "name of tensor 0"),
        ([struct.pack("<Q", 2**62)], [], None, f"name of field 0 .*{2**62} bytes"),
        ([text("k") + struct.pack("<IIQ", 9, 0, 2**60)], [], None, f"k at .*{2**60} bytes"),  # a list of bytes
        ([text("k") + struct.pack("<IIQ", 9, 8, 2**60)], [], None, "k at"),  # a list of texts
        ([text("k") + struct.pack("<IIQ", 9, 9, 1)], [], None, "field k is a list of lists"),
        ([text("k") + struct.pack("<IIQ", 9, 77, 1)], [], None, "field k is of the unknown type 77"),
        ([text("k") + struct.pack("<I", 77)], [], None, "field k is of the unknown type 77"),
        ([text("k") + struct.pack("<IQ", 8, 2**40)], [], None, f"k at .*{2**40} bytes"),
        ([text("general.alignment") + struct.pack("<II", 4, 0)], [], None, "general.alignment is 0"),
        ([text("general.alignment") + struct.pack("<II", 4, 24)], [], None, "general.alignment is 24"),
        ([text("k") + struct.pack("<II", 4, 1)] * 2, [], None, "Duplicate k"),
        ([], [info(offset=64)], None, "tensor 'a' is at"),
        ([], [info(offset=2**62)], None, "tensor 'a' is at"),
        ([], [info(offset=8)], None, "tensor 'a' is at"),
        ([], [info("a"), info("b")], None, "tensor 'b' is at"),
        ([], [info(), info(offset=32)], None, "tensor with name a"),
        ([], [info(shape=(2**40,))], None, "tensor 'a' is at"),
        ([], [info(shape=(2**40, 2**40, 2**40, 2**40))], None, "tensor 'a' is at"),
        ([], [info(shape=(0,))], None, r"tensor 'a' has the shape \[0\]"),
        ([], [info(shape=())], None, "tensor 'a' has 0 axes"),
        ([], [info(shape=(1,) * 9)], None, "tensor 'a' has 9 axes"),
        ([], [info(kind=999)], None, "tensor 'a' is of the unknown type 999"),
        ([], [info(shape=(8,), kind=8)], None, r"tensor 'a' has the shape \[8\], expected rows of blocks of 32"),
    ],
)
def test_lengths_places_and_types_are_checked_against_the_size_of_the_file(tmp_path, fields, infos, counts, cause):
    path = header(tmp_path / "m.gguf", fields, infos, bytes(64), counts)
    began = time.perf_counter()
    with pytest.raises(ValueError, match=rf"m\.gguf \(\d+ bytes\) is damaged or cut short .*{cause}"):
        reader.read_file(path)
    assert time.perf_counter() - began < 1  # the reader alone would fill the memory first


def test_a_file_that_is_whole_passes_in_either_byte_order(tmp_path, weights):
    gguf_header.check(write(tmp_path / "m.gguf", weights, quantised=("token_embd.weight",)), BLOCKS)
    path = tmp_path / "big.gguf"
    writer = gguf.GGUFWriter(path, "llama", endianess=gguf.GGUFEndian.BIG)
    writer.add_token_list(TOKENS)
    writer.add_tensor("a", np.ones((2, 8), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    gguf_header.check(path, BLOCKS)


def test_a_file_cut_anywhere_is_refused_by_its_name(tmp_path, weights):
    whole = write(tmp_path / "whole.gguf", weights).read_bytes()
    path = tmp_path / "m.gguf"
    for size in [*range(4, 24), *random.Random(0).sample(range(24, len(whole) - 32), 40)]:
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=rf"m\.gguf \({size} bytes\) is damaged or cut short"):
            reader.read_file(path)


def test_flipped_bytes_of_the_header_give_the_model_or_an_error_with_the_name(tmp_path, weights):
    whole = write(tmp_path / "whole.gguf", weights).read_bytes()
    expected, path, refused = reader.read_file(tmp_path / "whole.gguf"), tmp_path / "m.gguf", 0
    dice = random.Random(0)
    for at in dice.sample(range(4, whole.find(b"token_embd.weight") + 600), 150):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << dice.randrange(8)]) + whole[at + 1 :])
        try:
            loaded = runs.load_model(path)
        except ValueError as error:
            refused += 1
            assert "m.gguf" in str(error)
        else:
            assert loaded.language_model["embedding"].shape == expected[1]["embedding"].shape
    assert refused > 75


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("llama.block_count", 10**9, "block_count is 1000000000"),
        ("llama.block_count", "many", "block_count is many, expected an integer"),
        ("llama.block_count", 0, "block_count is 0, expected a positive integer"),
        ("llama.block_count", 9_999, "num_hidden_layers is 9999, the tensors are those of 2 layers"),
        ("llama.attention.head_count", 0, "head_count is 0, expected a positive integer"),
        ("llama.attention.head_count", 1.5, "head_count is 1.5, expected an integer"),
        ("llama.embedding_length", 2**31 - 32, r"token_embd|embed_tokens.weight is \(12, 32\)"),
        ("llama.feed_forward_length", 2**31 - 1, "down_proj.weight is"),
        ("llama.vocab_size", 2**31 - 1, "embed_tokens.weight is"),
        ("llama.attention.layer_norm_rms_epsilon", float("nan"), "epsilon is nan, expected a finite number"),
        ("llama.attention.layer_norm_rms_epsilon", -1.0, "rms_norm_eps is -1.0"),
        ("llama.rope.freq_base", float("inf"), "freq_base is inf"),
        ("llama.rope.freq_base", "x", "freq_base is x"),
        ("tokenizer.ggml.tokens", "abc", "tokens is abc, expected a list of str"),
        ("tokenizer.ggml.tokens", [1, 2], r"tokens is \[1, 2\], expected a list of str"),
        ("tokenizer.chat_templates", "tools", "chat_templates is tools, expected a list of str"),
        ("general.sampling.temp", "hot", "general.sampling.temp is hot, expected a finite number"),
        ("general.sampling.temp", float("nan"), "general.sampling.temp is nan"),
        ("tokenizer.ggml.merges", ["a b c"], "merges has 'a b c', expected two tokens"),
        ("tokenizer.ggml.merges", [1], "merges is"),
        ("tokenizer.ggml.token_type", [1], "token_type has 1 entries, expected 12"),
        ("tokenizer.ggml.model", 3, "model is 3, expected a text"),
        ("tokenizer.ggml.bos_token_id", "x", "bos_token_id is x, expected the id of a token"),
        ("tokenizer.chat_template", 3, "chat_template is 3, expected a text"),
        ("tokenizer.ggml.tokens", [*TOKENS[:11], "c"], "tokens has 'c' twice, as ids 10 and 11"),
        ("tokenizer.ggml.add_bos_token", "false", "add_bos_token is false, expected true or false of type bool"),
        ("tokenizer.ggml.add_bos_token", [0], r"add_bos_token is \[0\]"),
        ("tokenizer.ggml.add_eos_token", 2.5, "add_eos_token is 2.5"),
    ],
)
def test_fields_of_another_type_or_size_are_named_before_memory_is_taken(tmp_path, weights, field, value, message):
    def tokenizer(writer):
        bpe(writer)
        writer.kv_data[0].pop(field, None)  # set anew

    path = write(tmp_path / "m.gguf", weights, tokenizer=tokenizer, extra={field: value})
    with pytest.raises(ValueError, match=rf"m\.gguf(.|\n)*{message}"):
        reader.read_file(path)


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        (["full", "near"], r"sliding_window_pattern is \['full', 'near'\], expected a period or a list of booleans"),
        ([1, 0], r"sliding_window_pattern is \[1, 0\]"),
        (-2, "sliding_window_pattern is -2"),
        (True, "sliding_window_pattern is True"),
        (2.5, "sliding_window_pattern is 2.5"),
    ],
)
def test_a_pattern_of_windows_is_a_period_or_booleans(tmp_path, weights, pattern, message):
    window, key = "llama.attention.sliding_window", "llama.attention.sliding_window_pattern"

    def tokenizer(writer):
        bpe(writer)
        if isinstance(pattern, int) and not isinstance(pattern, bool):
            writer.add_int32(key, pattern)

    extra = {window: 8} | ({} if type(pattern) is int else {key: pattern})
    path = write(tmp_path / "m.gguf", weights, tokenizer=tokenizer, extra=extra)
    with pytest.raises(ValueError, match=rf"m\.gguf.*{message}"):
        reader.read_file(path)


@pytest.mark.parametrize("key", ["add_space_prefix", "remove_extra_whitespaces"])
def test_switches_of_a_sentencepiece_vocabulary_are_booleans(tmp_path, weights, key):
    def tokenizer(writer):
        writer.add_tokenizer_model("llama")
        writer.add_token_list(TOKENS)
        writer.add_token_scores([0.0] * len(TOKENS))
        writer.add_string(f"tokenizer.ggml.{key}", "false")

    path = write(tmp_path / "m.gguf", weights, tokenizer=tokenizer)
    with pytest.raises(ValueError, match=rf"m\.gguf: tokenizer\.ggml\.{key} is false, expected true or false"):
        reader.read_file(path)


@pytest.mark.parametrize("field", ["llama.rope.freq_base", "llama.attention.layer_norm_rms_epsilon"])
@pytest.mark.filterwarnings("error")
def test_numbers_beyond_float32_are_refused_by_their_field(tmp_path, weights, field):
    def tokenizer(writer):
        bpe(writer)
        writer.kv_data[0].pop(field, None)
        writer.add_float64(field, 1e308)

    path = write(tmp_path / "m.gguf", weights, tokenizer=tokenizer)
    with pytest.raises(ValueError, match=rf"m\.gguf: {field} is 1e\+308, expected a finite number"):
        reader.read_file(path)


@pytest.mark.parametrize("quantised", [(), ("blk.1.ffn_down.weight",)])
def test_weights_that_are_not_finite_are_named(tmp_path, weights, quantised):
    weights["blk.1.ffn_down.weight"][3, 4] = np.nan
    with np.errstate(invalid="ignore"):
        path = write(tmp_path / "m.gguf", weights, quantised)
    with pytest.raises(ValueError, match=r"m\.gguf: blk\.1\.ffn_down\.weight holds .* NaN or infinite"):
        reader.read_file(path)


# --- special tokens, templates, generation ------------------------------------------------------------------------

SAID = {
    "tokenizer.ggml.bos_token_id": 1,
    "tokenizer.ggml.eos_token_id": 0,
    "tokenizer.ggml.eot_token_id": 1,
    "tokenizer.ggml.eom_token_id": 0,
    "tokenizer.ggml.padding_token_id": 4,
    "tokenizer.ggml.unknown_token_id": 4000,  # beyond the vocabulary: there is none
    "tokenizer.ggml.add_bos_token": True,
    "tokenizer.chat_template": "{{ messages }}",
    "general.sampling.temp": 0.7,
    "general.sampling.top_k": 20,
}


def said(path):
    files = runs.load_model(path).companions
    return (json.loads(files.get(name, "null")) for name in ("tokenizer_config.json", "generation_config.json"))


def test_special_tokens_templates_and_generation_of_a_file_go_along(tmp_path, weights):
    config, generation = said(write(tmp_path / "m.gguf", weights, extra=SAID))
    assert (config["bos_token"], config["eos_token"], config["pad_token"]) == ("<|user|>", "<|end|>", "1")
    assert (config["add_bos_token"], config["chat_template"]) == (True, "{{ messages }}")
    assert "unk_token" not in config
    assert generation == {
        "bos_token_id": 1, "eos_token_id": [0, 1], "pad_token_id": 4, "do_sample": True, "temperature": 0.7, "top_k": 20
    }  # fmt: skip


def test_several_templates_are_kept_by_name(tmp_path, weights):
    extra = {
        "tokenizer.chat_template": "A",
        "tokenizer.chat_templates": ["tools", "rag"],
        "tokenizer.chat_template.tools": "B",
        "tokenizer.chat_template.rag": "C",
    }
    config, _ = said(write(tmp_path / "m.gguf", weights, extra=extra))
    assert {one["name"]: one["template"] for one in config["chat_template"]} == {
        "default": "A",
        "tools": "B",
        "rag": "C",
    }


def test_a_file_that_says_nothing_has_no_special_tokens(tmp_path, weights):
    config, generation = said(write(tmp_path / "m.gguf", weights))
    assert not {"bos_token", "eos_token", "pad_token", "chat_template"} & set(config)
    assert config["add_bos_token"] is False
    assert generation is None
