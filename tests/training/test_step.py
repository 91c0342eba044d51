import functools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny
import tolerances
from tolerances import EXACT, rounding

from qstar import sharding
from qstar.methods.plain_lm import PlainLM
from qstar.methods.protocol import Models
from qstar.methods.quiet_star import QuietStar
from qstar.training.step import accumulate, make_step, new_state

METHOD = QuietStar(thought_len=2, lookahead=2, beta=1.0)


def four_rows(targets=True):
    """Four rows of six tokens, of equally many targets unless told otherwise."""
    tokens = np.random.default_rng(0).integers(0, 13, (4, 6))
    mask = np.ones((4, 6))
    if not targets:
        mask[1, 2:] = 0
    return tiny.batch(tokens, np.ones((4, 6), int), mask)


@functools.partial(jax.jit, static_argnames=("method", "model", "count"))
def gradient_of(method, model, params, batch, count):
    key = jax.random.key(0)
    if count == 1:
        return jax.grad(lambda params: method.loss(Models(model.bind(params)), batch, key), has_aux=True)(params)
    terms = lambda params, batch, key: method.loss_terms(Models(model.bind(params)), batch, key)  # noqa: E731
    return accumulate(terms, params, batch, key, count)


def assert_close(found, expected, tolerance):
    flat = jax.tree_util.tree_leaves_with_path(found)
    for (path, leaf), other in zip(flat, jax.tree.leaves(expected), strict=True):
        assert tiny.relative_error(leaf, other) < tolerance, path


@pytest.mark.slow  # test_micro_batches.py has slices of any numbers of targets
@pytest.mark.parametrize("count", [2, 4])
def test_micro_batches_of_equally_many_targets_give_the_gradient_of_the_whole_batch(x64, count):
    model, params = tiny.lm_of(tiny.EXACT)
    whole, whole_metrics = gradient_of(PlainLM(), model, params, four_rows(), 1)
    found, metrics = gradient_of(PlainLM(), model, params, four_rows(), count)
    assert_close(found, whole, tolerances.gradient(tiny.EXACT))
    assert metrics["loss"].value() == pytest.approx(whole_metrics["loss"].value(), abs=EXACT)
    assert float(metrics["loss"].count) == 20


def test_accumulation_is_the_mean_of_the_gradients_of_its_slices_by_their_targets(x64):
    model, params = tiny.lm_of(tiny.EXACT)
    batch = four_rows(targets=False)
    found, metrics = gradient_of(PlainLM(), model, params, batch, 2)
    # Row i goes to slice i % 2: every device keeps its rows.
    slices = [jax.tree.map(lambda x, first=first: x[first::2], batch) for first in (0, 1)]
    parts = [gradient_of(PlainLM(), model, params, part, 1) for part in slices]
    # Ten targets in rows 0 and 2, six in rows 1 and 3.
    assert_close(
        found,
        jax.tree.map(lambda a, b: (10 * a + 6 * b) / 16, parts[0][0], parts[1][0]),
        tolerances.gradient(tiny.EXACT),
    )
    assert metrics["loss"].value() == pytest.approx(
        sum(float(m["loss"].sum) for _, m in parts) / sum(float(m["loss"].count) for _, m in parts), abs=EXACT
    )


@dataclass(frozen=True)
class Unsummed(PlainLM):
    """A method whose loss is a number and nothing else."""

    def loss(self, models, batch, key):
        return super().loss(models, batch, key)


def test_a_loss_that_does_not_say_its_counts_is_refused_in_micro_batches_alone():
    model, params = tiny.lm_of()
    with pytest.raises(ValueError, match=r"micro_batches = 2: the loss of Unsummed"):
        run(Unsummed(), model, params, optax.sgd(0.5), 1, micro_batches=2)
    assert run(Unsummed(), model, params, optax.sgd(0.5), 1)[0][2]["loss"].value() > 0


def test_a_batch_that_does_not_split_is_an_error():
    model, params = tiny.lm_of()
    with pytest.raises(ValueError, match="a batch of 4 rows does not split into 3 micro-batches"):
        gradient_of(PlainLM(), model, params, four_rows(), 3)


step_of = functools.cache(make_step)


def run(method, model, params, tx, steps, **settings):
    """States' weights after each step, the averages, and the metrics."""
    mesh = sharding.make_mesh(sharding.MeshConfig())
    with jax.set_mesh(mesh):
        step = step_of(method, model, tx, mesh, **settings)
        state = new_state(jax.tree.map(jnp.copy, params), tx, jax.random.key(1), settings.get("ema", 0) > 0)
        history = []
        for _ in range(steps):
            state, metrics = step(state, four_rows())
            history.append(jax.device_get((state.params, state.ema, metrics)))
    assert int(state.step) == steps
    return history


def test_a_step_moves_the_weights_against_the_gradient_and_logs_its_norm(x64):
    model, params = tiny.lm_of(tiny.EXACT)
    ((moved, average, metrics),) = run(PlainLM(), model, params, optax.sgd(0.5), 1)
    gradient, _ = gradient_of(PlainLM(), model, params, four_rows(), 1)
    assert_close(moved, jax.tree.map(lambda p, g: p - 0.5 * g, params, gradient), tolerances.gradient(tiny.EXACT))
    norm = np.sqrt(sum(np.sum(np.square(leaf, dtype=np.float64)) for leaf in jax.tree.leaves(gradient)))
    assert metrics["grad_norm"].value() == pytest.approx(norm, rel=tolerances.gradient(tiny.EXACT))
    assert average is None


def test_every_step_draws_other_thoughts_and_a_run_repeats_itself():
    model, params = tiny.thinker_of()
    still = optax.sgd(0.0)  # the weights stay: only the key differs from step to step
    first, second = (metrics["loss"].value() for _, _, metrics in run(METHOD, model, params, still, 2))
    assert first != second
    again = [metrics["loss"].value() for _, _, metrics in run(METHOD, model, params, still, 2)]
    assert again == [first, second]


def test_moving_average_starts_at_the_weights_and_follows_them():
    model, params = tiny.lm_of()
    history = run(PlainLM(), model, params, optax.sgd(0.5), 2, ema=0.75)
    expected = np.asarray(params["embedding"])
    for moved, average, _ in history:
        expected = 0.75 * expected + 0.25 * moved["embedding"]
        np.testing.assert_allclose(
            average["embedding"], expected, rtol=0, atol=rounding(2, size=np.abs(expected).max())
        )
    assert np.abs(expected - history[-1][0]["embedding"]).max() > 1e-3
