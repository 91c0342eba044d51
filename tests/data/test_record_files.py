"""Files of records: JSON lines, Parquet, Arrow and what `datasets` saves."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from qstar.data import record_files
from qstar.data import tokenizer as tokenizers
from qstar.data.examples import ExamplesText
from qstar.data.labelled import LabelledText
from qstar.data.pairs import PairsText

ROWS = [{"prompt": "a=", "completion": "b;", "weight": None}, {"prompt": "c=", "completion": "d;", "weight": 0.5}]
READ = [{"prompt": "a=", "completion": "b;"}, {"prompt": "c=", "completion": "d;", "weight": 0.5}]


def contents(path):
    return [record for _, record in record_files.read(path, "prompt")]


def arrow(file, rows):
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_stream(sink, pa.Table.from_pylist(rows).schema) as writer:
        writer.write_table(pa.Table.from_pylist(rows))


def saved(folder, rows):
    """A folder as `Dataset.save_to_disk` writes it, in two files, beside one of a cache."""
    folder.mkdir()
    for number, row in enumerate(rows):
        arrow(folder / f"data-{number}.arrow", [row])
    arrow(folder / "cache-1.arrow", rows)
    listed = [{"filename": f"data-{number}.arrow"} for number in range(len(rows))]
    (folder / "state.json").write_text(json.dumps({"_data_files": listed, "_split": "train"}))
    return folder


def test_rows_and_lines_are_without_what_is_null(tmp_path):
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
    assert contents(tmp_path / "rows.jsonl") == READ
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "rows.parquet")
    arrow(tmp_path / "rows.arrow", ROWS)
    assert contents(tmp_path / "rows.parquet") == READ
    assert contents(tmp_path / "rows.arrow") == READ


def test_places_name_the_line_or_the_row(tmp_path):
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "rows.parquet")
    (tmp_path / "rows.jsonl").write_text('{"a": 1}\n\n{"a": 2}\n')
    assert [place for place, _ in record_files.read(tmp_path / "rows.jsonl", "a")] == [
        f"{tmp_path}/rows.jsonl:1",
        f"{tmp_path}/rows.jsonl:3",
    ]
    assert [place for place, _ in record_files.read(tmp_path / "rows.parquet", "a")][
        1
    ] == f"{tmp_path}/rows.parquet, row 2"


def test_a_saved_folder_gives_the_files_of_its_state_alone(tmp_path):
    assert contents(saved(tmp_path / "set", READ)) == READ


def test_a_folder_of_several_splits_is_refused_with_their_paths(tmp_path):
    saved(tmp_path / "train", READ)
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    with pytest.raises(ValueError, match=f"name one of them: {tmp_path}/train, {tmp_path}/test"):
        contents(tmp_path)


@pytest.mark.parametrize("name", ["state.json", "dataset_dict.json"])
def test_a_saved_folder_whose_list_is_none_is_refused_by_its_file(tmp_path, name):
    key = {"state.json": "_data_files", "dataset_dict.json": "splits"}[name]
    for value in (None, 3, "a", {}, [3], [None], [{}], [{"filename": 3}]):
        (tmp_path / name).write_text(json.dumps({key: value}))
        with pytest.raises(ValueError, match=rf"{name}.*{key}"):
            contents(tmp_path)
    (tmp_path / name).write_text("{}")
    with pytest.raises(ValueError, match=rf"{name} lacks the field '{key}'"):
        contents(tmp_path)


def test_files_of_a_saved_folder_that_are_missing_are_named(tmp_path):
    folder = saved(tmp_path / "set", READ)
    (folder / "data-1.arrow").unlink()
    with pytest.raises(FileNotFoundError, match=r"data-1\.arrow"):
        contents(folder)


@pytest.mark.parametrize("name", ["absent.jsonl", "."])
def test_what_holds_no_records_is_refused_by_its_setting(tmp_path, name):
    with pytest.raises(FileNotFoundError, match=r"data.path = .*expected .* with prompt"):
        contents(tmp_path / name)


@pytest.mark.parametrize("suffix", [".parquet", ".arrow"])
def test_a_damaged_file_is_named(tmp_path, suffix):
    (tmp_path / f"rows{suffix}").write_bytes(b"PAR1 and nothing of use")
    with pytest.raises(ValueError, match=rf"rows\{suffix}"):
        contents(tmp_path / f"rows{suffix}")


def test_the_datasets_library_writes_what_is_read(tmp_path):
    datasets = pytest.importorskip("datasets")
    made = datasets.Dataset.from_list(ROWS)
    made.save_to_disk(str(tmp_path / "set"), num_shards=2)
    made.to_parquet(str(tmp_path / "rows.parquet"))
    datasets.DatasetDict({"train": made}).save_to_disk(str(tmp_path / "splits"))
    assert contents(tmp_path / "set") == contents(tmp_path / "rows.parquet") == READ
    assert contents(tmp_path / "splits" / "train") == READ


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (PairsText, "holds no pairs: expected records with prompt, chosen and rejected"),
        (ExamplesText, "holds no examples: expected records with prompt and completion"),
        (LabelledText, "holds no solutions: expected records with prompt, completion and label"),
    ],
)
def test_a_file_without_records_is_named(tmp_path, kind, message):
    file = tmp_path / "empty.jsonl"
    file.write_text("\n")
    with pytest.raises(ValueError, match=f"data.path = .*empty.jsonl.* {message}"):
        kind(str(file)).build(tokenizers.characters("abc"), 1, 0)
