"""What a run shows in the end, on a terminal of eighty columns."""

import io
import re

import pytest
import rich.console

from qstar.evals.measure import Figure
from qstar.evals.paired import Comparison
from qstar.evals.suite import Row
from qstar.reports import searches, summaries

FIGURES = {name: Figure(0.968, 0.949, 0.98) for name in ("accuracy", "probability", "nll")}
ROWS = [Row("cups", way != "none", way, 1, 500, FIGURES) for way in ("none", "greedy")]
SEARCH = [
    searches.Line(name, "all", 100, 0.85, 0.77, 0.91, 16.0, 107.5, 200.5, 9.4e7, 3.1) for name in ("mcts", "beam")
]
LABELLED = {"solutions": 200, "right": 150, "skipped": 1, "steps": 1500, "labels": 1500, "mean_label": 0.75} | {
    "ledger": {
        "sample": {"prompt_tokens": 1000, "generated_tokens": 2000, "discarded_tokens": 1234567, "flops": 12345678901}
    }
}


def printed(shown, width: int) -> list[str]:
    console = rich.console.Console(file=io.StringIO(), width=width, force_terminal=False)
    console.print(shown)
    return console.file.getvalue().splitlines()


def first_cells(lines: list[str], count: int) -> list[list[str]]:
    """The beginnings of all rows, those of a table's second part again."""
    return [[cell.strip() for cell in line.split("│")[1 : count + 1]] for line in lines if line.startswith("│")]


@pytest.mark.parametrize(("width", "parts"), [(80, 3), (140, 1)])
def test_every_part_of_a_table_of_answers_says_which_model_and_thoughts_a_row_is_of(width, parts):
    lines = printed(summaries.table([("after", ROWS), ("control: plain LM", ROWS[:1])]), width)
    assert max(map(len, lines)) <= width
    assert first_cells(lines, 3) == parts * [
        ["cups", "after", "none"],
        ["cups", "after", "likeliest"],
        ["cups", "control: plain LM", "none"],
    ]
    assert sum("0.968 [0.949, 0.980]" in line for line in lines) == 3 * parts


@pytest.mark.parametrize("width", [20, 40, 60])
def test_nothing_is_cut_where_no_two_columns_fit_beside_each_other(width):
    name = "runs/2026-01-01_12-00-00_quiet_star, step 100"
    for shown, cells in (
        (summaries.table([(name, ROWS)]), ("cups", name, "likeliest", "0.968 [0.949, 0.980]", "accuracy", "thoughts")),
        (searches.table(SEARCH), ("mcts", "beam", "0.850 [0.770, 0.910]", "107.5", "strategy", "seconds")),
        (
            summaries.labels(LABELLED),
            ("mean", "label", "0.750", "solutions", "1,500", "12,345,678,901", "sample", "labellers disagree"),
        ),
    ):
        lines = printed(shown, width)
        text = re.sub(r"\s", "", "".join(lines))
        assert max(map(len, lines)) <= width
        assert [cell for cell in cells if re.sub(r"\s", "", cell) not in text] == []
        assert "…" not in text


def test_every_part_of_a_table_of_searches_says_the_strategy_and_the_budget():
    lines = printed(searches.table(SEARCH), 80)
    assert max(map(len, lines)) <= 80
    rows = first_cells(lines, 2)
    assert len(rows) > 2 and rows == len(rows) // 2 * [["mcts", "all"], ["beam", "all"]]


def test_paired_tests_have_the_names_of_the_two_as_columns():
    tests = [Comparison("cups", "exact", ("greedy", "greedy"), 8, 0.25, 0.875, 0.25, 1.0, 0.125, "McNemar, exact")]
    lines = printed(summaries.comparisons(tests, "b against a", ("a", "b")), 80)
    assert max(map(len, lines)) <= 80 and first_cells(lines, 3)[0] == ["cups", "exact", "likeliest"]
    assert "difference: b - a" in " ".join(lines)
    columns, ((*_, way, first, second, difference, p, _, n),) = summaries.paired(tests, ("a", "b"))
    assert columns[2:5] == ["thoughts", "a", "b"]
    assert (way, first, second, difference, p, n) == (
        "likeliest", "0.250", "0.875", "+0.625 [+0.250, +1.000]", "0.12", "8",
    )  # fmt: skip


def test_the_end_of_a_labelling_is_a_table_for_the_terminal():
    lines = printed(summaries.labels(LABELLED), 80)
    assert max(map(len, lines)) <= 80 and not any(line.startswith("|") for line in lines)
    assert first_cells(lines, 2)[0] == ["200", "150"] and any("1,234,567" in line for line in lines)
