"""What was measured of thoughts, as reports show it: literal records, no model."""

import re

import pytest
import run_folders

import qstar
from qstar.reports import document, faithfulness
from qstar.reports.faithfulness import Held

UNEDITED = {"part": "edits", "rest": "unedited", "n": 4, "right": 0.75, "holds": 1.0, "step": 40}
EXAMPLE = {
    "part": "examples", "rest": "continued", "left": 1, "question": "3ab=", "thought": "4<", "answer": "2", "at": 0,
    "edited": "51", "became": "1", "expected": "1",
}  # fmt: skip


def edit(rest: str, left: int, right: float, followed: float, **fields) -> dict:
    line = {"part": "edits", "rest": rest, "left": left, "n": 4, "right": right, "stayed": 0.5, "followed": followed}
    return line | ({"written": 1.0} if rest == "continued" else {}) | fields


LINES = [
    UNEDITED,
    edit("kept", 1, 0.75, 0.0),
    edit("continued", 1, 0.25, 0.5),
    edit("kept", 0, 0.25, 1.0),
    edit("continued", 0, 0.25, 1.0),
    *({"part": "readability", "step": step, "n": 4, "own": own, "frozen": 0.5} for step, own in ((10, 0.5), (40, 1.0))),
    EXAMPLE,
    EXAMPLE | {"rest": "kept", "edited": "5<", "became": "2"},
]


@pytest.fixture
def run(tmp_path):
    folder = run_folders.train(tmp_path / "run")
    run_folders.lines(folder / faithfulness.FILE, *LINES)
    return qstar.open(folder)


def test_shares_are_means_over_the_edits_of_each_kind(run):
    (row,) = run.faithfulness().table().records()
    assert {name: cell.split()[0] for name, cell in row.items()} == {
        "right, unedited": "0.750",
        "true places": "1.000",
        "followed": "0.750",  # of those with the tokens after them generated again
        "places after it follow": "1.000",
        "kept, last place: followed": "1.000",
        "kept, earlier place: followed": "0.000",
        "stayed": "0.500",
    }


def test_arms_of_a_study_have_rows_with_means_over_their_bases(tmp_path):
    arms = [{**line, "arm": arm, "base": base} for arm in ("a", "b") for base in (0, 1) for line in LINES]
    run_folders.lines(tmp_path / "results.jsonl", *arms)
    first, second = faithfulness.of_study(tmp_path).table().records()
    assert (first["of"], first["bases"], second["of"]) == ("a", "2", "b")
    assert first["right, unedited"].startswith("0.750 [")
    assert len(faithfulness.of_study(tmp_path / "results.jsonl").places()) == 16


def test_the_section_has_a_strip_by_place_the_readers_over_steps_and_the_edits(run):
    page = document.page(run)
    section = page.partition('<section id="what-thoughts-hold">')[2].partition("</section>")[0]
    strips = [re.findall(r'title="[^"]+">([\d.]+)</td>', part) for part in section.split('<table class="strip">')[1:]]
    assert strips == [["0.50", "1.00"], ["0.75", "0.25"]]  # followed; right with the others kept
    assert re.findall(r"<th>(-?\d+)</th>", section) == ["1", "0"] * 2
    assert "itself: 1.000 at 40" in section and "base: 0.5000 at 10" in section
    assert '<b class="down">5</b><u>1</u>' in section and '<b class="down">5</b>&lt;' in section
    assert "<code>4&lt;</code>" in section and "<code>4<</code>" not in section
    assert section.count("<details") == 2 and section.count("<details open") + section.count(" open>") == 1


def test_a_sweep_shows_the_runs_that_were_measured_by_their_settings(tmp_path):
    for seed in (0, 1):
        folder = run_folders.train(tmp_path / str(seed), seed)
    assert 'id="what-thoughts-hold"' not in document.page(qstar.sweep(tmp_path))
    run_folders.lines(folder / faithfulness.FILE, *LINES)
    assert repr(qstar.sweep(tmp_path).faithfulness()).endswith(": seed=1)")
    assert 'id="what-thoughts-hold"' in document.page(qstar.sweep(tmp_path))


def test_a_run_of_which_nothing_was_measured_names_the_command(tmp_path):
    folder = run_folders.train(tmp_path / "run")
    with pytest.raises(FileNotFoundError, match=rf"faithfulness.py {folder}"):
        qstar.open(folder).faithfulness()


def test_records_of_another_kind_are_refused_with_their_place(tmp_path):
    run_folders.lines(tmp_path / "results.jsonl", UNEDITED, {"arm": "a", "accuracy": 0.5})
    with pytest.raises(ValueError, match=r"results.jsonl, line 2: no 'part'"):
        faithfulness.of_study(tmp_path)


def test_pauses_have_no_examples_and_no_edits_that_are_continued(tmp_path):
    held = Held([UNEDITED, edit("kept", 1, 0.25, 0.25)], tmp_path)
    assert held.table().records()[0]["followed"].startswith("0.250")
    shown = held.html()
    assert shown.count('<table class="strip">') == 1 and "<details" not in shown
