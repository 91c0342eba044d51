import pytest
import run_folders

import qstar


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
    half = 0.125 * 12.706  # Student's t with one degree of freedom, standard error 0.125
    assert rows[0]["cups greedy accuracy_high"] == pytest.approx(0.625 + half, abs=1e-3)
    with pytest.raises(KeyError, match=r"steps.*seed, method.thought_len"):
        qstar.sweep(folder).over("steps")


def test_a_sweep_is_shown_with_its_curves_and_a_row_for_every_run(folder):
    shown = qstar.sweep(folder)._repr_html_()
    assert shown.count("<tr>") == 5
    assert "cups: accuracy (likeliest thoughts)" in shown and "thought_len=3" in shown


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
