"""Runs that train on their own answers: stopped and resumed, saved and loaded, refused."""

import contextlib
import dataclasses
import io
import shutil

import jax
import numpy as np
import pytest
import small_runs
import tolerances
from tolerances import rounding

import qstar
from qstar import config as configs
from qstar import files, runs
from qstar.config import TrainConfig
from qstar.data.rationales import Store, of_iteration
from qstar.runs import train
from qstar.tasks.cups import Cups
from qstar.training import loop
from qstar.training.checkpoint import Checkpoints

SETTINGS = (
    "~experiments",
    *small_runs.MODEL,
    "data=rollouts",
    "task=cups",
    "task.train=20",
    "data.length=48",
    "data.samples=4",
    "data.max_new_tokens=6",
    "data.rewards.nothing=-1",
    "batch_size=8",
    "eval=none",
    "sample_every=0",
    "steps=4",
    "save_every=2",
    "optim.lr=0.01",
    "optim.warmup_steps=0",
)


def composed(directory, *overrides) -> TrainConfig:
    return small_runs.composed(*SETTINGS, f"run_dir={directory}", *overrides)


def weights(directory):
    with Checkpoints(directory / "checkpoints", 1, 2) as saved:
        return saved.load_params()


def stopped(folder, *method):
    """Directories of a run, and of the same run in two halves."""
    straight, halved = folder / "straight", folder / "halved"
    train.run(composed(straight, *method), straight)
    train.run(composed(halved, *method, "steps=2"), halved)
    train.run(composed(halved, *method, "resume=x"), halved)
    return straight, halved


@pytest.fixture(scope="module")
def refilled(tmp_path_factory):
    """Such runs that keep all that a run can keep, and what the first one showed."""
    method = ("method=policy_gradient", "method.baseline=moving", "data.dead=refill", "method.epochs=2")
    with contextlib.redirect_stdout(io.StringIO()) as shown:
        straight, halved = stopped(tmp_path_factory.mktemp("refilled"), *method, "sample_every=2")
    return straight, halved, shown.getvalue()


def test_a_stopped_run_ends_with_the_same_bits(refilled):
    ends_with_the_same_bits(*refilled[:2])


@pytest.mark.slow  # tests/training/test_checkpoint.py and test_reference.py have the parts of its state
def test_a_stopped_run_of_two_models_ends_with_the_same_bits(tmp_path):
    ends_with_the_same_bits(*stopped(tmp_path, "method=reft", "method.minibatches=2", "method.critic=apart"))


def ends_with_the_same_bits(straight, halved):
    assert small_runs.lines(halved / "metrics.jsonl") == small_runs.lines(straight / "metrics.jsonl")
    for a, b in zip(*(np_leaves(weights(each)) for each in (straight, halved)), strict=True):
        np.testing.assert_array_equal(a, b)


def np_leaves(tree):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]


def test_what_was_trained_is_a_model_like_any_other(tmp_path):
    train.run(composed(tmp_path, "method=ppo", "steps=1"), tmp_path)
    run = runs.load_run(tmp_path)
    assert run.extras.keys() == {"score"}
    assert run.tokenizer.decode(run.tokenizer.encode("3ab=")) == "3ab="


def test_every_step_says_what_was_earned_and_how_far_the_policy_moved(tmp_path):
    cfg = composed(tmp_path, "method=grpo", "steps=2")
    train.run(cfg, tmp_path)
    first, second = small_runs.lines(tmp_path / "metrics.jsonl")
    assert first["kl"] == 0 and second["kl"] != 0
    assert first["reward"] == first["reward_grade"] >= -1
    # Logits and scores of a new model have a variance of about 1.
    assert 0 <= first["mismatch"] < tolerances.forward(cfg.model, size=8, scores=1.0)
    assert {"entropy", "dead", "sampled_tokens", "clipped", "grad_norm", "mismatch_max"} <= first.keys()


def test_a_sampler_that_computes_something_else_stops_the_run(tmp_path):
    with pytest.raises(loop.BeyondLimit) as stopped:
        train.run(composed(tmp_path, "method=grpo", "method.mismatch_limit=1e-12"), tmp_path)
    assert (stopped.value.step, stopped.value.name, stopped.value.limit) == (1, "mismatch", 1e-12)


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (("method=grpo", "data.samples=1"), "data.samples = 1"),
        (("method=grpo", "batch_size=6"), "batch_size = 6"),
        (("method=reft", "method.minibatches=8"), "method.minibatches = 8"),
        (("method=grpo", "control=true"), "control=false"),
        (("method=lm",), "give method=policy_gradient, as in\n.* method=policy_gradient data=rollouts"),
    ],
)
def test_settings_that_cannot_work_are_refused_when_composed(overrides, named, tmp_path):
    with pytest.raises(ValueError, match=named):
        composed(tmp_path, *(("batch_size=12",) if "method=reft" in overrides else ()), *overrides)


def test_rollouts_without_a_task_are_refused():
    with pytest.raises(ValueError, match="task=arithmetic"):
        small_runs.composed("~experiments", "method=grpo", "data=rollouts", "eval=none")


def test_rollouts_are_rows_of_a_store_and_the_same_after_a_kill(refilled):
    whole, resumed, shown = refilled
    # After steps 1, 2 and 4 of the one, and of the halves of the other.
    assert shown.count("best rollout, reward") == shown.count("worst rollout, reward") == 2 * 3
    rows = [Store.open(each / "rollouts").rows().to_pylist() for each in (whole, resumed)]
    assert rows[0] == rows[1]
    assert [row["iteration"] for row in rows[0]] == [1] * 8 + [2] * 8 + [4] * 8
    row = rows[0][0]
    assert len(row["tokens"]) == row["generated_tokens"] == len(row["logprobs"])
    assert row["prompt"].startswith(row["question"]) or row["question"] in row["prompt"]
    first = small_runs.lines(whole / "metrics.jsonl")[0]
    paid = [row["weight"] for row in rows[0][:8]]
    assert first["reward"] == pytest.approx(np.mean(paid), abs=rounding(8, size=np.abs(paid).max()))
    frame = qstar.open(whole).rollouts(of_iteration(2))
    assert set(frame["step"]) == {2} and len(frame) == 8
    assert frame["reward"].tolist() == [row["weight"] for row in rows[0][8:16]]
    assert frame["written"].tolist() == [row["written"] for row in rows[0][8:16]]
    sums = [sum(row["logprobs"]) for row in rows[0][8:16]]
    np.testing.assert_allclose(frame["logprob"], sums, rtol=rounding(6, "float64"))


def test_a_run_does_not_resume_on_edited_questions(refilled, tmp_path, monkeypatch):
    directory, asked = shutil.copytree(refilled[0], tmp_path / "run"), Cups.problems

    def edited(task, split):
        first, *others = asked(task, split)
        return [dataclasses.replace(first, question="1ab="), *others]

    monkeypatch.setattr(Cups, "problems", edited)
    longer = dataclasses.replace(configs.load(directory / "config.yaml"), steps=6, resume="x")
    with pytest.raises(ValueError, match=r"trained on other data, .*:\n  training questions = \w+, now "):
        train.run(longer, directory)
    assert (directory / "metrics.jsonl").read_bytes() == (refilled[0] / "metrics.jsonl").read_bytes()


def test_a_reward_model_pays_for_steps(tmp_path):
    scorer = ("data.rewards.scorer=bundled:cups_prm", "data.rewards.scorer_as=softmin", "data.rewards.nothing=0")
    cfg = small_runs.composed(
        *(setting for setting in SETTINGS if setting not in small_runs.MODEL),
        *("method=policy_gradient", "model=tiny", "steps=1", "save_every=1", *scorer, f"run_dir={tmp_path}"),
    )
    train.run(cfg, tmp_path)
    (line,) = small_runs.lines(tmp_path / "metrics.jsonl")
    assert 0 < line["reward_scorer"] < 1
    assert line["reward"] == pytest.approx(
        line["reward_grade"] + line["reward_scorer"], abs=rounding(8, size=2)
    )  # texts
    assert line["right"] == line["reward_grade"]
    assert files.read_json(tmp_path / "identity.json").keys() == {"training questions", "weights of bundled:cups_prm"}


def test_a_reward_model_of_another_tokenizer_is_refused(tmp_path):
    with pytest.raises(ValueError, match="cups_prm has another tokenizer"):
        train.run(
            composed(
                tmp_path,
                "method=policy_gradient",
                "model.tokenizer='characters:0123456789abcdefghij=-;.'",
                "data.rewards.scorer=bundled:cups_prm",
            ),
            tmp_path,
        )
    assert not (tmp_path / "metrics.jsonl").exists()
