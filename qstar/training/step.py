"""One optimiser step as a pure function: gradients over micro-batches, update, moving average, metrics."""

from collections.abc import Callable
from functools import lru_cache, partial

import jax
import jax.numpy as jnp
import optax

from qstar import sharding
from qstar.methods.protocol import Credits, Method, Models, check_micro_batches
from qstar.models.definition import Definition, join
from qstar.structs import Batch, Judged, Loss, Mean, Metrics, TrainState
from qstar.training.reference import Comparison
from qstar.typing import Array, Key, Params

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
    """The jitted step; it donates its state. Of a method that `Credits` a step is all updates of its rollouts.

    The same arguments give the same step: it is not traced again.

    A batch of B rows is split into `micro_batches` of equally many rows (see
    `accumulate`). A method that compares needs its `comparison`.

    Raises ValueError for micro-batches of a method that does not say what its loss is made of.
    """
    check_micro_batches(method, micro_batches)
    # The weights of another model, which a comparison may hold, are not kept.
    make = _made if comparison and comparison.other else _made_once
    return make(method, model, tx, mesh, micro_batches, ema, comparison)


def _made(
    method: Method,
    model: Definition,
    tx: optax.GradientTransformation,
    mesh: jax.sharding.Mesh,
    micro_batches: int,
    ema: float,
    comparison: Comparison | None,
) -> Step:
    places = state_sharding(model, tx, mesh, ema > 0, comparison)

    def called(function: Callable, state: TrainState, params: Params, batch: Batch, key: Key):
        return function(_models(model, comparison, state, params), batch, key)

    def updated(state: TrainState, batch: Batch, key: Key) -> tuple[TrainState, Metrics]:
        # With respect to these weights only: of frozen ones and references no gradient is computed.
        if micro_batches == 1:
            loss = partial(called, method.loss, state)
            grads, metrics = jax.grad(loss, has_aux=True)(state.params, batch, key)
        else:
            terms = partial(called, method.loss_terms, state)
            grads, metrics = accumulate(terms, state.params, batch, key, micro_batches)
        metrics["grad_norm"] = Mean.of(optax.tree.norm(grads))
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        average = optax.incremental_update(params, state.ema, 1 - ema) if ema else None
        reference = comparison.moved(state.reference, params) if comparison else None
        return state.replace(params=params, opt_state=opt_state, ema=average, reference=reference), metrics

    @partial(jax.jit, donate_argnums=0, out_shardings=(places, None))
    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        batch = jax.tree.map(lambda x: sharding.shard(x, "batch", *[None] * (x.ndim - 1)), batch)
        key = jax.random.fold_in(state.key, state.step)
        if isinstance(method, Credits):
            models = _models(model, comparison, state, state.params)
            batch, credit_metrics = method.credited(
                batch, by_slices(partial(method.judged, models), batch, micro_batches)
            )
            state, metrics = over_minibatches(updated, state, batch, key, method.epochs, method.minibatches)
            metrics |= credit_metrics
        else:
            state, metrics = updated(state, batch, key)
        return state.replace(step=state.step + 1), metrics

    return step


_made_once = lru_cache(8)(_made)  # the next run of a sweep, or iteration of self-training, finds it compiled


def _models(model: Definition, comparison: Comparison | None, state: TrainState, params: Params) -> Models:
    models = Models(model.bind(join(params, state.frozen)))
    return comparison.beside(models, state.reference, state.frozen) if comparison else models


# --- rollouts -----------------------------------------------------------------------------------------------------


def by_slices(judged: Callable[[Batch], Judged], batch: Batch, count: int) -> Judged:
    """What a function says of each row, called on `count` slices of the batch in turn, which takes less memory."""
    if count == 1:
        return judged(batch)
    stacked = jax.lax.map(judged, _sliced(batch, count))
    return jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1).reshape(-1, *x.shape[2:]), stacked)


def over_minibatches(
    updated: Callable[[TrainState, Batch, Key], tuple[TrainState, Metrics]],
    state: TrainState,
    batch: Batch,
    key: Key,
    epochs: int,
    count: int,
) -> tuple[TrainState, Metrics]:
    """An update for each of `count` equal parts of the rows, redrawn in every epoch, one after another."""
    order_key, key = jax.random.split(key)
    number = len(batch.tokens)
    orders = jax.vmap(lambda key: jax.random.permutation(key, number))(jax.random.split(order_key, epochs))
    if epochs * count == 1:
        return updated(state, batch, key)

    def update(state: TrainState, drawn: tuple[Array, Key]) -> tuple[TrainState, Metrics]:
        rows, key = drawn
        part = jax.tree.map(lambda x: sharding.shard(x[rows], "batch", *[None] * (x.ndim - 1)), batch)
        return updated(state, part, key)

    parts = orders.reshape(epochs * count, number // count)
    state, metrics = jax.lax.scan(update, state, (parts, jax.random.split(key, epochs * count)))
    return state, jax.tree.map(lambda x: x.sum(0), metrics)


# --- micro-batches ------------------------------------------------------------------------------------------------


def accumulate(
    loss_terms: Callable[[Params, Batch, Key], tuple[Loss, Metrics]],
    params: Params,
    batch: Batch,
    key: Key,
    count: int,
) -> tuple[Params, Metrics]:
    """The gradient of the loss of a batch, and its metrics, from `count` slices of it, one after another.

    Every term of the loss is a sum over its entries, divided by their number in the whole batch. These numbers are
    counted first: the compiler drops all that they do not depend on, which is the model, unless a method counts by what
    the model computes (`positions=official`: then it is read once more). The gradient is that of the whole batch up to
    rounding, for the thoughts that were drawn: each slice draws its own with a key of its own, so they are others than
    those of an undivided batch.
    """
    rows = len(jax.tree.leaves(batch)[0])
    if rows % count:
        raise ValueError(f"a batch of {rows} rows does not split into {count} micro-batches")
    slices = _sliced(batch, count)
    keys = jax.random.split(key, count)
    # The same draws in both passes.
    counts = _summed(lambda batch, key: loss_terms(params, batch, key)[0].counts, slices, jax.random.clone(keys))

    def share(params: Params, batch: Batch, key: Key):
        terms, metrics = loss_terms(params, batch, key)
        return terms.out_of(counts).value, (terms, metrics)

    grads, (loss, metrics) = _summed(partial(jax.grad(share, has_aux=True), params), slices, keys)
    return grads, metrics | loss.logged


def _sliced(batch: Batch, count: int) -> Batch:
    """With a new first axis. Row i goes to slice i % count: every device keeps its rows."""
    return jax.tree.map(lambda x: jnp.moveaxis(x.reshape(len(x) // count, count, *x.shape[1:]), 1, 0), batch)


def _summed(function: Callable, slices: Batch, keys: Key):
    """The sum of what the function gives for every slice, leaf by leaf."""
    function = jax.jit(function, inline=True)  # traced once, for the shapes and the loop
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), (slices, keys))
    empty = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(function, *shapes))
    add = lambda total, inputs: (jax.tree.map(jnp.add, total, function(*inputs)), None)  # noqa: E731
    return jax.lax.scan(add, empty, (slices, keys))[0]
