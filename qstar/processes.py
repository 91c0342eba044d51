"""Several processes as one run: how they find each other, who writes, and weights that every one of them holds whole.

A run on several machines is the same program once on each (or once for each accelerator); jax makes one set of devices
of theirs. All of them draw every batch whole, take every step and evaluate; the first one writes and prints. They share
the run directory, and where it is the first one says.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils

from qstar import files, sharding
from qstar.training import console
from qstar.typing import Params

PATH_LIMIT = 4096  # bytes
SAID_LIMIT = PATH_LIMIT // 4  # characters
EXPLICIT = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
COUNTED = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")  # set by srun and mpirun


def join() -> None:
    """Become one of several processes where there are several; call before anything asks for devices.

    QSTAR_DISTRIBUTED=1 asks jax to find the others (a TPU pod slice), 0 leaves this process alone (a sweep in one Slurm
    job). Without it: the three variables in `EXPLICIT` where one is set, else what srun or mpirun started together.

    Raises ValueError for another value of it, and where one of the three variables is set and another is not.
    """
    asked = os.environ.get("QSTAR_DISTRIBUTED", "auto")
    if asked not in ("auto", "0", "1"):
        raise ValueError(f"QSTAR_DISTRIBUTED={asked}: expected 1 (join other processes), 0 (stay alone) or nothing")
    if asked == "0" or jax.distributed.is_initialized():
        return
    given = [name for name in EXPLICIT[1:] if name in os.environ]
    if given:
        missing = [name for name in EXPLICIT if name not in os.environ]
        if missing:
            raise ValueError(f"{', '.join(given)} without {', '.join(missing)}: give all three, or none")
        address, *numbers = (os.environ[name] for name in EXPLICIT)
        jax.distributed.initialize(address, *map(int, numbers))
    elif asked == "1" or any(int(os.environ.get(name, 1)) > 1 for name in COUNTED):
        jax.distributed.initialize()
    if jax.process_index():
        console.console().quiet = True


def first() -> bool:
    """Whether this process writes."""
    return jax.process_index() == 0


def wait(name: str) -> None:
    """Wait until every process is here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def agreed(text: str) -> str:
    """What the first process says."""
    if jax.process_count() == 1:
        return text
    told = np.frombuffer(text.encode().ljust(PATH_LIMIT, b"\0"), np.uint8)
    return bytes(multihost_utils.broadcast_one_to_all(told)).rstrip(b"\0").decode()


@contextlib.contextmanager
def locked(*folders: Path) -> Iterator[None]:
    """Be the only run that writes these folders. Of several processes the first one takes the locks.

    Raises files.Locked, in all of them, where another run has one.
    """
    with contextlib.ExitStack() as held:
        refused = None
        if first():
            try:
                for folder in folders:
                    held.enter_context(files.locked(folder))
            except (files.Locked, OSError) as error:
                refused = error
        said = agreed(str(refused or "")[:SAID_LIMIT])
        if said:
            raise refused or files.Locked(said)
        yield


@contextlib.contextmanager
def whole(params: Params) -> Iterator[Params]:
    """Weights to evaluate. With several processes each gets all of them on its own first device, and works alone."""
    if jax.process_count() == 1:
        yield params
        return
    device = jax.local_devices()[0]
    here = jax.device_put(jax.tree.map(_fetched, params), device)
    with jax.set_mesh(sharding.make_mesh(sharding.MeshConfig(), [device])):
        yield here


def _fetched(leaf: jax.Array | np.ndarray) -> np.ndarray:
    if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
        return multihost_utils.process_allgather(leaf, tiled=True)
    return np.asarray(leaf)
