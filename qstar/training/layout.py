"""mesh=auto: how the devices found are laid out for a model and its batches."""

import jax
import numpy as np
from jax.experimental import multihost_utils

from qstar import sharding
from qstar.sharding import AXES
from qstar.training import console, machine
from qstar.training.build import Program


def picked(program: Program, rows: int) -> jax.sharding.Mesh:
    """A mesh of all devices for batches of `rows` rows; a line says which and why.

    Args:
        program: of the model to train, on any mesh.

    Raises ValueError where nothing fits.
    """
    definition, held = program.definition, sum(program.bytes_held.values())
    shapes = jax.tree.map(lambda leaf: leaf.shape, definition.abstract)
    count, memory = jax.device_count(), device_bytes()
    cfg = sharding.pick(
        count,
        rows,
        held,
        memory,
        lambda sizes: sharding.divides(definition.axes, shapes, sizes),
        spare=jax.process_count() == 1,
    )
    sizes = ", ".join(f"{axis} {getattr(cfg, axis)}" for axis in AXES)
    room = "unknown memory" if memory is None else f"{memory / 2**30:,.1f} GiB"
    console.console().print(
        f"mesh=auto: {sizes} ({count} devices of {room}; weights, gradients and optimizer {held / 2**30:,.3g} GiB; "
        f"{rows} rows)",
        highlight=False,
    )
    return sharding.make_mesh(cfg)


def device_bytes() -> int | None:
    """Memory of a device, the least of any process; the devices of one CPU share what is free. None: unknown."""
    device = jax.local_devices()[0]
    free = machine.free_bytes(device)
    if free is not None and device.platform == "cpu":
        free //= jax.local_device_count()
    if jax.process_count() > 1:
        free = int(multihost_utils.process_allgather(np.float32(free or 0)).min()) or None
    return free
