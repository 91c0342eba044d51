"""What is on disk of an evaluation, whole, torn or foreign."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from qstar.evals import journal
from qstar.evals.journal import Journal

IDENTITY = {"task": "cups", "eval": {"items": 2, "thoughts": ("none",)}, "key": [0, 1]}
ROWS = [
    {"item": "a", "thoughts": "none", "draw": 0, "score": 0.1 + 0.2},
    {"item": "b", "thoughts": "none", "draw": 0, "score": 1e-320},
]


def test_batches_come_back_bit_for_bit_in_whatever_order_they_were_written(tmp_path):
    written = Journal(tmp_path / "made", "cups", IDENTITY)
    assert (written.rows, written.batches) == (None, {})
    written.append(1, ROWS[1:])
    written.append(0, ROWS[:1])
    found = Journal(tmp_path / "made", "cups", IDENTITY)
    assert (found.rows, found.batches) == (None, {0: ROWS[:1], 1: ROWS[1:]})


def test_a_torn_line_is_dropped_and_written_over(tmp_path):
    file = tmp_path / "cups.jsonl"
    Journal(tmp_path, "cups", IDENTITY).append(0, ROWS)
    whole = file.read_bytes()
    for torn in (b'{"batch": 1, "rows": [', b'{"batch": 1, "rows": []}'):  # without its newline a line is torn
        file.write_bytes(whole + torn)
        found = Journal(tmp_path, "cups", IDENTITY)
        assert found.batches == {0: ROWS}
        assert file.read_bytes() == whole
    found.append(1, ROWS)
    assert Journal(tmp_path, "cups", IDENTITY).batches == {0: ROWS, 1: ROWS}


def test_a_first_line_that_is_torn_is_a_new_journal(tmp_path):
    (tmp_path / "cups.jsonl").write_text('{"task": "cu')
    Journal(tmp_path, "cups", IDENTITY).append(0, ROWS)
    assert Journal(tmp_path, "cups", IDENTITY).batches == {0: ROWS}


def test_a_line_that_is_no_json_is_named(tmp_path):
    Journal(tmp_path, "cups", IDENTITY).append(0, ROWS)
    with (tmp_path / "cups.jsonl").open("a") as file:
        file.write("overwritten by an editor\n")
    with pytest.raises(ValueError, match=r"cups.jsonl, line 3: not JSON .*a line of an evaluation's journal"):
        Journal(tmp_path, "cups", IDENTITY)


def test_finishing_replaces_the_journal_by_a_parquet_file_with_its_configuration(tmp_path):
    open = Journal(tmp_path, "cups", IDENTITY)
    open.append(0, ROWS)
    open.finish(ROWS)
    assert [file.name for file in tmp_path.iterdir()] == ["cups.parquet"]
    table = journal.read(tmp_path / "cups.parquet")
    assert table.to_pylist() == ROWS
    assert journal.identity_of(table) == json.loads(json.dumps(IDENTITY))
    assert Journal(tmp_path, "cups", IDENTITY).rows == ROWS


def test_a_kill_between_the_two_files_leaves_the_finished_one(tmp_path):
    open = Journal(tmp_path, "cups", IDENTITY)
    open.append(0, ROWS)
    left = (tmp_path / "cups.jsonl").read_bytes()
    open.finish(ROWS)
    (tmp_path / "cups.jsonl").write_bytes(left)
    assert Journal(tmp_path, "cups", IDENTITY).rows == ROWS
    assert [file.name for file in tmp_path.iterdir()] == ["cups.parquet"]


def test_files_of_other_processes_are_read_and_those_of_other_measures_left_alone(tmp_path):
    Journal(tmp_path, "cups", IDENTITY, process=1).append(1, ROWS)
    Journal(tmp_path, "cups.hard", IDENTITY | {"seed": 7}).append(2, ROWS)
    first = Journal(tmp_path, "cups", IDENTITY)
    assert first.batches == {1: ROWS}
    first.finish(ROWS)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["cups.hard.jsonl", "cups.parquet"]


@pytest.mark.parametrize("finished", [True, False])
def test_another_identity_is_refused_with_the_differences(tmp_path, finished):
    first = Journal(tmp_path, "cups", IDENTITY)
    if finished:
        first.finish(ROWS)
    other = IDENTITY | {"eval": {"items": 3, "thoughts": ("none",)}, "weights": "x" * 100}
    with pytest.raises(ValueError) as error:
        Journal(tmp_path, "cups", other)
    name = "cups.parquet" if finished else "cups.jsonl"
    assert str(error.value).splitlines() == [
        f"{tmp_path / name} holds answers of another evaluation:",
        "  eval.items = 2, now 3",
        f"  weights = None, now {'x' * 77}...",
        "name another folder with out=FOLDER",
    ]


def test_evaluations_are_opened_by_their_folder_or_by_that_of_a_step(tmp_path):
    for step in (0, 10):
        Journal(tmp_path / f"step_{step}", "cups", IDENTITY | {"step": step}).finish(ROWS)
        assert journal.load(tmp_path / f"step_{step}")["cups"].to_pylist() == ROWS
        if step == 0:
            assert list(journal.load(tmp_path)) == ["cups"]
    with pytest.raises(ValueError, match=r"holds several steps; name one: .*step_0, .*step_10"):
        journal.load_step(tmp_path)


def test_the_answers_of_all_steps_are_one_table_with_their_steps(tmp_path):
    for step in (100, 20, 3):
        Journal(tmp_path / f"step_{step}", "cups", IDENTITY | {"step": step}).finish(ROWS)
    rows = journal.load(tmp_path)["cups"].to_pylist()
    assert [row.pop("step") for row in rows] == [3] * len(ROWS) + [20] * len(ROWS) + [100] * len(ROWS)
    assert rows == [*ROWS, *ROWS, *ROWS]


def test_what_is_no_evaluation_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no answers in .*qstar-evaluate out=FOLDER writes"):
        journal.load(tmp_path)
    (tmp_path / "text.parquet").write_text("no table")
    with pytest.raises(ValueError, match=r"text.parquet is no Parquet file"):
        journal.load(tmp_path)
    pq.write_table(pa.table({"item": ["a"], "score": [1.0]}), tmp_path / "text.parquet")
    with pytest.raises(ValueError, match=r"text.parquet lacks the columns thoughts, draw: qstar-evaluate out=FOLDER"):
        journal.load(tmp_path)
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "text.parquet")
    with pytest.raises(ValueError, match=r"text.parquet does not say what was evaluated"):
        journal.load(tmp_path)
