import dataclasses
import shutil

import pytest
import run_folders

import qstar
from qstar import config as configs
from qstar.cli import sweep_end
from qstar.methods.plain_lm import PlainLM
from qstar.reports import directories
from qstar.training import console


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep")
    for number, (seed, length, accuracy) in enumerate(((0, 2, 0.5), (1, 2, 0.75), (0, 3, 1.0), (1, 3, 0.5))):
        run_folders.train(folder / str(number), seed, length, accuracy)
    return folder


def test_a_sweep_has_the_settings_that_differ_and_what_the_runs_ended_with(folder):
    sweep = qstar.sweep(folder)
    assert sweep.overrides == ("seed", "method.thought_len")
    assert sweep["run"].tolist() == ["0", "1", "2", "3"]
    assert sweep["method.thought_len"].tolist() == [2, 2, 3, 3]
    assert sweep["cups greedy accuracy"].tolist() == [0.5, 0.75, 1.0, 0.5]
    assert sweep["cups greedy accuracy_low"].tolist() == [0.25] * 4
    assert sweep["nll"].tolist() == pytest.approx([1.15] * 4)
    assert sweep.labels()[3] == "seed=1 thought_len=3"
    assert repr(sweep).startswith("Sweep of 4 runs, which differ in seed, method.thought_len")


def test_runs_that_differ_in_the_seed_alone_become_a_mean_with_its_interval(folder):
    rows = qstar.sweep(folder).over("seed", ["cups greedy accuracy"]).records()
    assert [(row["method.thought_len"], row["runs"], row["cups greedy accuracy"]) for row in rows] == [
        (2, 2, 0.625),
        (3, 2, 0.75),
    ]
    # Two seeds of four questions each say next to nothing, but no share is below 0 or above 1.
    assert 0 <= rows[0]["cups greedy accuracy_low"] < 0.05 and 0.95 < rows[0]["cups greedy accuracy_high"] <= 1
    (nll, *_) = qstar.sweep(folder).over("seed", ["nll"]).records()
    assert nll["nll_low"] == nll["nll_high"] == pytest.approx(1.15)  # Student's t
    with pytest.raises(KeyError, match=r"steps.*seed, method.thought_len"):
        qstar.sweep(folder).over("steps")


def test_a_sweep_is_shown_with_its_curves_and_a_row_for_every_run(folder):
    shown = qstar.sweep(folder)._repr_html_()
    assert shown.count("<tr>") == 5
    assert "cups: accuracy (likeliest thoughts)" in shown and "thought_len=3" in shown
    assert "<th>cups accuracy (likeliest thoughts)</th>" in shown and "greedy" not in shown


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """A sweep of eight settings, and of a method that brings its own."""
    folder = tmp_path_factory.mktemp("wide")
    for number in range(3):
        run_folders.train(folder / str(number))
        cfg = configs.load(folder / str(number) / "config.yaml")
        changed = {name: getattr(cfg, name) + number for name in ("batch_size", "seed", "steps", "log_every")}
        optim = dataclasses.replace(cfg.optim, lr=cfg.optim.lr * (1 + number), warmup_steps=number)
        method = dataclasses.replace(cfg.method, thought_len=2 + number, num_thoughts=2 + number)
        method = PlainLM() if number == 2 else method
        configs.save(
            dataclasses.replace(cfg, **changed, optim=optim, method=method), folder / str(number) / "config.yaml"
        )
    return folder


def test_a_wide_sweep_shows_what_runs_share_in_a_line_and_all_that_differs(wide):
    sweep = qstar.sweep(wide)
    same, names = sweep.folded()
    assert {"step", "cups greedy accuracy"} <= {name for name, _ in same}
    assert names[:2] == ["run", "seed"] and "method" in names and "method.thought_len" in names
    assert "method.beta" in sweep.overrides and "method.beta" not in names  # it comes with the method
    assert sweep.labels() == ["0", "1", "2"]  # settings that would fill the chart
    page = sweep._repr_html_()
    assert "optim.<wbr>warmup_steps" in page and "all runs:" in page
    assert page.count("</th>") == len(names)


def test_a_single_run_of_a_sweep_keeps_its_results_in_the_table(tmp_path):
    run_folders.train(tmp_path / "0")
    same, names = qstar.sweep(tmp_path).folded()
    assert same == [] and "cups greedy accuracy" in names


@pytest.mark.parametrize("width", [80, 200])
def test_a_wide_sweep_ends_in_tables_that_fit_the_terminal(wide, width, monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("COLUMNS", str(width))
    console.console.cache_clear()
    runs = tmp_path / "sweep"
    shutil.copytree(wide, runs)
    sweep_end.compare(sorted(runs.iterdir()))
    told = capsys.readouterr().out
    lines = told.splitlines()
    assert max(len(line) for line in lines if line[:1] in "┏┃│└") <= width
    rows = [line.split("│")[1:-1] for line in lines if line.startswith("│")]
    assert {row[0].strip() for row in rows} == {"0", "1", "2"} and len(rows) % 3 == 0  # no cell is wrapped
    assert "│ 0.02 " in told  # as it was given
    assert "warmup_steps" in told and "optim.warmup_steps" not in told and "step 10" in lines[0]
    table = (runs / sweep_end.TABLE).read_text()
    assert len(table.splitlines()) == 5 and "| cups accuracy (likeliest thoughts) |" in table and "greedy" not in table


def test_no_runs_and_runs_of_two_commands_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no runs below"):
        qstar.sweep(tmp_path)
    run_folders.labelling(tmp_path / "a")
    run_folders.improve(tmp_path / "b")
    with pytest.raises(ValueError, match="qstar-improve and qstar-label"):
        qstar.sweep(tmp_path)


def test_a_comparison_has_settings_results_and_their_difference(folder):
    compared = qstar.compare(folder / "0", folder / "2")
    assert compared.settings().records() == [{"setting": "method.thought_len", "first": "2", "second": "3"}]
    (row,) = compared.results().where(result="cups greedy accuracy").records()
    assert (row["first"], row["second"], row["difference"], row["first_low"]) == (0.5, 1.0, 0.5, 0.25)
    # 0.5 - hypot(1.0 - 0.25, 0.75 - 0.5) to 0.5 + hypot(0.75 - 1.0, 0.5 - 0.25), of the ends in `run_folders`.
    assert (row["difference_low"], row["difference_high"]) == pytest.approx((-0.2906, 0.8536), abs=1e-4)
    assert "thought_len" in compared._repr_html_()


def test_evaluations_are_compared_by_paired_tests(tmp_path):
    first = run_folders.evaluation(tmp_path / "first") / "step_10"
    second = run_folders.evaluation(tmp_path / "second", (True,) * 4) / "step_10"
    (row,) = qstar.compare(first, second).tests().where(ways="greedy / greedy").records()
    assert (row["first"], row["second"], row["difference"], row["n"], row["p"]) == (0.75, 1.0, 0.25, 4, 1.0)
    (own,) = qstar.compare(first).tests().records()
    assert (own["ways"], own["first"], own["second"], own["p"]) == ("none / greedy", 0.0, 0.75, 0.25)


def test_directories_of_two_kinds_are_not_compared(folder, tmp_path):
    label = run_folders.labelling(tmp_path / "label")
    with pytest.raises(ValueError, match=r"qstar-train.*qstar-label"):
        qstar.compare(folder / "0", label)
    with pytest.raises(ValueError, match="second one"):
        qstar.compare(folder / "0")


def test_a_run_is_no_sweep_and_a_whole_disk_is_no_folder_of_runs(folder, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"0 is itself a directory of qstar-train: open it with qstar\.open"):
        qstar.sweep(folder / "0")
    monkeypatch.setattr(directories, "SEARCHED", 3)
    for number in range(4):
        (tmp_path / str(number)).mkdir()
    with pytest.raises(ValueError, match="has over 3 folders below it: name the folder of the runs"):
        qstar.sweep(tmp_path)


def test_a_result_over_a_setting_is_a_chart_of_means_with_intervals(folder):
    panel = qstar.sweep(folder).panel("method.thought_len", "cups greedy accuracy")
    (curve,) = panel.curves
    assert (list(curve.x), list(curve.y), curve.label) == ([2, 3], [0.625, 0.75], "")
    assert 0 <= curve.low[0] < 0.05 and 0.95 < curve.high[0] <= 1
    assert "<svg" in panel._repr_html_()
    assert repr(panel) == "Panel('cups accuracy (likeliest thoughts), over seed' over method.thought_len)"
    by_seed = qstar.sweep(folder).panel("seed", "cups greedy accuracy", varied="method.thought_len")
    assert list(by_seed.curves[0].y) == [0.75, 0.625]


def test_other_settings_of_a_sweep_are_curves_of_their_own(tmp_path):
    for number, (seed, length, steps) in enumerate(
        ((0, 2, 10), (1, 2, 10), (0, 2, 20), (1, 2, 20), (0, 3, 10), (1, 3, 10))
    ):
        run_folders.train(tmp_path / str(number), seed, length, 0.5, steps)
    panel = qstar.sweep(tmp_path).panel("method.thought_len", "cups greedy accuracy")
    assert [(curve.label, list(curve.x)) for curve in panel.curves] == [("steps=10", [2, 3]), ("steps=20", [2])]


def test_a_chart_over_a_setting_without_numbers_is_refused(tmp_path):
    for seed in (0, 1):
        run_folders.train(tmp_path / str(seed), seed)
    with pytest.raises(ValueError, match="run"):
        qstar.sweep(tmp_path).panel("run", "cups greedy accuracy")
