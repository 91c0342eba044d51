import dataclasses
import json
import os
import struct
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qstar import runs
from qstar.methods.plain_lm import PlainLM
from qstar.models.formats import hf, llama2c
from qstar.thoughts.writing import generate

GOLDEN = Path(__file__).parents[2] / "golden"
PIECES = ["<unk>", "\n<s>\n", "\n</s>\n", *(f"<0x{byte:02X}>" for byte in range(256)), "a", "b", " ", "ab", " ab"]


def interleaved(weight):
    """[D heads K] as the rows of a matrix [out, in] whose heads lie in pairs (a0 b0 a1 b1 ...)."""
    half = weight.shape[2] // 2
    order = [channel for pair in range(half) for channel in (pair, pair + half)]
    return np.concatenate([weight[:, head, order].T for head in range(weight.shape[1])])


def write(folder, cfg, params, pieces=PIECES):
    """A legacy file and its tokenizer."""
    blocks, layers = params["blocks"], range(cfg.layers)
    flat = lambda name: [blocks[name][layer].reshape(cfg.width, -1).T for layer in layers]  # noqa: E731
    turned = lambda name: [interleaved(blocks[name][layer]) for layer in layers]  # noqa: E731
    parts = [params["embedding"], blocks["attention_norm"]["scale"], *turned("query"), *turned("key"), *flat("value")]
    parts += [blocks["out"][layer].reshape(-1, cfg.width).T for layer in layers]
    parts += [blocks["mlp_norm"]["scale"], *flat("gate"), *(blocks["down"][layer].T for layer in layers), *flat("up")]
    parts += [params["norm"]["scale"], np.zeros(cfg.max_len * cfg.head_size)]
    parts += [] if cfg.tied else [params["head"]]
    sizes = (cfg.width, cfg.ff, cfg.layers, cfg.heads, cfg.kv_heads, cfg.vocab if cfg.tied else -cfg.vocab, cfg.max_len)
    numbers = np.concatenate([np.ascontiguousarray(part, "<f4").ravel() for part in parts])
    (folder / "m.bin").write_bytes(struct.pack("<7i", *sizes) + numbers.tobytes())
    spelled = [piece.encode() for piece in pieces[: cfg.vocab]]
    entries = [struct.pack("<fi", -float(id), len(piece)) + piece for id, piece in enumerate(spelled)]
    (folder / "tokenizer.bin").write_bytes(struct.pack("<i", 6) + b"".join(entries))
    return folder / "m.bin"


@pytest.mark.parametrize("name", ["llama_mha_tied", "llama_gqa_untied"])
def test_weights_are_those_of_the_same_model_in_another_file(name, tmp_path):
    cfg, params = hf.read_directory(GOLDEN / name)
    read, found, pieces = llama2c.read_file(write(tmp_path, cfg, params))
    assert read == dataclasses.replace(cfg, rope_theta=10000.0, norm_eps=1e-5)
    assert jax.tree.structure(found) == jax.tree.structure(params)
    jax.tree.map(np.testing.assert_array_equal, found, params)
    assert (pieces.tokens[:3], pieces.scores[:3]) == (("<unk>", "<s>", "</s>"), (0, -1, -2))


def test_a_model_is_loaded_with_its_tokenizer(tmp_path):
    cfg, params = hf.read_directory(GOLDEN / "llama_mha_tied")
    cfg = dataclasses.replace(cfg, vocab=len(PIECES))
    path = write(tmp_path, cfg, params | {"embedding": np.ones((len(PIECES), cfg.width), np.float32)})
    model = runs.load_model(path)
    assert model.lm.vocab == len(PIECES)
    assert model.tokenizer.encode("ab a") == [PIECES.index(" ab"), PIECES.index(" "), PIECES.index("a")]


def broken(tmp_path, change):
    cfg, params = hf.read_directory(GOLDEN / "llama_mha_tied")
    path = write(tmp_path, cfg, params)
    change(path)
    return path


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-4]), ValueError, r"has \d+ bytes, its header"),
        (lambda path: path.write_bytes(b"GGUF" + bytes(2000)), ValueError, "does not begin with the sizes"),
        (lambda path: path.write_bytes(b""), ValueError, "does not begin with the sizes"),
        (lambda path: (path.parent / "tokenizer.bin").unlink(), FileNotFoundError, "no tokenizer at .*tokenizer.bin"),
        (lambda path: path.unlink(), FileNotFoundError, "no llama2.c weights"),
        (
            lambda path: (path.parent / "tokenizer.bin").write_bytes(bytes(4) + struct.pack("<fi", 0.0, 1) + b"a"),
            ValueError,
            "breaks off after 1 of 48 pieces",
        ),
    ],
)
def test_files_that_cannot_be_read_are_named(tmp_path, change, error, message):
    with pytest.raises(error, match=message):
        llama2c.read_file(broken(tmp_path, change))


def test_a_tokenizer_of_another_model_is_refused(tmp_path):
    tail = lambda path: path.with_name("tokenizer.bin").open("ab").write(b"more")  # noqa: E731
    with pytest.raises(ValueError, match="after its 48 pieces"):
        llama2c.read_file(broken(tmp_path, tail))


def test_a_piece_that_stands_twice_is_refused(tmp_path):
    cfg, params = hf.read_directory(GOLDEN / "llama_mha_tied")
    path = write(tmp_path, cfg, params, [*PIECES[:40], PIECES[10], *PIECES[41:]])
    with pytest.raises(ValueError, match=r"tokenizer\.bin has the piece .* twice, as ids 10 and 40"):
        llama2c.read_file(path)


def test_a_huge_tokenizer_is_refused_unread(tmp_path):
    grow = lambda path: os.truncate(path.with_name("tokenizer.bin"), 1 << 40)  # noqa: E731 (takes no place on the disk)
    with pytest.raises(ValueError, match=r"tokenizer\.bin has 1,099,511,627,776 bytes, expected at most"):
        llama2c.read_file(broken(tmp_path, grow))


STORIES = Path(os.environ.get("QSTAR_DATA", ".")) / "stories260k" / "checkpoint_legacy.bin"


@pytest.mark.skipif(not STORIES.is_file(), reason="QSTAR_DATA names no folder with stories260k/checkpoint_legacy.bin")
def test_stories260k_tells_the_story_that_llama2c_tells(tmp_path):
    model = runs.load_model(STORIES)
    # As llama2.c's own loop over the pairs of pieces encodes it.
    assert model.tokenizer.encode("Once upon a time, Lily said:\n“é🙂") == [
        403, 407, 261, 378, 432, 317, 336, 467, 13, 465, 485, 243, 162, 156, 133
    ]  # fmt: skip
    hf.write_directory(tmp_path, model.lm, model.params, model.tokenizer.to_json())
    again = runs.load_model(tmp_path)
    jax.tree.map(np.testing.assert_array_equal, again.params, model.params)
    definition = PlainLM().definition(again.lm)
    params = jax.tree.map(jnp.asarray, again.params)
    written = generate(PlainLM(), definition, params, [[1]], jax.random.key(0), max_new_tokens=44, think=False)
    # What `run stories260K.bin -t 0.0` prints first, as llama2.c's documentation has it.
    assert again.tokenizer.decode(written.text(0)) == (
        "Once upon a time, there was a little girl named Lily. She loved to play outside in the park. One day, she saw "
        "a big, red ball."
    )


def test_what_it_does_around_texts_is_said_as_hugging_face_does():
    pieces = llama2c.Pieces(("<unk>", "<s>", "</s>", "a"), (0.0,) * 4)
    said = llama2c._companions(pieces.tokens)
    config, generation = (json.loads(said[name]) for name in ("tokenizer_config.json", "generation_config.json"))
    assert (config["bos_token"], config["eos_token"], config["unk_token"]) == ("<s>", "</s>", "<unk>")
    assert config["add_bos_token"] is True
    assert generation == {"bos_token_id": 1, "eos_token_id": 2}


def test_weights_that_are_not_finite_are_named(tmp_path):
    cfg, params = hf.read_directory(GOLDEN / "llama_mha_tied")
    params["blocks"]["down"][1, 2, 3] = np.inf
    with pytest.raises(ValueError, match=r"m\.bin: down holds 1 of .* NaN or infinite"):
        llama2c.read_file(write(tmp_path, cfg, params))


def test_sizes_whose_product_overflows_are_refused_before_the_tokenizer_is_read(tmp_path):
    # The product of four of them is 0 in 64 bits.
    sizes = (1 << 19, 1 << 19, 1 << 19, 1 << 17, 1 << 17, 1 << 19, 1 << 19)
    (tmp_path / "m.bin").write_bytes(struct.pack("<7i", *sizes) + bytes(100))
    with pytest.raises(ValueError, match=r"m\.bin has 128 bytes, .* \d{18,}"):
        llama2c.read_file(tmp_path / "m.bin")
    (tmp_path / "m.bin").write_bytes(struct.pack("<7i", 12, 4, 1, 4, 4, 8, 8) + bytes(100))
    with pytest.raises(ValueError, match=r"m\.bin: model\.head_size = 3"):
        llama2c.read_file(tmp_path / "m.bin")


@pytest.mark.parametrize(
    ("score", "length"), [(float("nan"), 1), (float("inf"), 1), (0.0, -1), (0.0, -(2**31)), (0.0, 2**31 - 1)]
)
def test_a_piece_that_cannot_be_is_named_by_its_number(tmp_path, score, length):
    cfg, params = hf.read_directory(GOLDEN / "llama_mha_tied")
    path = write(tmp_path, cfg, params)
    start = struct.pack("<i", 6) + struct.pack("<fi", 0.0, 5) + b"<unk>"
    (tmp_path / "tokenizer.bin").write_bytes(start + struct.pack("<fi", score, length) + bytes(100))
    with pytest.raises(ValueError, match=r"tokenizer\.bin .*after 1 of 48 pieces \(a piece of"):
        llama2c.read_file(path)
