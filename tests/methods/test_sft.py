"""Weighted fine-tuning against a sum over tokens by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
import tolerances
from reference import sequential
from tolerances import EXACT

from qstar.methods.plain_lm import PlainLM
from qstar.methods.protocol import Models
from qstar.methods.sft import SFT
from qstar.structs import Examples

# (row, position) whose next token is a target: 6 in row 0 (no crossing, one masked), 5 in row 1.
TARGETS = [(0, 0), (0, 1), (0, 2), (0, 4), (0, 6), (0, 7), (1, 0), (1, 1), (1, 2), (1, 3), (1, 4)]


def examples(weight):
    batch = tiny.packed()
    return Examples(batch.tokens, batch.mask, batch.segment, batch.position, jnp.asarray(weight))


def test_loss_is_the_weighted_sum_over_targets_by_their_number(x64):
    model, params = tiny.lm_of(tiny.EXACT)
    weight = np.random.default_rng(0).normal(size=tiny.packed().tokens.shape)
    batch = examples(weight)
    loss, metrics = jax.jit(lambda params: SFT().loss(Models(model.bind(params)), batch, jax.random.key(0)))(params)
    lm = sequential.as_numpy(params)
    hidden = sequential.text_hidden({"lm": lm}, tiny.EXACT, batch)
    logprobs = [sequential.log_softmax(sequential.logits(lm, hidden[b, s]))[batch.tokens[b, s + 1]] for b, s in TARGETS]
    expected = -sum(weight[b, s + 1] * p for (b, s), p in zip(TARGETS, logprobs, strict=True)) / len(TARGETS)
    assert float(loss) == pytest.approx(expected, abs=EXACT)
    assert metrics["loss"].value() == pytest.approx(expected, abs=EXACT)
    assert metrics["nll"].value() == pytest.approx(-np.mean(logprobs), abs=EXACT)
    assert metrics["tokens"].value() == len(TARGETS)


def test_with_weights_of_one_it_is_maximum_likelihood(x64):
    model, params = tiny.lm_of(tiny.EXACT)
    batch = examples(np.ones(tiny.packed().tokens.shape))

    def gradient(method):
        return jax.jit(jax.grad(lambda p: method.loss(Models(model.bind(p)), batch, jax.random.key(0))[0]))(params)

    for found, expected in zip(*map(jax.tree.leaves, (gradient(SFT()), gradient(PlainLM()))), strict=True):
        assert tiny.relative_error(found, expected) < tolerances.gradient(tiny.EXACT)


def test_a_negative_weight_pushes_the_completion_away():
    model, params = tiny.lm_of()
    up, down = (examples(np.full(tiny.packed().tokens.shape, sign, np.float32)) for sign in (1.0, -1.0))
    loss = jax.jit(lambda p, batch: SFT().loss(Models(model.bind(p)), batch, jax.random.key(0))[0])
    grads = [jax.grad(loss)(params, batch) for batch in (up, down)]
    # One program, whose every term changes its sign.
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, -b), *grads)
