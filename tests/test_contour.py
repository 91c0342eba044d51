"""Training against test-time compute: how many samples cost the same, and how they vote."""

import experiment_scripts
import pytest

from qstar.paths import ROOT
from qstar.reports import frames, tables

contour = experiment_scripts.load("search/contour/contour")


@pytest.mark.parametrize(("ratio", "expected"), [(0.16, 4 + 3 * 3 / 0.16), (22, 4 + 3 * 3 / 22)])
def test_equal_flops_are_the_papers_multiplier_where_tokens_cost_2n_and_6n(ratio, expected):
    trained, answer = 10_000, 20  # tokens
    small, large = (
        {"train_tokens": trained, "train_flops": 6 * n * trained, "answer_tokens": answer}
        | dict.fromkeys(("answer_flops", "sample_flops"), 2 * n * answer)
        for n in (100, 400)
    )
    assert contour.affordable(small, large, ratio) == pytest.approx(expected)
    shorter = small | {"sample_flops": small["sample_flops"] / 2}
    assert contour.affordable(shorter, large, ratio) == pytest.approx(2 * expected)


def test_votes_are_counted_over_disjoint_groups_and_no_answer_has_no_vote():
    rows = [{"answer": answer, "correct": answer == "7"} for answer in ("7", "7", "8", "", "8", "8", "7", "")]
    assert contour.votes(rows, 1) == 3 / 8
    assert contour.votes(rows, 4) == 1 / 2  # 7, 7, 8 and 8, 8, 7
    assert contour.votes(rows, 8) == 1  # three of each: the first one
    assert contour.votes([{"answer": "", "correct": False}] * 2, 2) == 0


def test_sizes_double_and_half_double_up_to_all():
    assert contour.sizes(12) == [1, 2, 3, 4, 6, 8, 12] and contour.sizes(7) == [1, 2, 3, 4, 6]


def test_the_largest_number_that_is_affordable_is_read():
    line = {"samples": 4, "votes": {"1": [0.1, 0.2, 0.3, 0.4]}}
    assert [contour.at(line, "votes", "1", n) for n in (0.3, 1, 2.9, 3, 1000)] == [0.1, 0.1, 0.2, 0.3, 0.4]


def test_the_page_has_the_tables_of_its_records():
    folder = ROOT / "experiments" / "search" / "contour"
    lines, page = frames.lines(folder / contour.RESULTS), (folder / "README.md").read_text(encoding="utf-8")
    for name, table in (("models", contour.models_table(lines)), ("equal", contour.equal_table(lines))):
        assert tables.placed(page, name) == table
