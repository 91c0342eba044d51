"""Directories that were damaged at random: each gives the same weights, or an error of ours that names the file.

PYTHONPATH=. python tests/models/formats/test_mutations.py 20000      # as many; or from a number, to a number
"""

import copy
import json
import random
import shutil
import sys
import time
import tracemalloc
from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors.numpy

from qstar import runs
from qstar.data import tokenizer as tokenizers

GOLDEN = Path(__file__).parents[2] / "golden" / "llama_gqa_untied"
JSON = (
    "config.json",
    "model.safetensors.index.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "generation_config.json",
)
WEIGHTS = ("part-1.safetensors", "part-2.safetensors")
ODD = (
    None, True, False, 0, -1, 1, 2, 3, 10**9, 10**19, 10**400, 0.5, -0.0, 1e308, float("nan"), float("inf"), "", "x",
    "../outside.safetensors", "/etc/passwd", "part-2.safetensors", "\0", "\u2028", "\ud800", "big", [], {}, [[]],
    [1, "x"], {"a": {}}, ["full_attention"] * 2, ["sliding_attention", "full_attention"], 5000 * "y",
)  # fmt: skip
BETWEEN = ("do not fit its config", "the tokenizer has ids", "config says tie_word_embeddings")
"""Two files disagree: the directory is named."""


def original(folder):
    """A model in two files with an index, and all that lies beside it."""
    path = Path(shutil.copytree(GOLDEN, folder / "original"))
    tensors = safetensors.numpy.load_file(path / "model.safetensors")
    (path / "model.safetensors").unlink()
    index = {name: WEIGHTS[number % 2] for number, name in enumerate(sorted(tensors))}
    for file in WEIGHTS:
        safetensors.numpy.save_file({name: w for name, w in tensors.items() if index[name] == file}, path / file)
    beside = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "!", "chat_template": "{{ messages }}"}
    texts = {
        "model.safetensors.index.json": {"metadata": {"total_size": 1}, "weight_map": index},
        "tokenizer_config.json": beside,
        "generation_config.json": {"bos_token_id": 0, "eos_token_id": [1, 2], "pad_token_id": None},
    }
    for name, contents in texts.items():
        (path / name).write_text(json.dumps(contents))
    alphabet = "".join(chr(33 + i) for i in range(48))
    (path / "tokenizer.json").write_text(tokenizers.characters(alphabet).to_json())
    return path


def mutated(raw, dice, is_json):
    """The bytes of a file with one thing changed."""
    kind = dice.choice(
        ("value", "value", "value", "delete", "rename", "flip", "cut", "insert")
        if is_json
        else ("flip", "cut", "header")
    )
    if kind in ("value", "delete", "rename"):
        contents = json.loads(raw)
        return json.dumps(changed(contents, kind, dice)).encode("utf-8", "surrogatepass")
    at = dice.randrange(len(raw) if is_json or kind == "cut" else 8 + int.from_bytes(raw[:8], "little"))
    if kind == "flip":
        return raw[:at] + bytes([raw[at] ^ 1 << dice.randrange(8)]) + raw[at + 1 :]
    if kind == "cut":
        return raw[:at]
    if kind == "insert":
        return (
            raw[:at] + dice.choice((b"\xff", b"\0", b'"', b"[" * 5000, b"NaN", b"9" * 5000, b"\xef\xbb\xbf")) + raw[at:]
        )
    size = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + size])
    text = json.dumps(changed(header, dice.choice(("value", "delete", "rename")), dice)).encode(
        "utf-8", "surrogatepass"
    )
    return len(text).to_bytes(8, "little") + text + raw[8 + size :]


def changed(contents, kind, dice):
    places = list(walk(contents))
    if not places or dice.random() < 0.05:
        return dice.choice(ODD)
    holder, key = dice.choice(places)
    if kind == "value":
        holder[key] = copy.deepcopy(dice.choice(ODD))
    elif kind == "delete" or isinstance(holder, list):
        del holder[key]
    else:
        holder[str(dice.choice(ODD))] = holder.pop(key)
    return contents


def walk(contents):
    """Every (object or list, key or index) in it."""
    items = (
        contents.items() if isinstance(contents, dict) else enumerate(contents) if isinstance(contents, list) else ()
    )
    for key, value in items:
        yield contents, key
        yield from walk(value)


def outcome(path, name, raw, expected):
    """Loads the directory with this file; "loaded" or the kind of error, after the claims of this module."""
    kept = (path / name).read_bytes()
    (path / name).write_bytes(raw)
    began = time.process_time()
    try:
        loaded = runs.load_model(path)
    except (ValueError, FileNotFoundError) as error:
        message = str(error)
        assert str(path) in message, message
        assert name in message or any(words in message for words in BETWEEN), message
        return type(error).__name__
    else:
        jax.tree.map(np.testing.assert_array_equal, loaded.language_model, expected)
        return "loaded"
    finally:
        (path / name).write_bytes(kept)
        assert time.process_time() - began < 2


@pytest.mark.parametrize("name", JSON + WEIGHTS)
def test_a_damaged_file_gives_the_same_weights_or_an_error_with_its_name(tmp_path, name):
    path, dice = original(tmp_path), random.Random(name)
    expected = runs.load_model(path).params
    raw = (path / name).read_bytes()
    tracemalloc.start()
    try:
        seen = [outcome(path, name, mutated(raw, dice, name in JSON), expected) for _ in range(16)]
        assert tracemalloc.get_traced_memory()[1] < 50e6
    finally:
        tracemalloc.stop()
    assert len(set(seen)) > 1 or name in WEIGHTS  # some do load


if __name__ == "__main__":
    import collections
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        directory = original(Path(folder))
        params = runs.load_model(directory).params
        counts = collections.Counter()
        for seed in range(*map(int, sys.argv[1:])):
            roll = random.Random(seed)
            name = roll.choice(JSON + WEIGHTS)
            changed_to = mutated((directory / name).read_bytes(), roll, name in JSON)
            try:
                counts[name, outcome(directory, name, changed_to, params)] += 1
            except BaseException as error:
                print(seed, name, type(error).__name__, str(error)[:300], flush=True)
                counts[name, "FAULT"] += 1
                if isinstance(error, KeyboardInterrupt):
                    raise
        for (name, kind), count in sorted(counts.items()):
            print(f"{name:32s} {kind:20s} {count}")
