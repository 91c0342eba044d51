"""`qstar-evaluate` and `qstar-compare`: checkpoints of a run, evaluations that are killed, and what is left on disk."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import pytest
import tolerances
from hydra.core.global_hydra import GlobalHydra
from small_runs import MODEL, composed, lines, small

from qstar import evaluate, runs
from qstar.cli import compare
from qstar.config import EvaluateConfig
from qstar.evals import journal, suite
from qstar.evals.suite import CupsEval, NoEval, QuestionsEval
from qstar.methods.quiet_star import QuietStar
from qstar.paths import ROOT
from qstar.runs import train
from qstar.sharding import MeshConfig

CUPS = CupsEval(items=6, batch_size=2, thoughts=("none", "greedy", "sampled"))
EIGHT = dataclasses.replace(CUPS, items=8, batch_size=8)
PLAIN = dataclasses.replace(CUPS, thoughts=("none",))  # quicker to compile


@pytest.fixture(scope="module")
def directory(tmp_path_factory) -> Path:
    """A run of two steps with three checkpoints of a method that thinks."""
    directory = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "BEST_OF", 1)
        overrides = (
            "steps=2",
            "save_every=1",
            "keep=3",
            "control=false",
            "eval=none",
            "optim.lr=0.05",
            "sample_every=0",
        )
        train.run(small(*overrides), directory)
    return directory


def asked(directory: Path, **changes) -> EvaluateConfig:
    return EvaluateConfig(**{"run": str(directory), "eval": CUPS} | changes)


def table_of(folder: Path, step: int = 2) -> list[dict]:
    return journal.load(folder / f"step_{step}")["cups"].to_pylist()


# --- asked otherwise than trained ---------------------------------------------------------------------------------


@pytest.mark.slow  # a sweep of test_ablations.py is, too
def test_a_run_is_evaluated_with_thoughts_of_another_length(directory, tmp_path):
    trained, longer = tmp_path / "trained", tmp_path / "longer"
    evaluate.evaluate(asked(directory, out=str(trained)))
    evaluate.evaluate(asked(directory, out=str(longer), method={"thought_len": 5}))
    tables = [table_of(folder) for folder in (trained, longer)]
    assert [{len(row["thought"]) for row in rows if row["thoughts"] == "greedy"} for rows in tables] == [{2}, {5}]


def test_a_setting_that_the_method_does_not_have_is_refused(directory):
    with pytest.raises(
        ValueError, match=r"method\.length = 5: the run's method=quiet_star has no such setting; it has thought_len"
    ):
        evaluate.evaluate(asked(directory, method={"length": 5}))
    with pytest.raises(ValueError, match=r"method = .*: give run=DIRECTORY"):
        asked("none", method={"thought_len": 5})


# --- on a mesh ----------------------------------------------------------------------------------------------------


@pytest.mark.slow  # test_sharding.py trains on them, test_solve.py samples
def test_a_model_that_is_sharded_over_eight_devices_gives_the_same_answers(directory, tmp_path, monkeypatch):
    held, call = [], suite.Evaluator.__call__

    def calling(self, params, *rest):
        held.append(params["lm"]["blocks"]["query"])
        return call(self, params, *rest)

    monkeypatch.setattr(suite.Evaluator, "__call__", calling)
    one, mesh = tmp_path / "one", tmp_path / "mesh"
    for folder, sizes in ((one, MeshConfig()), (mesh, MeshConfig(data=4, fsdp=2))):
        evaluate.evaluate(asked(directory, eval=EIGHT, out=str(folder), mesh=sizes))
    assert [query.addressable_shards[0].data.size for query in held] == [held[0].size, held[0].size // 2]
    bound = tolerances.forward(runs.load_run(directory).lm, keys=64)
    for row, other in zip(table_of(mesh), table_of(one), strict=True):
        for name, value in row.items():
            assert value == (pytest.approx(other[name], abs=bound) if isinstance(value, float) else other[name]), name
    # Which devices computed an answer is no part of it: the evaluation is one that is done already.
    assert evaluate.evaluate(asked(directory, eval=EIGHT, out=str(mesh)))[0][1][0].n == 8


def test_a_mesh_that_does_not_divide_the_model_is_refused_before_anything_is_written(directory, tmp_path):
    with pytest.raises(ValueError, match=r"its axis 'vocab' of size 19 is not divisible by the mesh axis 'tensor'"):
        evaluate.evaluate(asked(directory, out=str(tmp_path / "out"), mesh=MeshConfig(tensor=2)))
    assert not list((tmp_path / "out").glob("*"))


# --- steps --------------------------------------------------------------------------------------------------------


def test_every_checkpoint_of_a_run_is_evaluated_with_one_command(directory, tmp_path):
    groups = evaluate.evaluate(asked(directory, step="all", out=str(tmp_path / "out")))
    assert [name for name, _ in groups] == [f"{directory}, step 1", f"{directory}, step 2"]
    assert [[row.way for row in rows] for _, rows in groups] == [["none", "greedy", "sampled"]] * 2
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "evals.jsonl",
        "step_1",
        "step_2",
        "summary.md",
    ]
    found = lines(tmp_path / "out" / "evals.jsonl")
    assert [(line["step"], line["way"]) for line in found] == [
        (step, way) for step in (1, 2) for way in ("none", "greedy", "sampled")
    ]
    assert found[3]["nll"] != found[0]["nll"]
    summary = (tmp_path / "out" / "summary.md").read_text().splitlines()
    assert summary[0] == "| task | model | thoughts | accuracy | probability of the answer | nll | n |"
    assert [line.split(" | ")[1] for line in summary[2:]] == [
        f"{directory}, step {step}" for step in (1, 1, 1, 2, 2, 2)
    ]
    assert [line.split(" | ")[2] for line in summary[2:]] == ["none", "likeliest", "sampled x 1"] * 2
    # As when a checkpoint is asked alone.
    ((_, alone),) = evaluate.evaluate(asked(directory, step=1))
    assert alone == groups[0][1]


def test_steps_are_named_one_by_one(directory):
    for step, names in ((2, ["step 2"]), ([2, 1], ["step 2", "step 1"]), ("newest", ["step 2"])):
        groups = evaluate.evaluate(asked(directory, step=step, eval=PLAIN))
        assert [name for name, _ in groups] == [f"{directory}, {name}" for name in names]


@pytest.mark.parametrize("step", [-1, "last", [], [1, "all"], True, 1.5])
def test_a_step_that_is_none_is_refused(step):
    with pytest.raises(ValueError, match=r"step = .*: expected a step, a list of steps as in \[10,20\], newest or all"):
        EvaluateConfig(step=step)


def test_the_command_line_takes_steps_and_ways():
    cfg = composed("step=[1,2]", "eval.thoughts=[none,sampled]", "eval.draws=3", name="evaluate")
    assert (list(cfg.step), cfg.eval.thoughts, cfg.eval.draws) == ([1, 2], ("none", "sampled"), 3)
    assert composed("step=all", name="evaluate").step == "all"


def test_a_checkpoint_that_is_not_there_is_refused(directory, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"has no checkpoint of step 7; there are \[1, 2\]"):
        evaluate.evaluate(asked(directory, step=7, out=str(tmp_path / "out")))
    copy = Path(shutil.copytree(directory, tmp_path / "run"))
    shutil.rmtree(copy / "checkpoints")
    for step in ("all", "newest", 1):
        with pytest.raises(FileNotFoundError, match="holds no committed checkpoint"):
            evaluate.evaluate(asked(copy, step=step, out=str(tmp_path / "out")))
    assert not (tmp_path / "out").exists()


# --- on disk ------------------------------------------------------------------------------------------------------


def test_an_evaluation_that_is_killed_resumes_and_gives_the_same_numbers(directory, tmp_path):
    cfg = asked(directory, eval=dataclasses.replace(CUPS, items=300, draws=2, thoughts=("none", "sampled")))
    command = [
        sys.executable, "-m", "qstar.evaluate", f"run={directory}", "eval.items=300", "eval.batch_size=2",
        "eval.thoughts=[none,sampled]", "eval.draws=2", f"out={tmp_path / 'killed'}",
    ]  # fmt: skip
    environment = os.environ | {"PYTHONPATH": str(ROOT), "XLA_FLAGS": os.environ.get("XLA_FLAGS", "")}
    environment["JAX_COMPILATION_CACHE_DIR"] = jax.config.jax_compilation_cache_dir
    environment["JAX_NUM_CPU_DEVICES"] = "8"
    process = subprocess.Popen(command, env=environment, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    open = tmp_path / "killed" / "step_2" / "cups.jsonl"
    end = time.monotonic() + 300
    while not (open.exists() and open.read_bytes().count(b"\n") > 3):
        assert process.poll() is None, process.communicate()[0].decode()
        assert time.monotonic() < end, "the evaluation did not get there in time"
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    batches = open.read_bytes().count(b"\n") - 1
    assert 3 <= batches < 150  # it was killed on its way
    before = [json.loads(line)["rows"] for line in open.read_text().splitlines()[1 : 1 + batches]]
    ((_, rows),) = evaluate.evaluate(dataclasses.replace(cfg, out=str(tmp_path / "killed")))
    ((_, straight),) = evaluate.evaluate(dataclasses.replace(cfg, out=str(tmp_path / "straight")))
    found = table_of(tmp_path / "killed")
    assert [row for batch in before for row in batch] == found[: len(before) * 6]
    assert (found, rows) == (table_of(tmp_path / "straight"), straight)


def test_an_evaluation_of_other_weights_is_not_mixed_in(directory, tmp_path):
    evaluate.evaluate(asked(directory, step=1, eval=PLAIN, out=str(tmp_path / "out")))
    (tmp_path / "out" / "step_1").rename(tmp_path / "out" / "step_2")
    before = (tmp_path / "out" / "step_2" / "cups.parquet").read_bytes()
    with pytest.raises(ValueError, match=r"cups.parquet holds answers of another evaluation:\n  weights = "):
        evaluate.evaluate(asked(directory, step=2, eval=PLAIN, out=str(tmp_path / "out")))
    assert (tmp_path / "out" / "step_2" / "cups.parquet").read_bytes() == before


def test_other_tasks_and_steps_of_a_folder_stay_in_its_table(directory, tmp_path):
    other = {"step": 2, "task": "gsm8k", "accuracy": 0.1}
    stale = {"step": 2, "task": "cups", "accuracy": 0.9}
    later = {"step": 30, "task": "cups", "accuracy": 0.2}
    (tmp_path / "evals.jsonl").write_text("".join(json.dumps(line) + "\n" for line in (later, stale, other)))
    evaluate.evaluate(asked(directory, eval=PLAIN, out=str(tmp_path)))
    found = lines(tmp_path / "evals.jsonl")
    assert [(line["step"], line["task"]) for line in found] == [(2, "gsm8k"), (2, "cups"), (30, "cups")]
    assert stale not in found


def test_a_file_is_not_a_folder_for_answers(directory, tmp_path):
    (tmp_path / "scores.jsonl").touch()
    with pytest.raises(ValueError, match=r"scores.jsonl is a file: name a folder"):
        evaluate.evaluate(asked(directory, out=str(tmp_path / "scores.jsonl")))


# --- commands -----------------------------------------------------------------------------------------------------


def evaluated(monkeypatch, *overrides: str) -> int:
    """The exit code of qstar-evaluate."""
    monkeypatch.setattr(sys, "argv", ["qstar-evaluate", *overrides])
    GlobalHydra.instance().clear()
    try:
        evaluate.main()
    except SystemExit as end:
        return end.code or 0
    finally:
        GlobalHydra.instance().clear()
    return 0


def test_no_evaluation_is_no_question(monkeypatch, capsys):
    assert evaluated(monkeypatch, "eval=none") == 1
    assert "eval=none evaluates nothing: choose one of cups, questions" in capsys.readouterr().err


def test_evaluations_are_shown_and_compared(directory, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    options = ("eval.items=6", "eval.batch_size=2", "eval.thoughts=[none,greedy,sampled]", f"out={out}")
    assert evaluated(monkeypatch, f"run={directory}", "step=all", *options) == 0
    shown = capsys.readouterr().out
    assert shown.count("sampled x 1") == 2
    assert f"Table and answers are in {out}; paired tests:  qstar-compare" in shown
    compare.main([str(out / "step_2")])
    shown = capsys.readouterr().out
    assert "step_2, thoughts against none, on the same items" in shown
    rows = [line for line in shown.splitlines() if "McNemar" in line or "sign flips" in line]
    assert [line.split("│")[2].strip() for line in rows] == ["score", "exact", "loglik"] * 2
    compare.main([str(out / "step_1"), str(out / "step_2")])
    shown = capsys.readouterr().out
    assert f"{out / 'step_2'} against {out / 'step_1'}, on the same items" in shown
    head, *rows = [line.split("│" if line[0] == "│" else "┃")[1:-1] for line in shown.splitlines() if line[0] in "┃│"]
    assert [name.strip() for name in head[2:6]] == ["thoughts", "step_1", "step_2", "difference"]
    assert [row[2].strip() for row in rows] == ["none"] * 3 + ["likeliest"] * 3 + ["sampled"] * 3
    none = [row for row in table_of(out, 2) if row["thoughts"] == "none"]
    assert rows[0][4].strip() == f"{sum(row['score'] for row in none) / 6:.3f}"
    assert "difference: step_2 - step_1" in shown


def test_what_cannot_be_compared_is_refused(directory, tmp_path):
    one, other = tmp_path / "one", tmp_path / "other"
    evaluate.evaluate(asked(directory, eval=PLAIN, out=str(one)))
    shutil.copytree(one, other)
    (other / "step_2" / "cups.parquet").rename(other / "step_2" / "gsm8k.parquet")
    for arguments, message in (
        ([one], "one has answers in one way only: name a second folder"),
        ([one, other], "one has cups, .*other has gsm8k: no task in common"),
        ([one, tmp_path / "nowhere"], "no answers in .*nowhere: qstar-evaluate out=FOLDER writes"),
    ):
        with pytest.raises(SystemExit, match=f"qstar-compare: .*{message}"):
            compare.main([str(argument) for argument in arguments])


# --- configurations -----------------------------------------------------------------------------------------------


def test_evaluations_are_made_in_python_as_on_the_command_line(monkeypatch, tmp_path):
    monkeypatch.setenv("QSTAR_DATA", str(tmp_path))
    assert QuestionsEval() == composed("eval=questions", name="evaluate").eval
    assert QuestionsEval().gsm8k == f"{tmp_path}/gsm8k"
    assert CupsEval() == composed("eval=cups", name="evaluate").eval


@pytest.mark.parametrize("recipe", ["tiny", "smollm2_math", "smollm2_math_cpu"])
def test_any_recipe_runs_without_questions(monkeypatch, tmp_path, recipe):
    monkeypatch.setenv("QSTAR_DATA", str(tmp_path))
    cfg = composed(f"experiments=quiet_star/{recipe}", "eval=none")
    assert isinstance(cfg.eval, NoEval)
    assert isinstance(cfg.method, QuietStar)


def test_a_run_of_an_earlier_version_is_opened_with_the_ways_that_it_meant(directory, tmp_path):
    copy = Path(shutil.copytree(directory, tmp_path / "run"))
    kept = (copy / "config.yaml").read_text()
    assert "  thoughts:\n  - none\n" in kept
    for greedy, ways in (("true", ("none", "greedy")), ("false", ("none", "sampled"))):
        earlier = kept.replace("  thoughts:\n  - none\n", f"  greedy: {greedy}\n")
        (copy / "config.yaml").write_text(earlier)
        assert runs.load_run(copy).config.eval.thoughts == ways


def test_a_model_as_it_is_is_step_zero(tmp_path):
    cfg = composed(*MODEL, "run=none", f"out={tmp_path / 'out'}", name="evaluate")
    ((name, rows),) = evaluate.evaluate(dataclasses.replace(cfg, eval=CUPS))
    assert (name, [row.way for row in rows]) == ("scratch", ["none"])
    assert journal.load(tmp_path / "out")["cups"].num_rows == 6
