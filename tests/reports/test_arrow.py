import sys

import numpy as np
import pyarrow as pa
import pytest

from qstar.reports.arrow import Frame

FRAME = Frame.of([{"a": 1, "b": "x"}, {"a": 2.5}, {"b": "<y>", "c": [1, 2]}])


def test_records_of_different_keys_are_one_table_with_nulls():
    assert FRAME.columns == ["a", "b", "c"] and len(FRAME) == 3
    np.testing.assert_array_equal(FRAME["a"], [1, 2.5, np.nan])
    assert FRAME["b"].tolist() == ["x", None, "<y>"]
    assert FRAME.where(b="x").records() == [{"a": 1, "b": "x", "c": None}]
    assert FRAME.where(b=None)["a"].tolist() == [2.5]


def test_values_without_a_common_type_are_text():
    assert Frame.of([{"a": 1}, {"a": "b"}, {}])["a"].tolist() == ["1", "b", None]


def test_a_column_that_is_not_there_is_named_with_those_that_are():
    for ask in (lambda: FRAME["d"], lambda: FRAME.where(d=1), lambda: FRAME.sorted("d"), lambda: FRAME.select("d")):
        with pytest.raises(KeyError, match=r"'d'.*a, b, c"):
            ask()


def test_other_libraries_take_a_frame_as_an_arrow_stream():
    assert pa.table(FRAME).equals(FRAME.arrow)


def test_a_long_frame_shows_its_ends_and_text_is_text():
    long = Frame.of({"n": n} for n in range(100))
    shown = long._repr_html_()
    assert shown.count("<tr>") == 1 + 5 + 1 + 5 and "100 rows" in shown and ">99<" in shown
    assert "&lt;y&gt;" in FRAME._repr_html_() and "<y>" not in FRAME._repr_html_()
    assert repr(long) == "Frame of 100 rows: n"
    assert "<table" in Frame.of([], ("a",))._repr_html_()


def test_the_first_and_last_rows_are_frames_and_rows_are_dicts():
    long = Frame.of({"n": n} for n in range(12))
    assert [row["n"] for row in long] == list(range(12))
    assert len(long.head()) == len(long.tail()) == 10
    assert long.head(2)["n"].tolist() == [0, 1] and long.tail(2)["n"].tolist() == [10, 11]
    assert long.head(-10)["n"].tolist() == [0, 1] and long.tail(-10)["n"].tolist() == [10, 11]
    assert len(Frame.of([]).head(3)) == len(Frame.of([]).tail(3)) == 0
    assert len(long.head(99)) == len(long.tail(99)) == 12 and len(long.head(0)) == len(long.tail(0)) == 0


def test_without_pandas_the_error_says_what_to_install_and_what_does_without(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install pandas.*records\(\)"):
        FRAME.to_pandas()


def test_rows_are_sorted_by_a_column_and_equal_ones_stay_in_order():
    frame = Frame.of([{"a": 2, "b": "x"}, {"a": 1, "b": "y"}, {"a": 2, "b": "z"}])
    assert frame.sorted("a")["b"].tolist() == ["y", "x", "z"]
    assert frame.sorted("a", descending=True)["b"].tolist() == ["x", "z", "y"]
    assert frame.select("b").records()[0] == {"b": "x"}
