"""A run to interrupt: a tiny regression with noise from the step's key, Adam, grain data, checkpoints and metrics.

As a script it trains in a process of its own: `resume_driver.py DIRECTORY --steps N --pause-s T`. With
`--processes 2 --process I --port P` it is one of two that train together, with 2 devices each. With `--stall-commit
STEP` the checkpoint of that step is written and never renamed to its final name.
"""

import argparse
import dataclasses
import functools
import os
import sys
import time
from pathlib import Path

import grain
import jax
import jax.numpy as jnp
import numpy as np
import optax

from qstar import sharding
from qstar.structs import Batch, Mean, Metrics, TrainState
from qstar.training import checkpoint, loop, machine, metrics
from qstar.training.sources import Stream
from qstar.training.step import Step

ROWS, LENGTH, VOCAB, WIDTH = 8, 4, 16, 8
TX = optax.adam(1e-2)
LOG_EVERY, SAVE_EVERY = 3, 4  # neither divides the other: a resumed run takes up a log interval in its middle


def example(index: int) -> Batch:
    """The rows of batch `index`, a function of it alone."""
    tokens = np.random.default_rng(index).integers(0, VOCAB, (ROWS, LENGTH), dtype=np.int32)
    ones = np.ones((ROWS, LENGTH), np.int32)
    return Batch(tokens, ones.astype(bool), ones, np.broadcast_to(np.arange(LENGTH, dtype=np.int32), ones.shape))


def data(count: int = 40) -> Stream:
    examples = grain.MapDataset.range(count).seed(3).shuffle().map(example).repeat(None)
    return Stream(iter(examples.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=8))))


@dataclasses.dataclass(frozen=True)
class Training:
    """What the loop needs to know of a program."""

    step: Step
    steps: int
    mesh: jax.sharding.Mesh | None


def new_state() -> TrainState:
    key, embed, out = jax.random.split(jax.random.key(0), 3)
    params = {"embed": jax.random.normal(embed, (VOCAB, WIDTH)), "out": jax.random.normal(out, (WIDTH,))}
    return TrainState(jnp.zeros((), jnp.int32), params, TX.init(params), key)


def make_mesh(devices: int) -> jax.sharding.Mesh:
    return sharding.make_mesh(sharding.MeshConfig(data=devices), jax.devices()[:devices])


def make_step(mesh: jax.sharding.Mesh | None = None):
    """The jitted step; the batch's ids are summed into the metric "tokens", which shows the order of the data."""

    def loss(params: dict, batch: Batch, key: jax.Array):
        predicted = params["embed"][batch.tokens].mean(1) @ params["out"]
        wanted = jnp.sin(batch.tokens.sum(1)) + 0.1 * jax.random.normal(key, predicted.shape)
        return jnp.mean((predicted - wanted) ** 2)

    pinned = {} if mesh is None else {"out_shardings": (sharding.named(mesh), None)}

    @functools.partial(jax.jit, donate_argnums=0, **pinned)
    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(state.key, state.step)
        value, grads = jax.value_and_grad(loss)(state.params, batch, key)
        updates, opt_state = TX.update(grads, state.opt_state)
        params = optax.apply_updates(state.params, updates)
        found = {"loss": Mean.of(value), "tokens": Mean.of(batch.tokens.sum().astype(jnp.float32))}
        return TrainState(state.step + 1, params, opt_state, state.key, None), found

    return step


def run(directory: Path, steps: int, devices: int = 1, hooks: tuple[loop.Hook, ...] = ()) -> TrainState:
    """Train up to `steps`, from the last checkpoint in `directory` where there is one."""
    mesh, source = make_mesh(devices), data()
    place = sharding.named(mesh)
    with checkpoint.Checkpoints(directory / "checkpoints", SAVE_EVERY, keep=2) as checkpoints:
        if checkpoints.latest is None:
            state = jax.jit(new_state, out_shardings=place)()
        else:
            abstract = jax.tree.map(
                lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), jax.eval_shape(new_state)
            )
            state = checkpoints.restore(abstract, source)
        log = loop.Log(metrics.MetricLogger(directory), LOG_EVERY, checkpoints, hooks)
        return loop.fit(Training(make_step(mesh), steps, mesh), source, state, log)


def stall_commit(directory: Path, step: int) -> None:
    """From now on the rename that commits the checkpoint of `step` never happens; a file "stalled" appears instead."""
    rename = os.rename

    def slow(source, target, *args, **kwargs):
        if Path(target) == directory / "checkpoints" / str(step):
            (directory / "stalled").touch()
            time.sleep(600)
        rename(source, target, *args, **kwargs)

    os.rename = slow


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("directory", type=Path)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--pause-s", type=float, default=0.0)
    parser.add_argument("--stall-commit", type=int)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--process", type=int, default=0)
    parser.add_argument("--port", type=int)
    args = parser.parse_args()
    devices = 1
    jax.config.update("jax_num_cpu_devices", 8)
    if args.processes > 1:
        devices = 2 * args.processes
        jax.config.update("jax_num_cpu_devices", 2)
    machine.share_threads()
    if args.processes > 1:
        jax.distributed.initialize(f"127.0.0.1:{args.port}", args.processes, args.process)
    if args.stall_commit is not None:
        stall_commit(args.directory.resolve(), args.stall_commit)

    def pause(step: int, state: TrainState) -> None:
        (args.directory / "pausing").touch()
        time.sleep(args.pause_s)

    try:
        run(args.directory, args.steps, devices, hooks=(loop.Hook(1, pause),))
    except loop.Interrupted as stopped:
        print(stopped)
        sys.exit(3)


if __name__ == "__main__":
    main()
