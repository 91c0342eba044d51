import json

import numpy as np
import pytest

from qstar.reports import frames


def written(file, *records):
    file.write_text("".join(json.dumps(one) + "\n" for one in records))


def test_metrics_are_columns_with_nan_where_a_line_lacks_one(tmp_path):
    written(tmp_path / "metrics.jsonl", {"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.5, "reward": 0.25, "name": "x"})
    found = frames.metrics(tmp_path)
    assert list(found) == ["step", "loss", "reward"]
    np.testing.assert_array_equal(found["reward"], [np.nan, 0.25])
    assert list(frames.metrics(tmp_path, "loss")) == ["step", "loss"]


def test_evaluations_come_by_step_and_a_folder_without_any_is_refused(tmp_path):
    written(tmp_path / "evals.jsonl", {"step": 10, "task": "a"}, {"step": 0, "task": "b"})
    assert [line["task"] for line in frames.evaluations(tmp_path)] == ["b", "a"]
    for read, name in ((frames.evaluations, "evals.jsonl"), (frames.metrics, "metrics.jsonl")):
        with pytest.raises(FileNotFoundError, match=name):
            read(tmp_path / "none")
    assert frames.lines(tmp_path / "none.jsonl") == []


def test_records_are_grouped_in_order_and_found_by_their_values():
    rows = [{"way": "b", "n": 1}, {"way": "a", "n": 2}, {"way": "b", "n": 3}]
    assert list(frames.grouped(rows, lambda row: row["way"]).items()) == [("b", [rows[0], rows[2]]), ("a", [rows[1]])]
    assert frames.first(rows, way="b", n=3) == rows[2]
    assert frames.first(rows, way="c") is None


def test_what_self_training_spent_leaves_asking_out():
    lines = [{"ledger": {"sample": {"flops": 3}, "dev": {"flops": 100}}}, {"ledger": {"train": {"flops": 4}}}]
    assert frames.spent(lines, "flops") == 7
    assert frames.spent(lines, "flops", ["dev"]) == 100


def test_records_are_grouped_by_a_field_or_by_several():
    a, b, c = {"arm": "x", "seed": 0}, {"arm": "y", "seed": 0}, {"arm": "x", "seed": 1}
    assert frames.by([a, b, c], "arm") == {"x": [a, c], "y": [b]}
    assert frames.by([a, b, c], "arm", "seed") == {("x", 0): [a], ("y", 0): [b], ("x", 1): [c]}
