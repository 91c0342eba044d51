"""A whole run: what it leaves behind, and that being stopped, repeated or prolonged changes nothing else."""

import dataclasses
import json
import re
import signal
import warnings
from pathlib import Path

import jax
import numpy as np
import pytest
import shell
import tolerances
from small_runs import chosen, lines, small

from qstar import config as configs
from qstar import evaluate, runs, think
from qstar.config import EvaluateConfig
from qstar.data.tokenizer import Tokenizer
from qstar.evals.suite import Evaluator, NoEval
from qstar.methods.plain_lm import PlainLM
from qstar.runs import stored, train
from qstar.training import loop
from qstar.training.build import step as step_module

STEPS = 5
OVERRIDES = (f"steps={STEPS}", "log_every=2", "save_every=2", "sample_every=2", "eval.every=3", "optim.ema=0.5")
FILES = ("metrics.jsonl", "evals.jsonl", "samples.jsonl", "control/metrics.jsonl", "control/evals.jsonl", "summary.md")


@dataclasses.dataclass(frozen=True)
class Finished:
    cfg: configs.TrainConfig
    directory: Path
    result: train.Result
    batches: list[np.ndarray]  # tokens of every batch that was trained on, the control's behind the method's


@pytest.fixture(scope="module", autouse=True)
def few_texts():
    """Thoughts that helped most are looked for in eight texts: reading 64 takes longer than all the rest."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "BEST_OF", 8)
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Finished:
    directory, cfg, seen = tmp_path_factory.mktemp("run"), small(*OVERRIDES), []
    make_step = step_module.make_step

    def watched(*args):
        real = make_step(*args)

        def step(state, batch):
            seen.append(jax.device_get(batch.tokens))
            return real(state, batch)

        step.lower = real.lower  # its memory is asked for beforehand
        return step

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(step_module, "make_step", watched)
        return Finished(cfg, directory, train.run(cfg, directory), seen)


def contents(directory: Path) -> dict[str, list | str]:
    """What a run wrote about itself, without the clock."""
    files = {name: directory / name for name in FILES}
    return {
        name: lines(file) if file.suffix == ".jsonl" else file.read_text()
        for name, file in files.items()
        if file.exists()
    }


def state_of(directory: Path, step: int = STEPS) -> dict:
    """The raw contents of a checkpoint."""
    from orbax.checkpoint import v1 as ocp

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sharding info not provided")  # they are compared, not trained on
        found = ocp.load_checkpointables(directory / "checkpoints" / str(step), {"state": None})["state"]
    return found | {"key": jax.random.key_data(found["key"])}


def assert_same_state(one: Path, other: Path) -> None:
    a, b = state_of(one), state_of(other)
    assert jax.tree.structure(a) == jax.tree.structure(b)
    assert len(jax.tree.leaves(a)) > 40
    jax.tree.map(np.testing.assert_array_equal, a, b)


# --- what is in the directory -------------------------------------------------------------------------------------


def test_a_run_directory_holds_these_files_and_no_others(finished):
    arm = {
        "config.yaml", "environment.json", "lm.json", "tokenizer.json", "metrics.jsonl", "metrics_open.jsonl",
        "evals.jsonl", "checkpoints", "checksums.json",
    }  # fmt: skip
    assert {path.name for path in finished.directory.iterdir()} == arm | {"samples.jsonl", "summary.md", "control"}
    assert {path.name for path in (finished.directory / "control").iterdir()} == arm


def test_the_configuration_that_is_kept_is_that_of_the_run(finished):
    assert configs.load(finished.directory / "config.yaml") == finished.cfg
    control = configs.load(finished.directory / "control" / "config.yaml")
    assert control == dataclasses.replace(finished.cfg, method=PlainLM(), control=False)


def test_the_model_the_tokenizer_and_the_environment_are_kept(finished):
    shape = json.loads((finished.directory / "lm.json").read_text())
    assert (shape["vocab"], shape["width"], shape["layers"], shape["heads"]) == (19, 16, 1, 2)
    assert Tokenizer.from_file(finished.directory / "tokenizer.json").encode("3a=-") == [2, 5, 15, 16]
    environment = json.loads((finished.directory / "environment.json").read_text())
    assert environment["versions"]["jax"] == jax.__version__
    assert environment["devices"] == ["cpu"] * 8
    assert environment.keys() == {"versions", "python", "devices", "commit"}


def test_metrics_have_a_line_for_every_interval_and_every_evaluation(finished):
    found = lines(finished.directory / "metrics.jsonl")
    assert [line["step"] for line in found] == [2, 3, 4, 5]
    assert {"loss", "nll", "nll_mixed", "reward", "weight", "policy_loss", "grad_norm"} <= found[0].keys()
    assert [line["step"] for line in found if "cups/thoughts/accuracy" in line] == [3, 5]
    control = lines(finished.directory / "control" / "metrics.jsonl")
    assert [line["step"] for line in control] == [2, 3, 4, 5]
    assert control[0].keys() == {"step", "loss", "grad_norm"}


def test_evaluations_are_taken_before_during_and_after(finished):
    found = lines(finished.directory / "evals.jsonl")
    asked = [(line["step"], line["task"], line["thoughts"], line["n"]) for line in found]
    assert asked == [(step, "cups", thoughts, 6) for step in (0, 3, 5) for thoughts in (False, True)]
    control = lines(finished.directory / "control" / "evals.jsonl")
    assert [(line["step"], line["thoughts"]) for line in control] == [(0, False), (3, False), (5, False)]
    of_metrics = {line["step"]: line for line in lines(finished.directory / "metrics.jsonl")}
    for line in found[2:]:
        way = "thoughts" if line["thoughts"] else "plain"
        assert of_metrics[line["step"]][f"cups/{way}/probability"] == line["probability"]


def test_before_training_thoughts_change_nothing_and_both_arms_are_one_model(finished):
    plain, thinking = finished.result.before
    assert dataclasses.replace(thinking, thoughts=False, way="none") == plain
    control = lines(finished.directory / "control" / "evals.jsonl")[0]
    assert control["nll"] == pytest.approx(plain.nll, abs=tolerances.forward(finished.cfg.model, size=3, scores=2.0))
    assert finished.result.after[0].nll != plain.nll


def test_samples_are_a_few_held_out_texts_and_only_thoughts_that_changed(finished):
    found = lines(finished.directory / "samples.jsonl")
    assert [line["step"] for line in found] == [0] * 4 + [2] * 4 + [4] * 4 + [5] * 4
    assert len({line["text"] for line in found}) == 4
    first = found[0]
    assert [thought["position"] for thought in first["thoughts"]] == list(range(1, len(first["text"])))
    assert {len(thought["thought"]) for line in found for thought in line["thoughts"]} == {2}
    last = {}
    for line in found:
        for thought in line["thoughts"]:
            place = line["text"], thought["position"]
            assert last.get(place) != thought["thought"]
            last[place] = thought["thought"]


def test_the_newest_checkpoints_are_kept(finished):
    for directory in (finished.directory, finished.directory / "control"):
        assert sorted(path.name for path in (directory / "checkpoints").iterdir()) == ["4", "5"]


def test_the_summary_compares_before_after_and_control(finished):
    table = [line.split(" | ") for line in (finished.directory / "summary.md").read_text().splitlines()]
    assert table[0][:3] == ["| task", "model", "thoughts"]
    assert [cells[1:3] for cells in table[2:]] == [
        ["before", "none"],
        ["before", "likeliest"],
        ["after", "none"],
        ["after", "likeliest"],
        ["control: plain LM", "none"],
    ]
    assert table[3][5].startswith(f"{finished.result.before[1].nll:.3f} [")


def test_the_control_is_trained_on_the_batches_of_the_method(finished):
    assert len(finished.batches) == 2 * STEPS
    for step in range(STEPS):
        np.testing.assert_array_equal(finished.batches[step], finished.batches[STEPS + step])
    assert not np.array_equal(finished.batches[0], finished.batches[1])


def test_the_thoughts_that_helped_most_are_of_held_out_texts_and_sorted(finished):
    gains = [one.thought.gain for one in finished.result.helped]
    assert len(gains) == 3
    assert gains == sorted(gains, reverse=True) and gains[-1] > 0


# --- the weights that are evaluated -------------------------------------------------------------------------------


def test_where_a_moving_average_is_kept_it_is_what_is_evaluated_and_opened(finished):
    state = state_of(finished.directory)
    opened = runs.load_run(finished.directory)
    assert opened.step == STEPS
    jax.tree.map(np.testing.assert_array_equal, opened.params, state["ema"])
    assert not np.array_equal(state["ema"]["lm"]["embedding"], state["params"]["lm"]["embedding"])
    ((_, rows),) = evaluate.evaluate(EvaluateConfig(run=str(finished.directory), eval=finished.cfg.eval))
    recorded = [line for line in lines(finished.directory / "evals.jsonl") if line["step"] == STEPS]
    # One device here, a mesh of one there: another program, float32.
    bound = tolerances.forward(finished.cfg.model, size=3, scores=2.0)
    assert [row.nll for row in rows] == pytest.approx([line["nll"] for line in recorded], abs=bound)
    assert [row.accuracy for row in rows] == [line["accuracy"] for line in recorded]


def test_an_older_checkpoint_can_be_opened_and_evaluated(finished):
    assert runs.load_run(finished.directory, step=4).step == 4
    ((name, _),) = evaluate.evaluate(EvaluateConfig(run=str(finished.directory), step=4, eval=NoEval()))
    assert name == f"{finished.directory}, step 4"
    with pytest.raises(FileNotFoundError, match=r"has no checkpoint of step 3; there are \[4, 5\]"):
        runs.load_run(finished.directory, step=3)


def test_a_language_model_as_it_is_answers_without_thoughts(finished):
    cfg = EvaluateConfig(run="none", model=finished.cfg.model, eval=finished.cfg.eval)
    ((name, rows),) = evaluate.evaluate(cfg)
    assert name == "scratch"
    assert [row.thoughts for row in rows] == [False]
    bound = tolerances.forward(finished.cfg.model, size=3, scores=2.0)
    assert rows[0].nll == pytest.approx(finished.result.before[0].nll, abs=bound)


def test_without_an_evaluation_nothing_is_asked_searched_or_announced(tmp_path, capsys):
    cfg = small("steps=1", "eval=none", "eval.every=1", "control=false", "sample_every=0")
    result = train.run(cfg, tmp_path / "run")
    assert (result.before, result.after, result.helped) == ([], [], [])
    assert not (tmp_path / "run" / "evals.jsonl").exists()
    shown = capsys.readouterr().out.replace(str(tmp_path), "")
    assert "preparing data ..." in shown  # the phases that there are
    assert not re.search("evaluat|question|thoughts that helped", shown, re.IGNORECASE)
    assert "Read its thoughts with" in shown


# --- again, stopped, and for longer -------------------------------------------------------------------------------


def test_a_finished_run_is_shown_again_without_training_or_asking(finished, monkeypatch, capsys):
    def refuse(*args, **kwargs):
        raise AssertionError("a finished run was trained or evaluated")

    monkeypatch.setattr(step_module, "make_step", lambda *args: refuse)
    monkeypatch.setattr(Evaluator, "__call__", refuse)
    before = contents(finished.directory)
    again = train.run(finished.cfg, finished.directory)
    assert contents(finished.directory) == before
    assert (again.before, again.after, again.control) == (
        finished.result.before, finished.result.after, finished.result.control,
    )  # fmt: skip
    shown = capsys.readouterr().out
    assert f"resuming from step 5 of {finished.directory}" in shown
    assert shown.count("control: plain LM") == 1
    assert "Thoughts that helped most" in shown
    program, *told = shell.arguments(re.search("Read its thoughts with  (.*)", shown)[1])
    read = think.parse(told)
    assert (program, read.run) == ("qstar-think", str(finished.directory))
    assert re.fullmatch("[1-5][a-j]{6,8}=[1-5];", read.text)  # as README.md has it, with its end


def test_a_run_that_is_stopped_ends_the_same(finished, tmp_path, monkeypatch):
    hooks = train._hooks
    stop = loop.Hook(3, lambda step, state: signal.raise_signal(signal.SIGTERM))
    with monkeypatch.context() as patch:
        patch.setattr(train, "_hooks", lambda *args: [*hooks(*args), stop])
        with pytest.raises(loop.Interrupted, match="after step 3; saved in"):
            train.run(finished.cfg, tmp_path / "run")
    assert [line["step"] for line in lines(tmp_path / "run" / "evals.jsonl")][-1] == 3
    # What a process that is killed later writes before its next checkpoint is lost, and written anew.
    with (tmp_path / "run" / "evals.jsonl").open("a") as file:
        file.write('{"step": 4, "task": "lost"}\n{"step": 5, "task": "torn by the k')
    with (tmp_path / "run" / "samples.jsonl").open("a") as file:
        file.write('{"step": 4, "text": "lost", "thoughts": []}\n')
    result = train.run(finished.cfg, tmp_path / "run")
    assert (result.before, result.after) == (finished.result.before, finished.result.after)
    assert contents(tmp_path / "run") == contents(finished.directory)
    assert_same_state(tmp_path / "run", finished.directory)
    assert_same_state(tmp_path / "run" / "control", finished.directory / "control")


@pytest.mark.slow  # the halves of test_rl_run.py are prolonged, and test_improve_run.py takes settings from `resume=`
def test_a_run_is_prolonged_by_resume_with_more_steps(finished, tmp_path):
    directory = tmp_path / "run"
    short = dataclasses.replace(finished.cfg, steps=3, control=False)
    train.run(short, directory)
    cfg, resumed = chosen(stored.TRAINING, f"resume={directory}", f"steps={STEPS}")
    assert resumed == directory
    result = train.run(cfg, resumed)
    assert result.after == finished.result.after
    assert_same_state(directory, finished.directory)
    found, expected = contents(directory), contents(finished.directory)
    assert found["metrics.jsonl"] == expected["metrics.jsonl"]
    assert found["evals.jsonl"] == expected["evals.jsonl"]
    assert configs.load(directory / "config.yaml").steps == STEPS
