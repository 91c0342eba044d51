"""One optimiser step as a pure function: gradients over micro-batches, update, moving average, metrics."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import optax

from qstar import sharding
from qstar.methods.protocol import Method
from qstar.models.definition import Definition, join
from qstar.structs import Batch, Mean, Metrics, TrainState
from qstar.training.reference import Comparison
from qstar.typing import Key, Params

Step = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]


def new_state(
    params: Params,
    tx: optax.GradientTransformation,
    key: Key,
    ema: bool,
    frozen: Params | None = None,
    comparison: Comparison | None = None,
) -> TrainState:
    """`params` train, and only they get moments and averages; `frozen` are the model's other weights."""
    average = jax.tree.map(jnp.copy, params) if ema else None  # a copy: the step donates both
    reference = comparison.begin(params) if comparison else None
    moments = jax.jit(tx.init)(params)  # one program, not one for every weight
    return TrainState(jnp.zeros((), jnp.int32), params, moments, key, average, frozen, reference)


def weights(state: TrainState) -> Params:
    """The whole model's weights to evaluate: the moving average where there is one."""
    return join(state.params if state.ema is None else state.ema, state.frozen)


def state_sharding(
    model: Definition,
    tx: optax.GradientTransformation,
    mesh: jax.sharding.Mesh,
    ema: bool,
    comparison: Comparison | None = None,
) -> TrainState:
    """Where every leaf of a train state lives: optimizer moments, averages and references beside their weights."""
    everywhere = sharding.named(mesh)
    params, frozen = model.split(sharding.places(model.axes, mesh))
    moments = optax.tree.map_params(
        tx,
        lambda _, place: place,
        jax.eval_shape(tx.init, model.split(model.abstract)[0]),
        params,
        transform_non_params=lambda _: everywhere,
        is_leaf=lambda leaf: isinstance(leaf, optax.MaskedNode),
    )
    reference = comparison.places(mesh, params) if comparison else None
    return TrainState(everywhere, params, moments, everywhere, params if ema else None, frozen, reference)


def make_step(
    method: Method,
    model: Definition,
    tx: optax.GradientTransformation,
    mesh: jax.sharding.Mesh,
    micro_batches: int = 1,
    ema: float = 0.0,
    comparison: Comparison | None = None,
) -> Step:
    """The jitted step; it donates its state. A batch of B rows is split into `micro_batches` of equal size, whose
    gradients are averaged. A method that compares wants its `comparison`."""
    places = state_sharding(model, tx, mesh, ema > 0, comparison)

    def loss(params: Params, frozen: Params | None, reference: Params | None, batch: Batch, key: Key):
        bound = model.bind(join(params, frozen))
        if comparison is None:
            return method.loss(bound, batch, key)
        return method.loss(bound, batch, key, comparison.bound(reference, frozen))

    @partial(jax.jit, donate_argnums=0, out_shardings=(places, None))
    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        batch = jax.tree.map(lambda x: sharding.shard(x, "batch", None), batch)
        key = jax.random.fold_in(state.key, state.step)

        def grad(params: Params, batch: Batch, key: Key):
            # With respect to the first argument only: of frozen weights and references no gradient is computed.
            return jax.grad(loss, has_aux=True)(params, state.frozen, state.reference, batch, key)

        grads, metrics = accumulate(grad, state.params, batch, key, micro_batches)
        metrics["grad_norm"] = Mean.of(optax.tree.norm(grads))
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        average = optax.incremental_update(params, state.ema, 1 - ema) if ema else None
        reference = comparison.moved(state.reference, params) if comparison else None
        return TrainState(state.step + 1, params, opt_state, state.key, average, state.frozen, reference), metrics

    return step


def accumulate(grad: Callable, params: Params, batch: Batch, key: Key, count: int) -> tuple[Params, Metrics]:
    """Mean of the gradients, and sum of the metrics, of `count` consecutive slices of the batch."""
    if count == 1:
        return grad(params, batch, key)
    rows = batch.tokens.shape[0]
    if rows % count:
        raise ValueError(f"a batch of {rows} rows does not split into {count} micro-batches")
    # Row i goes to micro-batch i % count: every device keeps its rows.
    slices = jax.tree.map(lambda x: jnp.moveaxis(x.reshape(rows // count, count, *x.shape[1:]), 1, 0), batch)

    def body(total, one):
        found = grad(params, *one)
        return jax.tree.map(jnp.add, total, found), None

    first = jax.tree.map(lambda x: x[0], slices)
    empty = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(grad, params, first, key))
    (grads, metrics), _ = jax.lax.scan(body, empty, (slices, jax.random.split(key, count)))
    return jax.tree.map(lambda g: g / count, grads), metrics
