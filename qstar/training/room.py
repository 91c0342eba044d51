"""Is there room for a step? Asked of the compiled step before it is taken, with what to change where there is not."""

import dataclasses
import os
from collections.abc import Iterator
from typing import Protocol

from qstar import sharding
from qstar.methods.protocol import Counts, Fractional
from qstar.models import memory
from qstar.models.lm import REMATS
from qstar.structs import Batch, TrainState
from qstar.training import machine
from qstar.training.build import Program

KEPT = 2  # times what a step needs may be held on a CPU (`machine.keep_freed_memory`)
SPARE = 0.95  # of the memory that is free, for a suggestion: the formula errs by a few per cent
SHORTEST = 32  # tokens of a window that is suggested


@dataclasses.dataclass(frozen=True)
class Sizes:
    """What the memory of a step depends on and a run can change."""

    remat: str
    micro_batches: int
    think_fraction: float | None  # None where the method has no such setting
    length: int


class Rows(Protocol):
    length: int  # tokens


class Batched(Protocol):
    """The part of a run's `TrainConfig` that is needed here."""

    batch_size: int
    micro_batches: int
    data: "Rows"


def check(cfg: Batched, program: Program, state: TrainState, batch: Batch) -> None:
    """Raise ValueError where this step will not fit, naming settings that would.

    Compiles the step, which the first call of it then finds compiled. QSTAR_CHECK_MEMORY=0 leaves it out.
    """
    if os.environ.get("QSTAR_CHECK_MEMORY") == "0":
        return
    device = program.mesh.local_devices[0]
    needed, free = step_bytes(program, state, batch), machine.free_bytes(device)
    if free is not None and KEPT * needed > free and device.platform == "cpu":
        machine.keep_freed_memory(False)
    if free is None or needed <= free:
        return
    held = sum(size for name, size in program.bytes_held.items() if name != "gradients")
    counts = isinstance(program.method, Counts)
    fitting = suggestions(cfg, program, cfg.data.length, needed, free) if counts else []
    way_out = f"What would fit, by formula: {'; or '.join(fitting)}" if fitting else (
        "No number of micro_batches, share of positions or length of window makes it fit: use a smaller model, or "
        "adapters (lora.rank=8)"
    )  # fmt: skip
    raise ValueError(
        f"a step of {type(program.method).__name__} needs {_gib(needed)} besides its state of {_gib(held)} over all "
        f"devices, and {_gib(free)} are free on this {device.platform}. {way_out}. "
        "(QSTAR_CHECK_MEMORY=0 tries it anyway.)"
    )


def step_bytes(program: Program, state: TrainState, batch: Batch) -> int:
    """What a compiled step needs besides its state: on one device, or on all that share the memory of the CPU."""
    stats = program.step.lower(state, batch).compile().memory_analysis()
    if stats is None:  # a backend that does not tell
        return 0
    per_device = stats.temp_size_in_bytes + stats.output_size_in_bytes - stats.alias_size_in_bytes
    return per_device * _sharing(program)


def predicted_bytes(program: Program, rows: int, sizes: Sizes) -> int:
    """The same by formula, of a batch of `rows` windows."""
    method, lm, mesh = program.method, dataclasses.replace(program.lm, remat=sizes.remat), program.mesh
    if sizes.think_fraction is not None:
        method = dataclasses.replace(method, think_fraction=sizes.think_fraction)
    on_cpu = mesh.devices.flat[0].platform == "cpu"
    ways = sharding.row_ways(mesh)
    held = program.bytes_held["trained"]
    predicted = memory.temporaries(lm, method.passes(sizes.length), -(-rows // ways), held, sizes.micro_batches, on_cpu)
    return predicted.peak * _sharing(program)


def suggestions(cfg: Batched, program: Program, length: int, needed: int, free: int) -> list[str]:
    """Settings, each alone, with which a step that needs `needed` bytes would fit into `free`."""
    fraction = program.method.think_fraction if isinstance(program.method, Fractional) else None
    now = Sizes(program.lm.remat, cfg.micro_batches, fraction, length)
    # The formula for the proportions, the compiled step for the scale.
    scale = needed / predicted_bytes(program, cfg.batch_size, now)
    fitting = {}
    for name, value, sizes in _smaller(now, cfg.batch_size, sharding.row_ways(program.mesh)):
        predicted = scale * predicted_bytes(program, cfg.batch_size, sizes)
        if name not in fitting and predicted <= SPARE * free:
            fitting[name] = f"{name}={value} ({_gib(predicted)})"
    return list(fitting.values())


def _smaller(now: Sizes, rows: int, ways: int) -> Iterator[tuple[str, str | int | float, Sizes]]:
    """Settings that take less and less; those that leave the loss as it is come first."""
    for remat in reversed(REMATS[: REMATS.index(now.remat)]):
        yield "model.remat", remat, dataclasses.replace(now, remat=remat)
    for count in range(now.micro_batches + 1, rows + 1):
        if rows % count == 0 and rows // count % ways == 0:
            yield "micro_batches", count, dataclasses.replace(now, micro_batches=count)
    if now.think_fraction is not None:
        for halvings in range(1, 7):
            share = now.think_fraction / 2**halvings
            yield "method.think_fraction", f"{share:g}", dataclasses.replace(now, think_fraction=share)
    length = now.length // 2
    while length >= SHORTEST:
        yield "data.length", length, dataclasses.replace(now, length=length)
        length //= 2


def _sharing(program: Program) -> int:
    """Devices that share one memory."""
    devices = program.mesh.local_devices
    return len(devices) if devices[0].platform == "cpu" else 1


def _gib(size: float) -> str:
    return f"{size / 2**30:,.1f} GiB" if size >= 2**30 else f"{size / 2**20:,.1f} MiB"
