from xml.etree import ElementTree

import pytest

from qstar.reports import charts, html
from qstar.reports.charts import chart, ticks
from qstar.reports.figures import Curve


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1.0]), (3, 97, [20, 40, 60, 80]), (-0.5, 0.6, [-0.5, -0.25, 0, 0.25, 0.5])],
)
def test_ticks_are_round_numbers_within_the_limits(low, high, expected):
    assert ticks(low, high) == pytest.approx(expected)


def test_points_lie_where_their_values_are_and_say_them():
    drawn = ElementTree.fromstring(
        chart([Curve("a", [0, 10], [0.0, 1.0], "#000", [0.0, 0.5], [0.5, 1.0])], "t", "step", True)
    )
    first, last = drawn.findall("circle")
    assert (float(first.get("cx")), float(last.get("cx"))) == (charts.LEFT, charts.WIDTH - charts.RIGHT)
    assert float(first.get("cy")) > float(last.get("cy"))
    assert [point.find("title").text for point in (first, last)] == ["a: 0 at 0", "a: 1.000 at 10"]
    assert len(drawn.findall("polygon")) == 1


def test_a_chart_of_nothing_is_nothing_and_gaps_are_left_out():
    assert chart([Curve("a", [1], [float("nan")], "#000")], "t", "step") == ""
    drawn = ElementTree.fromstring(chart([Curve("<a>", [1, 2, 3], [1.0, float("nan"), 2.0], "#000")], "<t>", "step"))
    assert len(drawn.findall("circle")) == 2


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.8125, "0.8125"), (12.34567, "12.35"), (1.5e9, "1.5e+09"), (float("nan"), ""), (None, ""), (True, "yes"),
     (123456, "123,456"), ("a\nb", "a↵b"), (0.00012345, "0.000123")],
)  # fmt: skip
def test_values_in_tables_have_about_four_digits(value, text):
    assert html.written(value) == text
