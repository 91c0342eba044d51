"""The page of two runs: one name for each, paired tests where both answered the same items, steps as whole numbers."""

import html
import re
import shutil
from pathlib import Path

import pytest
import run_folders
from shell import arguments

import qstar
from qstar import config as configs
from qstar.cli import compare as command
from qstar.reports import compared, document


def cells(page: str, first: str) -> list[str]:
    """The row of a table that begins with this cell."""
    (row,) = re.findall(rf"<tr><td[^>]*>{re.escape(first)}</td>(.*?)</tr>", page)
    return re.findall(r"<td[^>]*>(.*?)</td>", row)


@pytest.fixture(scope="module")
def trainings(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sweep")
    for number, accuracy in enumerate((0.5, 1.0)):
        run_folders.train(folder / str(number), thought_len=2 + number, accuracy=accuracy)
    return folder


def test_two_runs_have_one_name_each_all_over_the_page(trainings):
    page = document.page(qstar.compare(trainings / "0", trainings / "1"))
    heads = re.findall(r"<thead>(.*?)</thead>", page)
    assert sum(">run 0</th><th" in head and ">run 1</th>" in head for head in heads) == 2  # results, settings
    assert re.findall(r"<h2>(.*?)</h2>", page) == ["Comparison", "run 0", "run 1"]
    assert not re.search(r">(The )?(first|second)\b", page)


def test_steps_are_whole_numbers_and_differences_have_intervals(trainings):
    page = qstar.compare(trainings / "0", trainings / "1").html()
    assert cells(page, "step") == ["10", "10", "0"]
    figures = cells(page, "cups accuracy (likeliest thoughts)")
    assert figures == ["0.500 [0.250, 0.750]", "1.000 [0.250, 0.750]", "+0.500 [-0.291, +0.854]"]
    assert "difference: run 1 - run 0" in page and "qstar-evaluate" not in page  # nothing is saved that could be asked


def test_of_trainings_the_page_has_the_commands_of_a_paired_test(trainings, tmp_path):
    saved = shutil.copytree(trainings, tmp_path / "saved")
    for number in "01":
        (saved / number / "checkpoints" / "10").mkdir(parents=True)
        (saved / number / "checkpoints" / "10" / "state").touch()
    page = qstar.compare(saved / "0", saved / "1").html()
    lines = [arguments(html.unescape(line)) for line in re.findall("<code>(qstar-.*?)</code>", page)]
    folders = ["evaluations/run_0", "evaluations/run_1"]
    assert lines == [
        *(["qstar-evaluate", f"run={saved / folder[-1]}", "eval=cups", f"out={folder}"] for folder in folders),
        ["qstar-compare", *folders],
    ]


def test_evaluations_are_paired_on_the_page(tmp_path):
    first = run_folders.evaluation(tmp_path / "plain") / "step_10"
    second = run_folders.evaluation(tmp_path / "mine", (True,) * 4) / "step_10"
    page = qstar.compare(first, second).html().replace("<wbr>", "")
    assert "Paired tests on the same items" in page and ">plain/step_10</th><th>mine/step_10</th>" in page
    rows = re.findall(r"<td[^>]*>likeliest</td>(.*?)</tr>", page)
    assert re.findall(r"<td[^>]*>(.*?)</td>", rows[-1]) == [
        "0.750", "1.000", "+0.250 [+0.000, +0.750]", "1", "McNemar, exact", "4",
    ]  # fmt: skip
    assert "Results" not in page  # they are these numbers
    assert "McNemar" in qstar.compare(first).html()


def test_evaluations_that_cannot_be_paired_say_why_beside_their_results(tmp_path):
    first, second = run_folders.evaluation(tmp_path / "a"), run_folders.evaluation(tmp_path / "b")
    page = qstar.compare(first, second).html()
    assert f"{first} holds several steps; name one" in page and "Results" in page


def test_items_that_one_of_two_left_out_are_counted(tmp_path, capsys):
    first = run_folders.search(tmp_path / "best", (False, True))
    second = run_folders.search(tmp_path / "beam", (True, True, True))
    said = "items that both answered: 2 of 2 and 3 of cups, 6 to 8 moves, seed 0"
    assert compared.unpaired(first, second) == said and said in qstar.compare(first, second).html()
    command.main([str(first), str(second)])
    assert said in " ".join(capsys.readouterr().out.split())
    assert compared.unpaired(first, first) == compared.unpaired(first, None) == ""


def test_runs_that_are_open_are_compared_and_one_with_itself_is_not(trainings):
    runs = [qstar.open(trainings / name) for name in "01"]
    assert qstar.compare(*runs).names == ("run 0", "run 1")
    assert qstar.open(runs[0]) is runs[0] and qstar.open(runs[0], 3).step == 3
    for same in (runs[0], trainings / "1" / ".." / "0"):
        with pytest.raises(ValueError, match="given twice"):
            qstar.compare(trainings / "0", same)
    with pytest.raises(SystemExit, match="given twice"):
        command.main([str(trainings / "0"), str(trainings / "0")])
    for nothing in (None, 3):
        with pytest.raises(TypeError, match=rf"qstar\.open\({nothing}\): expected a directory"):
            qstar.open(nothing)


def test_rewards_of_thoughts_and_of_graders_are_not_subtracted(trainings, tmp_path):
    graded = shutil.copytree(trainings / "1", tmp_path / "graded")
    assert len(qstar.compare(trainings / "0", graded).results().where(result="reward"))
    cfg = run_folders.made("method=grpo", "data=rollouts", "~experiments", "task=cups", "control=false")
    configs.save(cfg, graded / "config.yaml")
    assert not len(qstar.compare(trainings / "0", graded).results().where(result="reward"))


def test_searches_of_the_same_questions_are_paired(tmp_path, capsys):
    first = run_folders.search(tmp_path / "best", (False,) * 6 + (True, True))
    second = run_folders.search(tmp_path / "beam", (True,) * 7 + (False,))
    (test,) = compared.paired_tests(first, second)
    # Six questions that only the second answered, one that only the first did: 2 (1 + 7) / 2^7.
    assert (test.column, test.first, test.second, test.n, test.p) == ("accuracy", 0.25, 0.875, 8, 0.125)
    page = qstar.compare(first, second).html()
    assert re.search(r">accuracy</td><td>0.250</td><td>0.875</td><td>\+0.625 [^<]*</td><td>0.12</td>", page)
    assert cells(page, "questions") == ["8", "8", "0"]
    command.main([str(first), str(second)])
    shown = capsys.readouterr().out
    assert "┃  best ┃  beam ┃" in shown and "thoughts" not in shown and "difference: beam - best" in shown


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("runs/a", "runs/b", ("a", "b")),
        ("runs/sweep/0", "runs/sweep/10", ("run 0", "run 10")),
        ("e/a/step_20", "e/b/step_40", ("a/step_20", "b/step_40")),
        ("runs/a", "runs/a/control", ("a", "a/control")),
        ("runs/a", "/tmp/b", ("runs/a", "/tmp/b")),
    ],
)
def test_two_runs_are_called_by_what_tells_their_paths_apart(first, second, expected):
    assert compared.names(Path(first), Path(second)) == expected
