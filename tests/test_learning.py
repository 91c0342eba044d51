"""Training does what it is for: the loss falls, and thoughts come to help on a task that is built to need them."""

import numpy as np
import pytest
from small_runs import composed, lines

from qstar import experiment

FAST = ("batch_size=16", "steps=12", "optim.lr=1e-3", "optim.warmup_steps=2", "sample_every=0")
"""A dozen steps of the default experiment; a rate that shows in so few of so little."""


def trained(directory, *overrides):
    """Lines of the metrics, and the result."""
    result = experiment.run(composed("control=false", *overrides), directory)
    return lines(directory / "metrics.jsonl"), result


def test_a_dozen_steps_lower_the_loss_and_raise_the_reward(tmp_path):
    found, _ = trained(tmp_path / "run", *FAST, "eval=none")
    mean = {
        name: [np.mean([line[name] for line in part]) for part in (found[:4], found[-4:])]
        for name in ("nll_mixed", "reward", "weight")
    }
    assert mean["nll_mixed"][1] < mean["nll_mixed"][0]
    assert mean["reward"][1] > mean["reward"][0]
    assert mean["weight"][1] > mean["weight"][0]


SLOW = ("steps=40", "batch_size=48", "eval.items=300", "sample_every=0", "save_every=40")


@pytest.fixture(scope="module")
def accuracies(tmp_path_factory):
    """Accuracy on held-out problems after as many steps of each kind of inner tokens, without and with them."""
    found = {}
    for fill in ("sampled", "pause", "shuffled"):
        _, result = trained(tmp_path_factory.mktemp(fill) / "run", *SLOW, f"method.fill={fill}")
        found[fill] = tuple(row.accuracy for row in result.after)
    return found


@pytest.mark.slow
def test_thoughts_answer_what_the_same_model_without_them_does_not(accuracies):
    without, with_thoughts = accuracies["sampled"]
    assert without < 0.35  # one in five is chance
    assert with_thoughts > without + 0.2


@pytest.mark.slow
@pytest.mark.parametrize("fill", ["pause", "shuffled"])
def test_thoughts_answer_what_as_much_computation_without_their_content_does_not(accuracies, fill):
    assert accuracies["sampled"][1] > max(accuracies[fill]) + 0.15
