"""A training step on trial: random weights and random text of any shape, to measure time and memory with."""

import collections
import re
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import jax
import numpy as np

from qstar import sharding
from qstar.models import cost
from qstar.ops import rows as text_rows
from qstar.sharding import MeshConfig
from qstar.structs import Batch, TrainState
from qstar.training import machine, room
from qstar.training import step as steps
from qstar.training.build import Program

T = TypeVar("T")


def one_device() -> jax.sharding.Mesh:
    """A mesh of the first device alone."""
    return sharding.make_mesh(MeshConfig(), jax.devices()[:1])


def state(program: Program) -> TrainState:
    """A train state with random weights, created on its devices and in the types in which it is held."""
    return jax.jit(_made(program), out_shardings=program.places)(jax.random.key(0))


def _made(program: Program) -> Callable[[jax.Array], TrainState]:
    definition = program.definition

    def made(key: jax.Array) -> TrainState:
        weights, run = jax.random.split(key)
        held = jax.tree.map(lambda leaf, like: leaf.astype(like.dtype), definition.init(weights), definition.abstract)
        trained, frozen = definition.split(held)
        return steps.new_state(trained, program.tx, run, False, frozen)

    return made


def compiled(program: Program, rows: int, length: int) -> jax.stages.Compiled:
    """The step of a batch of this size; it takes no weights to compile it."""
    like = jax.eval_shape(_made(program), jax.random.key(0))
    with jax.set_mesh(program.mesh):
        placed = jax.tree.map(lambda x, at: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=at), like, program.places)
        return program.step.lower(placed, batch(program, rows, length)).compile()


def batch(program: Program, rows: int, length: int, seed: int = 0) -> Batch:
    """Whole rows of random tokens, placed as a loader places them."""
    tokens = np.random.default_rng(seed).integers(1, program.lm.vocab, (rows, length))
    return jax.device_put(text_rows.padded(tokens.tolist(), length), sharding.named(program.mesh, "batch"))


def rows_that_fit(program: Program, length: int, most: int) -> int:
    """The largest power of two, up to `most`, that fits into the free memory by formula; at least 1."""
    free = machine.free_bytes(program.mesh.local_devices[0])
    if free is None:
        return 1
    held, sizes = held_bytes(program), room.Sizes(program.lm.remat, 1, None, length)
    rows = most
    while rows > 1 and held + room.predicted_bytes(program, rows, sizes) > room.SPARE * free:
        rows //= 2
    return rows


def held_bytes(program: Program) -> int:
    """Weights and moments."""
    return sum(size for name, size in program.bytes_held.items() if name != "gradients")


@dataclass(frozen=True)
class Taken:
    """Steps of one program that were timed."""

    rows: int
    seconds: list[float]  # of every step after the first
    flops: float  # of a step, ideal: nothing that is recomputed
    tokens: int
    thoughts: int
    peak_flops: float | None  # of the devices, a second
    peak_bytes: int | None
    kernels: dict[str, int]


def taken(program: Program, rows: int, length: int, count: int) -> Taken:
    """Take a step, and then `count` that are timed."""
    with jax.set_mesh(program.mesh):
        step = compiled(program, rows, length)
        moving, fixed = state(program), batch(program, rows, length)

        def take_step() -> None:
            nonlocal moving
            moving, metrics = step(moving, fixed)
            jax.block_until_ready((moving, metrics))

        seconds = timed(take_step, count)
    passes = program.passes(length)
    flops = rows * cost.flops(program.lm, passes, frozen=bool(program.definition.frozen))
    peak = machine.Peak(program.mesh, program.lm.dtype)
    peak.share(count * flops, count * statistics.median(seconds))  # raises a peak that is lower
    return Taken(
        rows,
        seconds,
        flops,
        rows * length,
        rows * max(pass_.thoughts for pass_ in passes),
        peak.flops,
        machine.peak_bytes(),
        kernels(step),
    )


def timed(run: Callable[[], object], times: int) -> list[float]:
    """Seconds of so many calls, waited for, after one that compiles."""
    jax.block_until_ready(run())
    return [seconds_of(run) for _ in range(times)]


def in_turns(ways: Mapping[str, Callable[[int], T]], repeats: int) -> dict[str, list[T]]:
    """What every way returns for each repeat, which it is given; within a repeat the ways take turns."""
    returned: dict[str, list[T]] = {name: [] for name in ways}
    for repeat in range(repeats):
        for name, way in ways.items():
            returned[name].append(way(repeat))
    return returned


def seconds_of(run: Callable[[], object]) -> float:
    """Of one call, waited for."""
    started = time.perf_counter()
    jax.block_until_ready(run())
    return time.perf_counter() - started


def kernels(compiled: jax.stages.Compiled) -> dict[str, int]:
    """Calls that a program makes outside of XLA's own code."""
    return dict(collections.Counter(re.findall(r'custom_call_target="([^"]+)"', compiled.as_text())))
