"""Files of weights: damage is named with file and tensor, nothing outside the directory is read, numbers are finite."""

import json
import os
import shutil
import struct
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import safetensors
import safetensors.numpy

from qstar import runs
from qstar.data import tokenizer as tokenizers
from qstar.models.formats import hf
from qstar.models.formats.weights import Tensors, finite, inside

GOLDEN = Path(__file__).parents[2] / "golden" / "llama_gqa_untied"
INDEX = "model.safetensors.index.json"


@pytest.fixture
def model(tmp_path):
    return Path(shutil.copytree(GOLDEN, tmp_path / "model"))


def raw(file, header, data=bytes(64), length=None):
    """A safetensors file with this header, whatever it is."""
    header = header if isinstance(header, bytes) else json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(header) if length is None else length) + header + data)
    return file


def entry(**changes):
    return {"dtype": "F32", "shape": [4, 4], "data_offsets": [0, 64]} | changes


# --- headers ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "data", "length", "cause"),
    [
        ({"a": entry()}, bytes(64), 10**6, "header of 1000000 bytes"),
        ({"a": entry()}, bytes(64), 2**63, f"header of {2**63} bytes"),
        (b"{garbage", bytes(64), None, "header is not JSON"),
        (b"\xff\xfe{}", bytes(64), None, "header is not JSON"),
        (5000 * b"[", bytes(64), None, "header is JSON nested too deeply"),
        (b"[]", b"", None, "header is a JSON list"),
        ({"a": entry(), "b": entry()}, bytes(64), None, "tensor 'b' begins at 0"),
        ({"a": entry(), "b": entry(data_offsets=[32, 96])}, bytes(96), None, "tensor 'b' begins at 32"),
        ({"a": entry(), "b": entry(data_offsets=[68, 132])}, bytes(132), None, "tensor 'b' begins at 68"),
        ({"a": entry(dtype="F99")}, bytes(64), None, "tensor 'a' is of an unknown type, 'F99'"),
        ({"a": entry(dtype=[])}, bytes(64), None, r"tensor 'a' is of an unknown type, \[\]"),
        ({"a": entry()}, bytes(32), None, r"tensor 'a' is at \[0, 64\] of 32 bytes"),
        ({"a": entry()}, bytes(96), None, "end at 64 of 96 bytes"),
        ({"a": entry(shape=[4, 5])}, bytes(64), None, "tensor 'a' has 64 bytes"),
        ({"a": entry(shape=[-4, -4])}, bytes(64), None, r"tensor 'a' has the shape \[-4, -4\]"),
        ({"a": entry(shape=[2**40, 2**40])}, bytes(64), None, "tensor 'a' has 64 bytes"),
        ({"a": entry(shape="x")}, bytes(64), None, "tensor 'a' has the shape 'x'"),
        ({"a": entry(data_offsets=[64, 0])}, bytes(64), None, r"tensor 'a' is at \[64, 0\]"),
        ({"a": {"dtype": "F32"}}, bytes(64), None, "tensor 'a' lacks"),
        ({"a": []}, bytes(64), None, "tensor 'a' lacks"),
        (b"", b"", 0, "header is not JSON"),
    ],
)
def test_a_damaged_header_is_named_with_file_and_tensor(tmp_path, header, data, length, cause):
    file = raw(tmp_path / "w.safetensors", header, data, length)
    with pytest.raises(ValueError, match=rf"w\.safetensors \(\d+ bytes\) is damaged.*{cause}"):
        Tensors([file])


@pytest.mark.parametrize("size", [0, 5])
def test_a_file_without_a_header_is_damaged(tmp_path, size):
    (tmp_path / "w.safetensors").write_bytes(bytes(size))
    with pytest.raises(ValueError, match=rf"w\.safetensors \({size} bytes\) is damaged"):
        Tensors([tmp_path / "w.safetensors"])


@pytest.mark.parametrize(("dtype", "size"), [("F64", 128), ("I64", 128), ("F8_E4M3", 16), ("BOOL", 16), ("C64", 128)])
def test_types_that_are_not_read_are_named_with_file_and_tensor(tmp_path, dtype, size):
    file = raw(tmp_path / "w.safetensors", {"a": entry(dtype=dtype, data_offsets=[0, size])}, bytes(size))
    with Tensors([file]) as tensors, pytest.raises(ValueError, match=rf"w\.safetensors: a is stored as {dtype}"):
        tensors("a")


@pytest.mark.parametrize("stored", ["F16", "BF16"])
def test_a_tensor_that_is_twice_in_a_header_is_refused(tmp_path, stored):
    first, second = (json.dumps({"a": entry(dtype=dtype, shape=[32])}) for dtype in ("F16", stored))
    file = raw(tmp_path / "w.safetensors", f"{first[:-1]}, {second[1:]}".encode())
    with pytest.raises(ValueError, match=r"w\.safetensors \(\d+ bytes\) is damaged.*the key 'a' twice"):
        Tensors([file])


def test_a_pointer_of_git_lfs_is_named_as_one(tmp_path):
    (tmp_path / "w.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    with pytest.raises(ValueError, match=r"w\.safetensors .*git lfs pull"):
        Tensors([tmp_path / "w.safetensors"])


def test_a_file_that_is_far_longer_than_its_header_says_is_not_mapped(tmp_path, monkeypatch):
    file = raw(tmp_path / "w.safetensors", {"a": entry()})
    with file.open("r+b") as longer:
        longer.truncate(1 << 42)  # takes no place on the disk
    monkeypatch.setattr(safetensors, "safe_open", None)  # which a limit on address space makes fail
    with pytest.raises(ValueError, match=r"w\.safetensors .*its tensors end at 64 of \d{13} bytes"):
        Tensors([file])


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied"), MemoryError("Cannot allocate memory")])
def test_a_file_that_the_system_does_not_open_is_named(tmp_path, monkeypatch, error):
    def refuse(*_, **__):
        raise error

    file = raw(tmp_path / "w.safetensors", {"a": entry()})
    monkeypatch.setattr(safetensors, "safe_open", refuse)
    with pytest.raises(ValueError, match=r"w\.safetensors cannot be read: "):
        Tensors([file])


def test_a_tensor_in_several_files_is_the_same_in_all_and_they_are_in_an_index(tmp_path):
    files = [tmp_path / f"{name}.safetensors" for name in "abc"]
    for number, file in zip((0, 0, 1), files, strict=True):
        safetensors.numpy.save_file({"x": np.full(2, number, np.float32)}, file)
    with pytest.raises(ValueError, match=r"x is in .*a\.safetensors and in .*b\.safetensors"):
        Tensors(files[:2])
    for home in files:
        with Tensors(files[:2], {"x": home}) as tensors:
            assert tensors("x").tolist() == [0, 0]
        with Tensors(files, {"x": home}) as tensors:
            with pytest.raises(ValueError, match=r"x is in .*a\.safetensors and in .*c\.safetensors, and differs"):
                tensors("x")


# --- numbers ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_weights_that_are_not_finite_are_named_with_file_tensor_and_place(tmp_path, number, dtype):
    cfg, params = hf.read_directory(GOLDEN)
    params["blocks"]["down"][1, 2, 3] = number
    hf.write_directory(tmp_path, cfg, params, None, dtype)
    message = r"model\.safetensors: model\.layers\.1\.mlp\.down_proj\.weight holds 1 of 384 .* first at \(3, 2\)"
    with pytest.raises(ValueError, match=message):
        hf.read_directory(tmp_path)


def test_large_and_empty_weights_are_finite():
    for weight in (np.full(3, 3e38, np.float32), np.zeros((0, 4), np.float32)):
        assert finite(weight, "a", "file") is weight


# --- which files --------------------------------------------------------------------------------------------------


def other_weights(path):
    tensors = safetensors.numpy.load_file(path / "model.safetensors")
    safetensors.numpy.save_file({name: weight + 1 for name, weight in tensors.items()}, path / "stale.safetensors")
    (path / INDEX).write_text(json.dumps({"weight_map": dict.fromkeys(tensors, "stale.safetensors")}))


def test_a_single_file_goes_before_an_index_that_was_left_over(model):
    other_weights(model)
    np.testing.assert_array_equal(hf.read_directory(model)[1]["embedding"], hf.read_directory(GOLDEN)[1]["embedding"])
    (model / "model.safetensors").unlink()
    np.testing.assert_array_equal(
        hf.read_directory(model)[1]["embedding"], hf.read_directory(GOLDEN)[1]["embedding"] + 1
    )


@pytest.mark.parametrize(
    "name",
    [
        "../outside.safetensors",
        "OUTSIDE",
        "sub/../../outside.safetensors",
        "..",
        ".",
        "a\0b",
        "..\\outside.safetensors",
    ],
)
def test_an_index_that_names_a_file_elsewhere_is_refused(model, name):
    shutil.copy(model / "model.safetensors", model.parent / "outside.safetensors")
    name = str(model.parent / "outside.safetensors") if name == "OUTSIDE" else name
    (model / "model.safetensors").unlink()
    (model / INDEX).write_text(json.dumps({"weight_map": {"lm_head.weight": name}}))
    with pytest.raises(ValueError, match=rf"{INDEX} names a file that is not read: .* is not a name of a file"):
        hf.read_directory(model)


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        ("[]", "is a JSON list"),
        ("{}", "weight_map is None"),
        ('{"weight_map": {}}', r"weight_map is \{\}"),
        ('{"weight_map": []}', r"weight_map is \[\]"),
        ('{"weight_map": "model.safetensors"}', "weight_map is a JSON str"),
        ('{"weight_map": {"a": {}}}', r"the file of a is \{\}"),
        ('{"weight_map": {"a": 3}}', "the file of a is a JSON int"),
        ('{"weight_map": {"a": null}}', "the file of a is None"),
        ('{"weight_map": {"a": ""}}', "the file of a is ''"),
        ('{"weight_map":', "is not JSON"),
    ],
)
def test_an_index_of_another_kind_is_refused_by_its_name(model, contents, message):
    (model / "model.safetensors").unlink()
    (model / INDEX).write_text(contents)
    with pytest.raises(ValueError, match=rf"{INDEX}(:| ).*{message}"):
        hf.read_directory(model)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", INDEX])
def test_links_out_of_the_directory_are_refused(model, name):
    outside = model.parent / "outside"
    shutil.copy(GOLDEN / ("config.json" if name == INDEX else name), outside)
    (model / name).unlink(missing_ok=True)
    (model / name).symlink_to(outside)
    with pytest.raises(ValueError, match=rf"{name} is a link that leads out of the directory, to {outside}"):
        hf.read_directory(model)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (os.mkfifo, "is no regular file"),
        (os.mkdir, "is no regular file"),
        (lambda path: path.symlink_to(path.name), "is a link that leads nowhere"),
        (lambda path: path.symlink_to("absent"), "no|lacks"),
    ],
    ids=["pipe", "folder", "loop", "dangling"],
)
@pytest.mark.parametrize("name", ["model.safetensors", INDEX, "config.json"])
def test_what_is_no_file_is_refused_by_its_name_and_not_waited_for(model, name, make, message):
    (model / name).unlink(missing_ok=True)
    if name == INDEX:
        (model / "model.safetensors").unlink()
    make(model / name)
    with pytest.raises((ValueError, FileNotFoundError), match=message if name == "model.safetensors" else str(model)):
        hf.read_directory(model)


def test_links_within_the_directory_and_in_the_cache_of_the_hub_are_followed(model, tmp_path):
    os.rename(model / "model.safetensors", model / "blob")
    (model / "model.safetensors").symlink_to("blob")
    assert hf.read_directory(model)[0].vocab == 48
    snapshot = tmp_path / "models--a--b" / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    shutil.copytree(GOLDEN, tmp_path / "models--a--b" / "blobs")
    for name in ("config.json", "model.safetensors"):
        (snapshot / name).symlink_to(f"../../blobs/{name}")
    assert hf.read_directory(snapshot)[0].vocab == 48
    (tmp_path / "other").symlink_to(snapshot)
    assert hf.read_directory(tmp_path / "other")[0].vocab == 48
    (snapshot / "folder").mkdir()
    (snapshot / "folder" / "a.jinja").symlink_to("../../../blobs/config.json")
    assert inside(snapshot / "folder", "a.jinja").is_file()
    (snapshot / "config.json").unlink()
    (snapshot / "config.json").symlink_to(GOLDEN / "config.json")
    with pytest.raises(ValueError, match=r"config\.json is a link that leads out of the directory"):
        inside(snapshot, "config.json")


# --- configs ------------------------------------------------------------------------------------------------------


BAD = ["big", 1e9, True, [], {}, -1, 0, None, 10**12, 10**400]


def edit(model, **changes):
    file = model / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("vocab_size", BAD),
        ("hidden_size", BAD),
        ("num_hidden_layers", BAD),
        ("num_attention_heads", BAD),
        ("intermediate_size", BAD),
        ("max_position_embeddings", BAD),
        ("num_key_value_heads", [value for value in BAD if value is not None]),
        ("head_dim", [value for value in BAD if value is not None]),
        ("rms_norm_eps", ["x", True, [], None, 0, -1e-6, float("nan"), float("inf")]),
        ("tie_word_embeddings", ["no", 1, None, []]),
        ("layer_types", ["full_attention", [1], {}, 3]),
        ("rope_parameters", ["default", [], 3]),
        ("rope_scaling", ["default", [], 3]),
        ("model_type", [[], {}, None, 3]),
    ],
)
def test_settings_of_another_type_or_size_are_refused_by_name_and_value(model, field, values):
    for value in values:
        edit(model, **{field: value})
        with pytest.raises(ValueError, match=rf"config\.json: .*{field}"):
            hf.read_config(model)


@pytest.mark.parametrize("value", ["x", True, None, 0, -1.0, float("nan"), float("inf")])
def test_rotary_settings_that_are_not_positive_numbers_are_refused(model, value):
    for name in ("rope_theta", "factor"):
        rope = {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0} | {name: value}
        edit(model, rope_parameters=rope)
        with pytest.raises(ValueError, match=rf"config\.json: .*{name}"):
            hf.read_config(model)


def test_two_statements_of_rotary_positions_that_differ_are_refused(model):
    rope = {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}
    for scaling in ({"type": "yarn", "factor": 2.0}, {"type": "linear", "factor": 4.0}, {"rope_type": "default"}):
        edit(model, rope_parameters=rope, rope_scaling=scaling)
        with pytest.raises(
            ValueError, match=r"config\.json: rope_scaling and rope_parameters differ in (rope_type|factor)"
        ):
            hf.read_config(model)
    for scaling in ({}, None, {"type": "linear", "factor": 2.0}, rope):
        edit(model, rope_parameters=rope, rope_scaling=scaling)
        assert hf.read_config(model).rope_scaling.factor == 2.0


@pytest.mark.parametrize("value", ["x", 1, [1], True])
def test_rotary_settings_of_a_kind_of_layer_that_are_no_object_are_refused(model, value):
    for name in ("full_attention", "sliding_attention"):
        edit(model, model_type="gemma3_text", rope_parameters={name: value})
        with pytest.raises(ValueError, match=rf"config\.json: .*rope_parameters\.{name} is "):
            hf.read_config(model)


@pytest.mark.parametrize("value", [3, {"a": 1}, "LlamaForTokenClassification", [], [None], None])
def test_names_of_architectures_of_another_kind_are_no_classifier(model, value):
    edit(model, architectures=value)
    hf.read_config(model)
    assert hf.classifier_of({"architectures": value}) is None


@pytest.mark.parametrize("contents", ["[]", "3", "null", '"llama"', "{", "", 5000 * "[", '{"a": ' + 5000 * "9" + "}"])
def test_a_config_that_is_not_an_object_is_refused_by_its_name(model, contents):
    (model / "config.json").write_text(contents)
    with pytest.raises(ValueError, match=r"config\.json is "):
        hf.read_config(model)


def test_a_config_in_another_encoding_and_one_that_is_huge_are_refused_unread(model):
    (model / "config.json").write_bytes(b'{"a": "\xff"}')
    with pytest.raises(ValueError, match=r"config\.json is not UTF-8: byte 0xff at byte offset 7"):
        hf.read_config(model)
    with (model / "config.json").open("wb") as file:
        file.truncate(1 << 40)  # takes no place on the disk
    with pytest.raises(ValueError, match=r"config\.json has 1,099,511,627,776 bytes"):
        hf.read_config(model)


def test_a_byte_order_mark_before_a_config_is_nothing(model):
    before = hf.read_config(model)
    (model / "config.json").write_bytes(b"\xef\xbb\xbf" + (model / "config.json").read_bytes())
    assert hf.read_config(model) == before


BESIDE = (
    "tokenizer.json", "tokenizer_config.json", "generation_config.json", "special_tokens_map.json",
    "chat_template.jinja", "additional_chat_templates/rag.jinja",
)  # fmt: skip


@pytest.mark.parametrize("name", BESIDE)
def test_a_huge_file_beside_the_weights_is_refused_unread(model, name):
    (model / "tokenizer.json").write_text(tokenizers.characters("ab").to_json())
    (model / name).parent.mkdir(exist_ok=True)
    with (model / name).open("ab") as file:
        file.truncate(1 << 40)  # takes no place on the disk
    with pytest.raises(ValueError, match=rf"{name} has 1,099,511,627,776 bytes, expected at most"):
        runs.load_model(model)


@pytest.mark.parametrize(
    "sizes",
    [
        {"num_hidden_layers": 9_999},
        {"hidden_size": 2**30},
        {"intermediate_size": 2**30},
        {"vocab_size": 2**30},
        {"head_dim": 2**30},
        {"num_attention_heads": 2**30},
        {"num_hidden_layers": 9_999, "hidden_size": 2**20, "intermediate_size": 2**30, "vocab_size": 2**30},
    ],
)
def test_sizes_that_do_not_fit_the_tensors_are_refused_before_memory_is_taken(model, sizes):
    edit(model, **sizes)
    tracemalloc.start()
    try:
        began = time.perf_counter()
        with pytest.raises(ValueError, match=r"(?s)do not fit its config.*(num_hidden_layers is 9999|is \(.*expected)"):
            hf.read_directory(model)
        took, (_, peak) = time.perf_counter() - began, tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 100e6  # of weights of terabytes
    assert took < 5
