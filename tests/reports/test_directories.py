"""Run directories of every kind as frames, and what they say where something is missing."""

import os
import re
from xml.etree import ElementTree

import numpy as np
import pytest
import run_folders

import qstar
from qstar.data.rationales import CORRECT
from qstar.reports.directories import EvaluationFolder, ImproveRun, LabelRun, SolveRun, TrainRun

MAKERS = {
    "train": (run_folders.train, TrainRun),
    "improve": (run_folders.improve, ImproveRun),
    "search": (run_folders.search, SolveRun),
    "labelling": (run_folders.labelling, LabelRun),
    "evaluation": (run_folders.evaluation, EvaluationFolder),
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return {name: qstar.open(make(folder / name)) for name, (make, _) in MAKERS.items()}


@pytest.mark.parametrize("name", MAKERS)
def test_a_directory_is_opened_as_what_wrote_it(runs, name):
    assert type(runs[name]) is MAKERS[name][1]


def test_only_a_training_has_questions_of_its_own(runs):
    asked = {name: run.evaluation for name, run in runs.items() if run.evaluation is not None}
    assert asked.keys() == {name for name, (_, kind) in MAKERS.items() if kind is TrainRun}
    assert all(asked[name] == runs[name].config.eval for name in asked)


@pytest.mark.parametrize("name", MAKERS)
def test_a_run_is_one_short_line_and_its_page_is_well_formed(runs, name):
    assert "\n" not in repr(runs[name]) and len(repr(runs[name])) < 250 + len(str(runs[name].path))
    shown = runs[name]._repr_html_()
    assert "<script" not in shown and "http" not in shown
    for svg in re.findall(r"<svg.*?</svg>", shown):
        ElementTree.fromstring(svg)
    assert shown.count("<table") == shown.count("</table>") == 1


def test_metrics_are_columns_and_a_number_that_is_missing_is_nan(runs):
    frame = runs["train"].metrics("nll", "reward")
    assert frame.columns == ["step", "time_s", "nll", "reward"]
    np.testing.assert_allclose(frame["nll"], [1.20, 1.15])
    assert np.isnan(frame["reward"][0]) and frame["reward"][1] == 0.125
    assert runs["train"].control.metrics()["nll"][0] == pytest.approx(1.45)
    with pytest.raises(KeyError, match=r"nope.*nll"):
        runs["train"].metrics("nope")


def test_evaluations_have_the_control_beside_the_run(runs):
    rows = runs["train"].evals().where(step=10).records()
    assert [(row["model"], row["way"], row["accuracy"]) for row in rows] == [
        ("run", "none", 0.75),
        ("run", "greedy", 0.75),
        ("control", "none", 0.25),
    ]
    shown = runs["train"].table().records()
    assert [(row["model"], row["step"], row["accuracy"]) for row in shown] == [
        ("run", 0, "0.250 [0.250, 0.750]"),
        ("run", 0, "0.250 [0.250, 0.750]"),
        ("run", 10, "0.750 [0.250, 0.750]"),
        ("run", 10, "0.750 [0.250, 0.750]"),
        ("control", 10, "0.250 [0.250, 0.750]"),
    ]


def test_the_accuracy_of_iterations_is_by_split_and_group(runs):
    frame = runs["improve"].evals()
    assert frame.where(split="dev", group=None)["accuracy"].tolist() == [0.25, 0.5]
    assert frame.where(split="dev", group="7", iteration=1)["accuracy_low"].tolist() == [0.5]
    assert frame.where(split="test", group=None)["accuracy"].tolist() == [0.75]
    assert runs["improve"].ledger().where(phase="sample")["flops"].tolist() == [600]


def test_samples_of_thoughts_and_stored_samples_are_frames(runs):
    assert runs["train"].samples().records() == [
        {"step": 5, "text": "3a=4", "position": 1, "thought": "42", "weight": 0.5, "gain": 0.25}
    ]
    assert runs["improve"].rationales(CORRECT, ["problem"]).records() == [{"problem": "train-1"}]
    assert len(runs["search"].rationales()) == 12
    assert runs["labelling"].labels()["problem"].tolist() == ["train-0"]


def test_labelled_steps_are_judged_by_a_reward_model(runs):
    (row,) = runs["labelling"].judged("bundled:cups_prm").records()
    assert 0 < row.pop("score") < 1
    step = {"place": 0, "step": "2;", "label": False, "correct": False}
    assert row == {"solution": 0, "problem": "train-0", "prompt": "3a="} | step


def test_answers_to_single_questions_and_one_step_of_an_evaluation(runs):
    assert len(runs["evaluation"].answers()) == 16
    step = qstar.open(runs["evaluation"].path / "step_10")
    assert step.answers("cups").where(thoughts="greedy")["exact"].tolist() == [True, False, True, True]
    assert step.evals()["accuracy"].tolist() == [0.0, 0.75]
    with pytest.raises(ValueError, match=r"gsm8k.*cups"):
        step.answers("gsm8k")


def test_what_a_search_cost_is_the_sum_of_its_rows(runs):
    write, score = runs["search"].ledger().records()
    assert (write["prompt_tokens"], write["generated_tokens"], write["flops"]) == (8, 24, 120.0)
    assert (score["prompt_tokens"], score["flops"]) == (36, 60.0)


def test_settings_are_by_dotted_key(runs):
    settings = {row["setting"]: row["value"] for row in runs["train"].settings().records()}
    assert (settings["method"], settings["method.thought_len"], settings["steps"]) == ("quiet_star", "2", "10")


@pytest.mark.parametrize(
    ("name", "what", "error", "found"),
    [
        ("train", "tree", ValueError, "qstar-train, which has no search trees; it has settings"),
        ("train", "rationales", FileNotFoundError, "rollouts"),
        ("train", "rollouts", FileNotFoundError, "data=rollouts"),
        ("improve", "rollouts", ValueError, "qstar-improve, which has no rollouts"),
        ("search", "judged", ValueError, "qstar-solve, which has no labelled steps"),
        ("train", "answers", ValueError, "no answers to single questions"),
        ("improve", "samples", ValueError, "qstar-improve, which has no samples of thoughts"),
        ("search", "metrics", ValueError, "qstar-solve, which has no metrics"),
        ("labelling", "evals", ValueError, "qstar-label, which has no evaluations"),
        ("evaluation", "settings", ValueError, "qstar-evaluate, which has no configuration"),
        ("evaluation", "read", ValueError, "qstar-evaluate, which has no model"),
        ("train", "read", FileNotFoundError, "checkpoint"),
        ("improve", "read", FileNotFoundError, "trained no model"),
    ],
)
def test_what_a_directory_lacks_is_said_with_what_it_has(runs, name, what, error, found):
    arguments = {"tree": ["dev-1"], "read": [["3a="]], "judged": ["bundled:cups_prm"]}.get(what, [])
    with pytest.raises(error, match=found):
        getattr(runs[name], what)(*arguments)


def test_a_run_that_has_only_begun_says_what_is_not_there_yet(tmp_path):
    run = qstar.open(run_folders.train(tmp_path / "run"))
    for name in ("metrics.jsonl", "evals.jsonl", "samples.jsonl", "control/evals.jsonl"):
        (run.path / name).unlink()
    for what in (run.metrics, run.evals, run.samples):
        with pytest.raises(FileNotFoundError, match=str(run.path)):
            what()
    assert "step 0 of 10" in repr(run)
    assert "no metrics yet" in run._repr_html_()


def test_latest_is_the_run_begun_last_and_no_part_of_another(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="no run under"):
        qstar.open()
    first, second = run_folders.search(tmp_path / "runs" / "a"), run_folders.train(tmp_path / "runs" / "b")

    for path, time in (
        (first / "solve.yaml", 100),
        (second / "config.yaml", 50),
        (second / "control/config.yaml", 200),
    ):
        os.utime(path, (time, time))
    assert qstar.open("latest").path.name == "a"


def test_directories_that_are_no_runs_are_refused_with_the_way_out(tmp_path):
    run_folders.labelling(tmp_path / "sweep" / "0")
    (tmp_path / "empty").mkdir()
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.json").write_text("{}")
    for name, error, found in (
        ("nothing", FileNotFoundError, "is not there"),
        ("sweep", ValueError, "qstar.sweep"),
        ("model", ValueError, "qstar.load_model"),
        ("empty", ValueError, "no run directory"),
    ):
        with pytest.raises(error, match=found):
            qstar.open(tmp_path / name)
