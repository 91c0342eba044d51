"""How the devices are laid out for a model and its batches: for training with mesh=auto, and for sampling."""

import jax
import numpy as np
from jax.experimental import multihost_utils

from qstar import sharding
from qstar.models.definition import Definition
from qstar.sharding import AXES, MeshConfig
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


def sampling(cfg: MeshConfig, definition: Definition, rows: int) -> jax.sharding.Mesh | None:
    """The mesh of this process's own devices on which a model writes and scores; None: its first device (mesh=single).

    Args:
        rows: of a batch, about: mesh=auto spreads so many.

    Raises ValueError where there are fewer devices, or the model's sizes do not divide over them.
    """
    if cfg == MeshConfig():
        return None
    devices, shapes = jax.local_devices(), jax.tree.map(lambda leaf: leaf.shape, definition.abstract)
    if cfg.auto:
        held = 2 * 4 * definition.size  # float32, and the layers once more, one by one
        fits = lambda sizes: sharding.divides(definition.axes, shapes, sizes)  # noqa: E731
        cfg = sharding.pick(len(devices), rows, held, device_bytes(), fits)
    mesh = sharding.make_mesh(cfg, devices)
    sharding.check_divisible(definition.axes, shapes, mesh)
    return mesh


def device_bytes() -> int | None:
    """Memory of a device, the least of any process; the devices of one CPU share what is free. None: unknown."""
    device = jax.local_devices()[0]
    free = machine.free_bytes(device)
    if free is not None and device.platform == "cpu":
        free //= jax.local_device_count()
    if jax.process_count() > 1:
        free = int(multihost_utils.process_allgather(np.float32(free or 0)).min()) or None
    return free
