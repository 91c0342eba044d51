"""Training on what searches find: the rate that dev chooses, and the tables of the page."""

import experiment_scripts

from qstar.paths import ROOT
from qstar.reports import frames, tables

FOLDER = ROOT / "experiments" / "search" / "found"
found = experiment_scripts.load("search/found/found")


def test_dev_chooses_the_rate_and_of_equal_ones_the_smaller():
    lines = [
        {"part": "rate", "arm": arm, "base": 0, "rate": rate, "dev": dev}
        for arm, rate, dev in (
            ("beam", "1e-3", 0.5),
            ("beam", "1e-4", 0.5),
            ("beam", "1e-5", 0.4),
            ("mcts", "1e-3", 0.9),
        )
    ]
    assert (found.chosen(lines, "beam"), found.chosen(lines, "mcts")) == ("1e-4", "1e-3")


def test_the_page_has_the_tables_of_its_records():
    lines, page = frames.lines(FOLDER / found.RESULTS), (FOLDER / "README.md").read_text(encoding="utf-8")
    for name, table in (("rates", found.rates_table(lines)), ("arms", found.arms_table(lines))):
        assert tables.placed(page, name) == table
