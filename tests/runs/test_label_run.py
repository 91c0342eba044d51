"""Labelling runs: what they write, that a kill changes nothing, and what is refused before anything is generated."""

import dataclasses
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
import run_folders
from hydra.core.global_hydra import GlobalHydra
from small_runs import composed

from qstar import files
from qstar import label as command
from qstar.data import rationales
from qstar.data.labelled import LabelledText
from qstar.data.rationales import Store
from qstar.paths import ROOT
from qstar.runs import improve, label, load, solutions, solve
from qstar.tasks.cups import Cups, Game

SMALL = ("problems=4", "batch=2", "samples=2", "task.train=4", "task.max_moves=6", "rows=8")


def config(folder, *overrides):
    return composed(*SMALL, *overrides, f"run_dir={folder}", name="label")


def records(folder, name=label.LABELS):
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Solutions of the bundled model, three completions from every step."""
    folder = tmp_path_factory.mktemp("label") / "run"
    label.run(config(folder, "label.k=3", "label.smaller=[1]", "label.soft=true"), folder)
    return folder


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda lines: [], "ends without the line of its batch's cost"),
        (lambda lines: lines[:2], "ends without the line of its batch's cost"),
        (lambda lines: [*lines[:2], lines[2].rstrip("\n")], "ends without the line of its batch's cost"),
        (lambda lines: lines + lines, "line 3: no 'problem' in it, expected a labelled solution"),
        (lambda lines: ["{}\n", lines[2]], "line 1: no 'problem' in it"),
        (
            lambda lines: [lines[0].replace("train-1", "train-9"), *lines[1:]],
            "line 1: question 'train-9' is not one of",
        ),
        (lambda lines: [*lines[:2], '{"ledger": 3, "skipped": 0}\n'], "line 3: 'ledger' is 3, expected dict"),
    ],
)
def test_a_batch_of_labels_that_was_cut_copied_or_edited_is_named(tmp_path, damage, message):
    file = tmp_path / "batch_00000.jsonl"
    solution = {"problem": "train-1", "completions": ["a;"], "labels": [1.0], "correct": True}
    solution |= {"prompt": "3a=", "source": "sampled", "model": "5"}
    files.write_records(file, [solution, solution, {"ledger": {}, "skipped": 0}])
    assert label._part(file, ["train-1"]) == ([solution, solution], {"ledger": {}, "skipped": 0})
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(damage(lines)))
    with pytest.raises(ValueError, match=rf"batch_00000\.jsonl.*{message}"):
        label._part(file, ["train-1"])


def test_every_solution_has_its_labels_and_where_they_are_from(run):
    found, task = records(run), Cups(train=4, max_moves=6)
    problems = {one.id: one for one in task.problems("train")}
    assert len(found) == 8
    for one in found:
        problem = problems[one["problem"]]
        assert one["prompt"] == problem.question
        assert one["completions"] == list(task.steps("".join(one["completions"])))
        assert [len(each) for each in one["outcomes"]] == [3] * (len(one["labels"]) - 1) + [1]
        assert one["labels"] == [sum(each) / len(each) for each in one["outcomes"]]
        assert one["correct"] == task.grader("".join(one["completions"]).removesuffix(";"), problem.answer).correct
        assert (one["kind"], one["k"], one["seed"], one["grader"]) == ("monte_carlo", 3, 0, "cups")


def test_completions_of_a_right_place_are_right_more_often_than_of_a_wrong_one(run):
    task, shares = Cups(train=4, max_moves=6), {True: [], False: []}
    problems = {one.id: one for one in task.problems("train")}
    for one in records(run):
        truth = task.truth(problems[one["problem"]], one["completions"])
        for reachable, share in zip(truth.reachable, one["labels"], strict=True):
            shares[reachable].append(share)
    assert np.mean(shares[True]) > 0.5
    assert not shares[False] or np.mean(shares[False]) < 0.2


def test_fewer_completions_are_those_of_the_largest_number(run):
    for one, fewer in zip(records(run), records(run, "labels_k1.jsonl"), strict=True):
        assert fewer["labels"] == [float(each[0]) for each in one["outcomes"]]


def test_labels_are_what_a_reward_model_is_trained_on(run):
    tokenizer = load.load_model("bundled:cups").tokenizer
    solutions = LabelledText(str(run / label.LABELS)).read(tokenizer)
    for one, record in zip(solutions, records(run), strict=True):
        texts = [tokenizer.decode(one.completion[: end + 1]) for end in one.ends]
        assert texts == ["".join(record["completions"][: i + 1]) for i in range(len(texts))]
        assert list(one.labels) == record["labels"]


def test_the_same_labels_in_trls_format(run):
    for one, record in zip(records(run, label.TRL), records(run), strict=True):
        assert one.keys() == {"prompt", "completions", "labels"}
        assert one["labels"] == [share > 0 for share in record["labels"]]


def test_all_tokens_are_counted(run):
    found = json.loads((run / label.SUMMARY).read_text())
    written = sum(len(one["completion_ids"]) for one in records(run))
    assert found["ledger"]["sample"]["generated_tokens"] == written
    assert found["ledger"]["label"]["generated_tokens"] > written
    assert found["ledger"]["label"]["flops"] > found["ledger"]["sample"]["flops"] > 0


def test_a_run_that_was_killed_ends_with_the_same_bits(run, tmp_path):
    again = tmp_path / "again"
    shutil.copytree(run, again)
    (again / label.BATCHES / "batch_00001.jsonl").unlink()
    (again / label.BATCHES / "batch_00001.jsonl.partial").write_text("{")
    for name in (label.LABELS, "labels_k1.jsonl", label.SUMMARY):
        (again / name).unlink()
    label.run(config(again, "label.k=3", "label.smaller=[1]", "label.soft=true"), again)
    for name in (label.LABELS, "labels_k1.jsonl", label.SUMMARY, "batches/batch_00001.jsonl"):
        assert (again / name).read_bytes() == (run / name).read_bytes()


KILLED = """
import os, signal, sys
from qstar.cli import scripts
kills_at, renames, rename = int(sys.argv.pop(1)), 0, os.replace
def replace(*paths, **others):
    global renames
    renames += 1
    if renames == kills_at:
        os.kill(os.getpid(), signal.SIGKILL)  # the file is whole, under another name
    return rename(*paths, **others)
os.replace = replace
scripts.label()
"""
KILLS = {
    "monte_carlo": ("label.k=2", "label.smaller=[1]"),
    "omega": ("label=omega", "label.k=2"),
}
PARTS = ("problems=4", "batch=1", "samples=2", "task.train=4", "task.max_moves=6", "rows=8")


def started(folder, code, *arguments):
    """A command in a process of its own."""
    folder.mkdir(exist_ok=True)
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir,
        "JAX_NUM_CPU_DEVICES": "8",
    }
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def status_of_killed(folder, renames, *overrides):
    """Of `qstar-label` that SIGKILL ends at its rename of this number, if it gets there."""
    return started(folder, KILLED, str(renames), *overrides).wait(timeout=300)


def contents(folder):
    """All files of a run, the configuration without its folder."""
    found = {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    found[label.KIND.file] = re.sub(rb"(?m)^run_dir: .*$", b"", found[label.KIND.file])
    return found


def straight(kind, folder):
    label.run(composed(*PARTS, *KILLS[kind], f"run_dir={folder}", name="label"), folder)
    return contents(folder)


@pytest.mark.parametrize("kind", ["monte_carlo", pytest.param("omega", marks=pytest.mark.slow)])
def test_labelling_that_sigkill_ends_between_two_parts_resumes_bit_for_bit(kind, tmp_path):
    expected, run = straight(kind, tmp_path / "straight"), tmp_path / "shared" / "run"
    assert status_of_killed(tmp_path / "shared", 5, *PARTS, *KILLS[kind], "run_dir=run") == -signal.SIGKILL
    stored = sorted(file.name for file in (run / label.BATCHES).glob("batch_*.jsonl"))
    assert stored == ["batch_00000.jsonl", "batch_00001.jsonl"]  # renamed after the configuration and the identity
    label.run(composed(*PARTS, *KILLS[kind], f"run_dir={run}", name="label"), run)
    assert contents(run) == expected


@pytest.mark.slow
@pytest.mark.parametrize("kind", KILLS)
def test_labelling_that_sigkill_ends_at_every_file_resumes_bit_for_bit(kind, tmp_path):
    """Each start renames the configuration and one file more, until there is nothing left to write."""
    expected, shared = straight(kind, tmp_path / "straight"), tmp_path / "shared"
    resumed, starts = (*PARTS, *KILLS[kind], "run_dir=run"), 0
    for renames in (1, *[3] * 4, *range(2, len(expected))):  # batches, then what is made of them, written every time
        status = status_of_killed(shared, renames, *resumed)
        if status == 0:
            break
        assert status == -signal.SIGKILL
        starts, resumed = starts + 1, (*PARTS, *KILLS[kind], "run_dir=run") if renames == 1 else ("resume=run",)
    assert status == 0 and starts > 6
    assert contents(shared / "run") == expected


@pytest.mark.slow
@pytest.mark.parametrize("kind", KILLS)
@pytest.mark.parametrize("seed", range(4))
def test_labelling_that_sigkill_ends_at_a_random_moment_resumes_bit_for_bit(kind, seed, tmp_path):
    expected, run = straight(kind, tmp_path / "straight"), tmp_path / "shared" / "run"
    code = "from qstar.cli import scripts; scripts.label()"
    process = started(run.parent, code, *PARTS, *KILLS[kind], "run_dir=run")
    while not list((run / label.BATCHES).glob("batch_*.jsonl")):
        assert process.poll() is None
        time.sleep(0.002)
    time.sleep(random.Random(seed).uniform(0, 1))
    process.kill()
    process.wait()
    label.run(composed(*PARTS, *KILLS[kind], f"run_dir={run}", name="label"), run)
    assert contents(run) == expected


@pytest.mark.slow  # test_solve.py samples and scores on meshes, as labelling does
def test_a_model_that_is_sharded_over_eight_devices_writes_the_same_labels(run, tmp_path):
    given = ("label.k=3", "label.smaller=[1]", "label.soft=true", "mesh.data=2", "mesh.fsdp=4")
    label.run(config(tmp_path / "mesh", *given), tmp_path / "mesh")
    assert records(tmp_path / "mesh") == records(run)


def with_other_weights(folder):
    model = load.load_model("bundled:cups")
    params = jax.tree.map(lambda leaf: leaf * 1.5, model.params)
    load.save_model(folder, dataclasses.replace(model, params=params))


def test_other_weights_under_the_same_name_are_refused_when_resuming(tmp_path):
    weights, run = tmp_path / "weights", tmp_path / "run"
    load.save_model(weights, load.load_model("bundled:cups"))
    asked = ("label=truth", "model=pretrained", f"model.source={weights}", "problems=2", "batch=1")
    label.run(config(run, *asked), run)
    (run / label.BATCHES / "batch_00001.jsonl").unlink()
    before = contents(run)
    shutil.rmtree(weights)
    with_other_weights(weights)
    with pytest.raises(ValueError, match=r"batch_00000\.jsonl was written with other weights"):
        label.run(config(run, *asked), run)
    assert contents(run) == before


def test_other_solutions_in_the_same_file_are_refused_when_resuming(tmp_path):
    run = tmp_path / "run"
    asked = ("label=truth", "batch=1", solutions_file(tmp_path, worked(0), worked(1)))
    label.run(config(run, *asked), run)
    (run / label.BATCHES / "batch_00001.jsonl").unlink()
    before = contents(run)
    for others in ([worked(0, slip=2), worked(1)], [worked(0), worked(0), worked(1)]):
        solutions_file(tmp_path, *others)
        with pytest.raises(ValueError, match=r"batch_00000\.jsonl has labels of other solutions"):
            label.run(config(run, *asked), run)
    assert contents(run) == before
    solutions_file(tmp_path, worked(0), worked(1))
    assert label.run(config(run, *asked), run)["solutions"] == 2


def test_a_batch_that_lost_a_line_is_named_before_others_are_labelled(run, tmp_path):
    again = shutil.copytree(run, tmp_path / "again")
    first, second = (again / label.BATCHES / f"batch_{number:05d}.jsonl" for number in (0, 1))
    first.unlink()
    lines = second.read_text().splitlines(keepends=True)
    second.write_text("".join(lines[1:]))
    with pytest.raises(ValueError, match=r"batch_00001\.jsonl has 3 of 4 sampled solutions"):
        label.run(config(again, "label.k=3", "label.smaller=[1]", "label.soft=true"), again)
    assert not first.exists()


def test_another_configuration_is_refused_in_the_same_folder(run):
    with pytest.raises(ValueError, match=r"label.k = 3, now 2"):
        label.run(config(run, "label.k=2", "label.soft=true"), run)


def tokenizer_of_bundled():
    return load.load_model("bundled:cups").tokenizer


def solutions_file(folder, *lines):
    (folder / "solutions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return f"source={folder / 'solutions.jsonl'}"


def worked(index=0, slip=None):
    """A line with the workings of a problem; from place `slip` on they are those of a ball under another cup."""
    problem = Cups(train=4, max_moves=6).problems("train")[index]
    text = f"{problem.rationale}{problem.answer};"
    if slip is not None:
        place = int(problem.rationale[slip + 1]) % 5 + 1
        places = f"{place}{Game(place, problem.question[slip + 2 : -1]).places}"
        text = f"{text[: slip + 1]}{places}-{places[-1]};"
    return {"problem": problem.id, "completion": text}


def test_exact_labels_of_solutions_from_a_file(tmp_path):
    source = solutions_file(tmp_path, worked(0), worked(1), worked(0, slip=2))
    found = label.run(config(tmp_path / "run", "label=truth", source), tmp_path / "run")
    rows = records(tmp_path / "run")
    assert [one["problem"] for one in rows] == ["train-0", "train-0", "train-1"]  # by question
    assert rows[0]["labels"] == rows[2]["labels"] == [True] * 7
    assert rows[1]["labels"] == [True, True, False, True, True, True, True]  # what follows the slip follows from it
    assert rows[1]["source"].endswith("solutions.jsonl:3")
    assert (found["right"], found["ledger"]["label"]["generated_tokens"]) == (2, 0)


@pytest.mark.parametrize("search", [("search=best_of_n",), ("search=beam", "search.m=2", "step_tokens=2")])
def test_what_a_search_found_is_labelled(tmp_path, search):
    game = ("task.min_moves=6", "task.max_moves=6", "task.dev=4")
    given = ("search.n=4", "scorer=oracle", "questions=2", "sample_batch=2", f"run_dir={tmp_path}/found")
    solve.run(composed(*search, *given, *game, name="solve"), tmp_path / "found")
    label.run(config(tmp_path / "run", "label=truth", f"source={tmp_path}/found", "split=dev", *game), tmp_path / "run")
    rows, task = records(tmp_path / "run"), Cups(dev=4, min_moves=6, max_moves=6)
    problems, tokens = {one.id: one for one in task.problems("dev")}, tokenizer_of_bundled()
    leaves = [row for row in Store.open(tmp_path / "found" / solve.FOLDER).rows().to_pylist() if row["place"]["final"]]
    assert len(rows) == sum(row["finished"] for row in leaves) > 2
    assert sum(row["correct"] for row in rows) == sum(row["correct"] for row in leaves if row["finished"])
    for row in rows:
        text = "".join(row["completions"])
        assert text == tokens.decode(row["completion_ids"]) and row["completions"] == list(task.steps(text))
        assert row["correct"] == (problems[row["problem"]].answer == text[-2])


def test_solutions_of_a_search_that_say_nothing_or_are_unfinished_are_left_out(tmp_path):
    final = {"final": True}
    rows = [
        run_folders.sample("dev-1", "", "", False, place=run_folders.place(0, -1)),
        run_folders.sample("dev-1", "", "", False, place=run_folders.place(1, 0, **final)),
        run_folders.sample("dev-1", " \n", "", False, place=run_folders.place(2, 0, **final)),
        run_folders.sample("dev-1", "2;", "2", True, place=run_folders.place(3, 0, **final)),
        run_folders.sample("dev-1", "4;", "4", False, place=run_folders.place(4, 0)),  # not the end of a solution
        run_folders.sample("dev-1", "3;", "3", False, finished=False, place=run_folders.place(5, 0, **final)),
    ]
    Store.create(tmp_path / solve.FOLDER, "model", "cups").append(0, 0, rows)
    task = Cups(dev=4)
    found = solutions.read(str(tmp_path), {one.id: one for one in task.problems("dev")}, task)
    assert {name: [given.text for given in each] for name, each in found.items()} == {"dev-1": ["2;"]}


def test_solutions_of_a_self_training_run_are_labelled(tmp_path):
    small = ("task=cups", "task.train=4", "task.max_moves=6", "improve.problems=4", "improve.iterations=1")
    more = (
        "improve.steps=1",
        "batch_size=4",
        "sample_batch=4",
        "dev=0",
        "improve.hint=never",
        "length=64",
        "optim.warmup_steps=0",
    )
    star = composed(
        *small, *more, "model=pretrained", "model.source=bundled:cups", f"run_dir={tmp_path}/star", name="improve"
    )
    improve.run(star, tmp_path / "star")
    found = label.run(config(tmp_path / "run", "label=truth", f"source={tmp_path}/star"), tmp_path / "run")
    stored = Store.open(tmp_path / "star" / rationales.FOLDER).rows().to_pylist()
    assert found["solutions"] == sum(row["finished"] for row in stored) > 0
    assert found["right"] == sum(row["correct"] for row in stored if row["finished"])


def test_solutions_of_a_labelling_are_labelled_again(run, tmp_path):
    found = label.run(config(tmp_path / "again", "label=truth", f"source={run}"), tmp_path / "again")
    assert found["solutions"] == len(records(run)) > 0
    assert [row["completion_ids"] for row in records(tmp_path / "again")] == [
        row["completion_ids"] for row in records(run)
    ]


def test_the_first_wrong_step_by_halving(tmp_path):
    source = solutions_file(tmp_path, worked(0, slip=2), worked(1))
    label.run(config(tmp_path / "run", "label=omega", "label.k=4", source), tmp_path / "run")
    wrong, right = records(tmp_path / "run")
    assert wrong["labels"] == [True, True, False, False, False, False, False]
    assert sum(each is not None for each in wrong["outcomes"][:-1]) <= 3
    assert right["labels"] == [True] * 7


def test_resume_latest_resumes_with_the_newest_labelling(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    stopped = shutil.copytree(run, tmp_path / "runs" / "label" / "second")
    shutil.copytree(run, tmp_path / "runs" / "label" / "first")
    os.utime(tmp_path / "runs" / "label" / "first" / label.KIND.file, (1000, 1000))
    for name in ("batches/batch_00001.jsonl", label.LABELS):
        (stopped / name).unlink()
    monkeypatch.setattr(sys, "argv", ["qstar-label", "resume=latest"])
    try:
        command.main()
    finally:
        GlobalHydra.instance().clear()
    assert (stopped / label.LABELS).read_bytes() == (run / label.LABELS).read_bytes()


def test_two_labellers_keep_what_they_agree_on(tmp_path):
    line = {"prompt": "3a=", "completions": ["-4", "-4;"], "correct": True, "problem": "p"}
    for name, labels in (("one", [[1, 0], [1, 0], [1, 1]]), ("two", [[0.5, 0.0], [0, 0], [1.0, 0.25]])):
        (tmp_path / f"{name}.jsonl").write_text(
            "".join(json.dumps(line | {"labels": each, "kind": name}) + "\n" for each in labels)
        )
    given = [f"label.{name}={tmp_path / file}.jsonl" for name, file in (("first", "one"), ("second", "two"))]
    found = label.run(config(tmp_path / "run", "label=consensus", *given), tmp_path / "run")
    assert [one["labels"] for one in records(tmp_path / "run")] == [[1, 0], [1, 1]]
    assert records(tmp_path / "run")[0]["agreed"] == ["one", "two"]
    assert (found["solutions"], found["skipped"]) == (2, 1)
    before = (tmp_path / "run" / label.LABELS).read_bytes()
    with files.locked(tmp_path / "run"), pytest.raises(files.Locked):
        label.run(config(tmp_path / "run", "label=consensus", *given), tmp_path / "run")
    assert (tmp_path / "run" / label.LABELS).read_bytes() == before
    (tmp_path / "two.jsonl").write_bytes((tmp_path / "two.jsonl").read_bytes().rstrip(b"\n"))
    with pytest.raises(ValueError, match=r"two\.jsonl does not end with a line break"):
        label.run(config(tmp_path / "torn", "label=consensus", *given), tmp_path / "torn")


AGREED = {"prompt": "3a=", "completions": ["-4", "-4;"], "labels": [True, False], "correct": True}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"correct": None}, r"line 1: 'correct' is None, expected bool"),
        ({"labels": [True]}, r"line 1: 1 labels of 2 steps"),
        ({"labels": [True, "false"]}, r"line 1: label 'false', expected true"),
        ({"labels": [True, float("nan")]}, r"line 1: label nan"),
        ({"labels": [5, False]}, r"line 1: label 5"),
        ({"labels": [[1], [0]]}, r"line 1: label \[1\]"),
        ({"completions": [1, 2]}, r"line 1: 2 labels of 2 steps \[1, 2\]"),
        ({"labels": [None, None]}, r"no step has a label on which .*one\.jsonl and .*two\.jsonl agree"),
    ],
)
def test_consensus_of_files_that_are_no_labels_is_refused(tmp_path, changes, said):
    for name in ("one", "two"):
        files.write_records(tmp_path / f"{name}.jsonl", [AGREED | changes])
    given = [f"label.{name}={tmp_path / file}.jsonl" for name, file in (("first", "one"), ("second", "two"))]
    with pytest.raises(ValueError, match=said):
        label.run(config(tmp_path / "run", "label=consensus", *given), tmp_path / "run")
    assert not (tmp_path / "run" / label.KIND.file).exists()


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ({"problem": "train-99", "completion": "-4-4;"}, r":1: problem 'train-99'"),
        ({"problem": "train-0"}, r":1: expected problem"),
        ({"problem": "train-0", "completions": ["-4", ""]}, r":1: expected problem"),
        ({"problem": "train-0", "completion": "-4;", "completion_ids": ["a"]}, r":1: completion_ids"),
        ({"problem": "train-0", "completion": "-4;", "completion_ids": [-1]}, r":1: completion_ids"),
        ({"problem": "train-0", "completion": "-4;", "completion_ids": [2**40]}, r":1: completion_ids"),
        ({"problem": "train-0", "completion": "-4;", "prompt": 3}, r":1: prompt is 3, expected a text"),
        ({"problem": "train-0", "completions": ["-4", "5"], "completion_ids": [16, 3]}, r":1: the steps are '-45'"),
        ({"problem": "train-0", "completion": "-4;", "completion_ids": [16, 3, 17, 99]}, r":1: completion_ids has 99"),
        ({"problem": "train-0", "completion": "what"}, r":1: character 'w' at .* alphabet"),
    ],
)
def test_lines_that_are_not_solutions_are_named(tmp_path, line, fault):
    source = solutions_file(tmp_path, line)
    with pytest.raises(ValueError, match=fault):
        label.run(config(tmp_path / "run", "label=truth", source), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_question_that_is_too_long_is_named_or_left_out_and_one_that_was_edited_refused(tmp_path, capsys):
    """The labels of the others are those of a run without it."""
    lines = [{"id": f"q{i}", "question": f"3{'aegb' * (100 if i == 1 else 1)}", "answer": "2"} for i in range(3)]
    options = ("task.prompt_template='{question}='", "task.max_new_tokens=8")

    def asked(name, lines, *more):
        file = tmp_path / f"{name}.jsonl"
        file.write_text("".join(json.dumps(line) + "\n" for line in lines))
        task = ("task=jsonl", f"task.path={file}", "task.dev=0", "task.test=0", *options)
        folder = tmp_path / name
        return composed(*task, "samples=4", "rows=8", *more, f"run_dir={folder}", name="label"), folder

    refused = (
        r"1 of 3 train questions do not fit into the 256 tokens .* q1 \(402 tokens.*; lower task\.max_new_tokens, "
    )
    with pytest.raises(ValueError, match=refused):
        label.run(*asked("refused", lines))
    assert not (tmp_path / "refused").exists()
    found = label.run(*asked("skipped", lines, "overlong=skip"))
    assert found["overlong"] == 1
    assert "1 of 3 questions are left out: too long for the 256 tokens of bundled:cups (q1)" in capsys.readouterr().out
    kept = ("prompt", "completions", "labels")
    label.run(*asked("without", [lines[0], lines[2]]))
    both = ([[row[name] for name in kept] for row in records(tmp_path / name)] for name in ("skipped", "without"))
    first, second = both
    assert first == second and {row["problem"] for row in records(tmp_path / "skipped")} <= {"q0", "q2"}
    edited = [lines[0] | {"answer": "3"}, lines[2]]
    before = contents(tmp_path / "without")
    with pytest.raises(ValueError, match=r"holds labels of other questions, .*:\n  questions = .*, now "):
        label.run(*asked("without", edited))
    assert contents(tmp_path / "without") == before


def test_what_cannot_be_labelled_is_refused_before_anything_is_generated(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"source = .*absent"):
        label.run(config(tmp_path / "run", "source=absent"), tmp_path / "run")
    for nothing in ("", "\n \r\n"):
        (tmp_path / "empty.jsonl").write_text(nothing)
        with pytest.raises(ValueError, match=r"empty\.jsonl' holds no solution"):
            label.run(config(tmp_path / "run", f"source={tmp_path}/empty.jsonl"), tmp_path / "run")
    with pytest.raises(FileNotFoundError, match=r"label.first = ''"):
        label.run(config(tmp_path / "run", "label=consensus"), tmp_path / "run")
    with pytest.raises(ValueError, match=r"4 of 4 train questions .* the 256 tokens .* train-0 \(92 tokens and 188"):
        label.run(config(tmp_path / "run", "task.min_moves=90", "task.max_moves=90"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_task_that_does_not_know_or_has_no_steps_is_refused_before_anything_is_generated(tmp_path):
    """Its questions have no rationale in whose steps that would show."""
    (tmp_path / "questions.jsonl").write_text(json.dumps({"question": "1+1", "answer": "2"}) + "\n")
    task = ("task.dev=0", "task.test=0", f"task.path={tmp_path}/questions.jsonl")
    letters = ("model=scratch", "model.tokenizer='characters:Q: A1+2\n'")
    asked = composed(
        "label=truth", "task=jsonl", *task, *letters, "model.max_len=512", f"run_dir={tmp_path}/run", name="label"
    )
    with pytest.raises(ValueError, match=r"label=truth: jsonl .* does not know which step is right"):
        label.run(asked, tmp_path / "run")
    unsplit = config(tmp_path / "run")
    object.__setattr__(unsplit.task, "delimiters", ())
    with pytest.raises(ValueError, match="does not split its solutions into steps"):
        label.run(unsplit, tmp_path / "run")
    assert not (tmp_path / "run").exists()
