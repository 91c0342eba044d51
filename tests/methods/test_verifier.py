"""Scores and losses of reward models against sums by hand."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
import tolerances
from tolerances import EXACT

from qstar.methods.protocol import Models
from qstar.methods.verifier import ORM, PRM
from qstar.models import heads
from qstar.structs import Labelled
from qstar.thoughts.anchors import next_counts

KEY = jax.random.key(0)


def labelled():
    batch = tiny.packed()
    rng = np.random.default_rng(0)
    judged = np.asarray(batch.mask) & (rng.random(batch.tokens.shape) < 0.6)
    label = np.where(judged, rng.choice([0.0, 0.25, 1.0], batch.tokens.shape), 0)
    return Labelled(batch.tokens, batch.mask, batch.segment, batch.position, jnp.asarray(label), jnp.asarray(judged))


def scorer():
    model = heads.definition(tiny.EXACT)
    return model, tiny.weights_of(model, dtype=jnp.float64)


def loss_of(method, params, batch):
    model = heads.definition(tiny.EXACT)
    return jax.jit(lambda params: method.loss(Models(model.bind(params)), batch, KEY))(params)


def outputs(params, batch):
    """The head's output at every token, from the hidden states."""
    model = heads.definition(tiny.EXACT).bind(params)
    hidden = np.asarray(model.lm.text(batch).hidden)
    return hidden @ np.asarray(params["score"]["weight"]) + float(params["score"]["bias"])


def test_cross_entropy_at_judged_tokens(x64):
    _, params = scorer()
    batch = labelled()
    z, label, judged = outputs(params, batch), np.asarray(batch.label), np.asarray(batch.judged)
    errors = -label * np.log(1 / (1 + np.exp(-z))) - (1 - label) * np.log(1 - 1 / (1 + np.exp(-z)))
    loss, metrics = loss_of(PRM(), params, batch)
    assert float(loss) == pytest.approx(errors[judged].mean(), abs=EXACT)
    assert metrics["accuracy"].value() == pytest.approx(((z > 0) == (label > 0.5))[judged].mean())


def test_squared_error_and_the_language_model_term(x64):
    _, params = scorer()
    batch = labelled()
    squares = (outputs(params, batch) - np.asarray(batch.label)) ** 2
    model = heads.definition(tiny.EXACT).bind(params)
    logprobs = np.asarray(model.lm.next_logprobs(model.lm.text(batch), batch.tokens))
    nll = -logprobs[np.asarray(next_counts(batch))].mean()
    loss, metrics = loss_of(ORM(), params, batch)
    assert float(loss) == pytest.approx(squares[np.asarray(batch.judged)].mean() + nll, abs=EXACT)
    assert metrics["nll"].value() == pytest.approx(nll, abs=EXACT)
    alone, metrics = loss_of(ORM(lm_weight=0.0), params, batch)
    assert float(alone) == pytest.approx(squares[np.asarray(batch.judged)].mean(), abs=EXACT)
    assert "nll" not in metrics


def test_a_score_sees_nothing_that_comes_after_it(x64):
    model, params = scorer()
    batch = labelled()
    scores = lambda batch: PRM().scores(model.bind(params), batch)  # noqa: E731
    changed = batch.replace(tokens=batch.tokens.at[:, 4:].set((batch.tokens[:, 4:] + 1) % tiny.LM.vocab))
    np.testing.assert_array_equal(scores(changed)[:, :4], scores(batch)[:, :4])
    assert not np.allclose(scores(changed)[:, 4:], scores(batch)[:, 4:])


def test_a_score_sees_the_prompt_before_it_and_no_other_document(x64):
    model, params = scorer()
    batch = labelled()  # tokens 0 to 3 of the first row are a document, 4 to 8 another one
    scores = lambda batch: np.asarray(PRM().scores(model.bind(params), batch))  # noqa: E731
    changed = batch.replace(tokens=batch.tokens.at[0, 0].set(8), mask=batch.mask.at[0, :2].set(False))
    assert np.abs(scores(changed) - scores(batch))[0, 1:4].min() > 1e-6
    np.testing.assert_array_equal(scores(changed)[0, 4:], scores(batch)[0, 4:])


def test_the_error_trains_every_weight_that_a_score_depends_on(x64):
    model, params = scorer()
    batch = labelled()
    gradient = jax.jit(jax.grad(lambda params: PRM().loss(Models(model.bind(params)), batch, KEY)[0]))(params)
    still = [
        jax.tree_util.keystr(path, simple=True, separator=".")
        for path, leaf in jax.tree_util.tree_leaves_with_path(gradient)
        if not np.any(leaf)
    ]
    assert still == ["lm.head"]  # that predicts tokens


def test_tokens_that_are_not_judged_have_no_gradient_of_the_error(x64):
    model, params = scorer()
    batch = labelled()
    other = batch.replace(label=jnp.where(batch.judged, batch.label, 1 - batch.label))
    gradient = jax.jit(jax.grad(lambda params, batch: PRM().loss(Models(model.bind(params)), batch, KEY)[0]))
    jax.tree.map(np.testing.assert_array_equal, gradient(params, batch), gradient(params, other))


def test_first_scores_are_one_half_and_the_language_model_is_untouched():
    definition = PRM().definition(tiny.LM)
    lm = tiny.lm_of()[1]
    params = PRM().start_from(definition, lm, KEY)
    jax.tree.map(np.testing.assert_array_equal, params["lm"], lm)
    scores = PRM().scores(definition.bind(params), labelled())
    assert np.all(np.asarray(scores) == 0.5)


def test_micro_batches_have_the_gradient_of_one_batch(x64):
    model, params = scorer()
    batch = labelled()
    rows = [jax.tree.map(lambda leaf, i=i: leaf[i : i + 1], batch) for i in range(2)]
    for method in (ORM(), PRM()):
        terms = lambda params, batch, method=method: method.loss_terms(Models(model.bind(params)), batch, KEY)[0]  # noqa: E731
        slope = jax.jit(jax.grad(lambda p, row, counts: terms(p, row).out_of(counts).value))  # noqa: B023
        counts = [sum(count) for count in zip(*(terms(params, row).counts for row in rows), strict=True)]
        parts = [slope(params, row, counts) for row in rows]
        whole = jax.jit(jax.grad(lambda p: terms(p, batch).value))(params)  # noqa: B023
        bound = tolerances.gradient(tiny.EXACT) * max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(whole))
        same = lambda a, b, bound=bound: np.testing.assert_allclose(a, b, rtol=0, atol=bound)  # noqa: E731
        jax.tree.map(same, jax.tree.map(jnp.add, *parts), whole)


def test_settings_out_of_range_are_refused():
    with pytest.raises(ValueError, match=r"method.error = 'hinge'"):
        PRM(error="hinge")
    with pytest.raises(ValueError, match=r"method.lm_weight = -1"):
        dataclasses.replace(ORM(), lm_weight=-1)
