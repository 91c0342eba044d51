"""Reference weights, by a method whose loss has a gradient that is known: the mean squared distance to them."""

import dataclasses
from dataclasses import dataclass

import grain
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny
from tolerances import forward, rounding

from qstar import sharding
from qstar.methods.plain_lm import PlainLM
from qstar.methods.protocol import Models, Reference
from qstar.models import lm as language_model
from qstar.models.lora import LoraConfig, adapted
from qstar.policy import Policy
from qstar.structs import Loss, Mean, Term
from qstar.training import checkpoint
from qstar.training.build import Program
from qstar.training.optim import OptimConfig
from qstar.training.reference import Comparison
from qstar.training.sources import Stream
from qstar.training.step import make_step, new_state, state_sharding

INITIAL = Reference()


@dataclass(frozen=True)
class Distance(PlainLM):
    """Loss: half the squared distance of the final norm's scale to 3 times the reference's."""

    reference: Reference = INITIAL

    def loss_terms(self, models, batch, key):
        expected = models.reference.norm.scale[...]
        gap = models.policy.norm.scale[...] - 3 * expected
        rows = jnp.ones(batch.tokens.shape[0], bool)
        loss = Term.of(jnp.broadcast_to(0.5 * jnp.sum(gap**2), rows.shape), rows)
        return Loss((loss,)), {"expected": Mean.of(expected.sum())}


BATCH = tiny.batch(np.ones((8, 6), int), np.ones((8, 6), int))


def states(comparison, model, params, steps, rate=0.25, cfg=None, micro_batches=1):
    """The states, as numpy, before the first step and after each, and the last metrics."""
    mesh, tx = sharding.make_mesh(cfg or sharding.MeshConfig()), optax.sgd(rate)
    trained, frozen = model.split(jax.tree.map(np.array, params))  # of no device yet, whoever made them
    places = state_sharding(model, tx, mesh, False, comparison)
    with jax.set_mesh(mesh):
        step = make_step(comparison.method, model, tx, mesh, micro_batches, comparison=comparison)
        state = jax.device_put(new_state(trained, tx, jax.random.key(0), False, frozen, comparison), places)
        found, metrics = [jax.device_get(state.replace(key=None))], None
        batch = jax.device_put(BATCH, sharding.named(mesh, "batch", None))
        for _ in range(steps):
            state, metrics = step(state, batch)
            found.append(jax.device_get(state.replace(key=None)))
        for leaf, place in zip(jax.tree.leaves(state), jax.tree.leaves(places), strict=True):
            assert leaf.sharding.is_equivalent_to(place, leaf.ndim)
    return found, metrics


def scale(params):
    return np.asarray(params["norm"]["scale"])


@pytest.mark.parametrize("micro_batches", [1, 2])
def test_initial_weights_are_kept_and_no_gradient_reaches_them(micro_batches):
    model, params = tiny.lm_of()
    found, metrics = states(Comparison.of(Distance(), model), model, params, 2, micro_batches=micro_batches)
    begin = np.asarray(params["norm"]["scale"])
    # x <- x - 1/4 (x - 3 c); through the reference as well the first step would be along x - 3 x times (1 - 3).
    first = begin - 0.25 * (begin - 3 * begin)
    second = first - 0.25 * (first - 3 * begin)
    np.testing.assert_allclose(scale(found[1].params), first, rtol=rounding(4))
    np.testing.assert_allclose(scale(found[2].params), second, rtol=rounding(8))
    assert all(np.array_equal(scale(one.reference), begin) for one in found)
    assert metrics["expected"].value() == pytest.approx(begin.sum(), rel=rounding(begin.size))


def other_policy(model, params):
    return Policy(PlainLM(), model, jax.tree.map(np.asarray, params), None, "other")


@pytest.mark.parametrize("other", [False, True])
def test_no_gradient_reaches_a_bound_reference(other):
    model, params = tiny.lm_of()
    found = other_policy(model, params) if other else None
    comparison = Comparison.of(Distance(Reference(run="somewhere" if other else "")), model, found)
    bound = lambda params: comparison.beside(Models(None), params, None).reference  # noqa: E731
    through = jax.grad(lambda params: bound(params).norm.scale[...].sum())(params)
    assert all(np.all(leaf == 0) for leaf in jax.tree.leaves(through))


def test_a_moving_average_begins_at_the_weights_and_moves_after_every_step():
    model, params = tiny.lm_of()
    comparison = Comparison.of(Distance(Reference(decay=0.9)), model)
    found, _ = states(comparison, model, params, 3)
    expected, weights = scale(params), scale(params)
    for state in found[1:]:
        weights = weights - 0.25 * (weights - 3 * expected)  # the loss sees the average before the step
        expected = 0.9 * expected + 0.1 * weights
        np.testing.assert_allclose(scale(state.params), weights, rtol=rounding(12))
        np.testing.assert_allclose(scale(state.reference), expected, rtol=rounding(12))
    assert np.abs(expected - scale(params)).max() > 0.1


def test_a_moving_average_of_bfloat16_weights_is_held_in_float32():
    comparison = Comparison.of(Distance(Reference(decay=0.999)), tiny.lm_of()[0])
    weights = {"one": jnp.ones(2, jnp.bfloat16)}
    reference = comparison.begin(weights)
    moved = comparison.moved(reference, {"one": jnp.full(2, 2, jnp.bfloat16)})
    np.testing.assert_allclose(moved["one"], 1.001, rtol=rounding(2))
    assert Comparison.of(Distance(), tiny.lm_of()[0]).begin(weights)["one"].dtype == jnp.bfloat16


def test_another_runs_model_is_the_reference_with_its_own_method():
    model, params = tiny.lm_of()
    small = dataclasses.replace(tiny.LM, width=8, layers=1)
    other_model = language_model.definition(small)
    other = other_policy(other_model, tiny.weights_of(other_model, 5))

    @dataclass(frozen=True)
    class Copies(Distance):
        def loss(self, models, batch, key):
            assert isinstance(models.reference_method, PlainLM) and models.reference.cfg.width == 8
            expected = models.reference.norm.scale[...].sum()
            loss = 0.5 * jnp.sum((models.policy.norm.scale[...] - expected) ** 2)
            return loss, {"loss": Mean.of(loss)}

    comparison = Comparison.of(Copies(Reference(run="somewhere")), model, other)
    found, _ = states(comparison, model, params, 1)
    begin, expected = scale(params), scale(other.params).sum()
    np.testing.assert_allclose(scale(found[1].params), begin - 0.25 * (begin - expected), rtol=rounding(8 + 4))
    assert jax.tree.map(np.shape, found[1].reference) == jax.tree.map(np.shape, other.params)


def test_of_a_model_with_adapters_only_what_trains_is_doubled():
    base, params = tiny.lm_of()
    model = adapted(base, LoraConfig(rank=2))
    rng = np.random.default_rng(0)
    params = {**params, "lora": jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), model.abstract["lora"])}
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), params)

    @dataclass(frozen=True)
    class Logits(PlainLM):
        reference: Reference = INITIAL

        def loss(self, models, batch, key):
            now, before = (one.text(batch).hidden for one in (models.policy, models.reference))
            loss = jnp.sum((now - 2 * before) ** 2)
            return loss, {"loss": Mean.of(loss), "same": Mean.of(jnp.abs(now - before).max())}

    found, metrics = states(Comparison.of(Logits(), model), model, params, 1, rate=0.0)
    assert set(found[0].reference) == {"lora"}
    assert metrics["same"].value() <= forward(tiny.LM) and metrics["loss"].value() > 0


def test_eight_devices_hold_it_in_pieces_and_step_alike():
    lm = dataclasses.replace(tiny.LM, vocab=14)
    model, params = tiny.lm_of(lm)
    comparison = Comparison.of(Distance(Reference(decay=0.5)), model)
    one, _ = states(comparison, model, params, 2)
    eight, _ = states(comparison, model, params, 2, cfg=sharding.MeshConfig(fsdp=4, tensor=2))
    np.testing.assert_allclose(scale(eight[2].reference), scale(one[2].reference), rtol=rounding(8))
    places = comparison.places(
        sharding.make_mesh(sharding.MeshConfig(fsdp=4, tensor=2)),
        sharding.places(model.axes, sharding.make_mesh(sharding.MeshConfig(fsdp=4, tensor=2))),
    )
    assert tuple(places["embedding"].spec) == ("tensor", "fsdp")


def program(method, **optim):
    mesh = sharding.make_mesh(sharding.MeshConfig())
    return Program.of(method, tiny.LM, mesh, OptimConfig(lr=0.1, warmup_steps=0, **optim), 4, 1)


def test_a_checkpoint_keeps_it_and_a_restored_state_steps_bit_for_bit(tmp_path):
    built = program(Distance(Reference(decay=0.5)))
    data = Stream(iter(grain.MapDataset.range(9).to_iter_dataset()))
    with jax.set_mesh(built.mesh), checkpoint.Checkpoints(tmp_path / "checkpoints", 1, 2) as saved:
        state = built.start(tiny.lm_of()[1], 0)
        state, _ = built.step(state, BATCH)
        saved.save(1, state, data, force=True)
        straight, _ = built.step(state, BATCH)
        restored = saved.restore(built.abstract_state(0), data)
        again, _ = built.step(restored, BATCH)
    for found, expected in zip(jax.tree.leaves(again.reference), jax.tree.leaves(straight.reference), strict=True):
        np.testing.assert_array_equal(found, expected)
    assert np.abs(scale(straight.reference) - scale(straight.params)).max() > 0


def test_a_method_that_does_not_compare_has_none():
    built = program(PlainLM())
    assert built.comparison is None
    assert built.abstract_state(0).reference is None
    assert built.places.reference is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"decay": 1.5}, "reference.decay = 1.5: expected a number from 0 up to 1"),
        ({"decay": 0.5, "run": "here"}, "the run here of decay 0.5: .* stay as they are"),
    ],
)
def test_a_reference_that_cannot_be_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Reference(**settings)
