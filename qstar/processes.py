"""Several processes as one run: how they find each other, who writes, and weights that every one of them holds whole.

A run on several machines is the same program once on each (or once for each accelerator); jax makes one set of devices
of theirs. In training all of them draw every batch whole and take every step; the first one writes and prints.
Questions are divided (`shared`, `divided`): each process answers some of the batches on its own devices and writes what
it answered. They share the run directory, and where it is the first one says.
"""

import contextlib
import itertools
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from qstar import files, sharding
from qstar.files import Json
from qstar.training import console, signals
from qstar.typing import Params

PATH_LIMIT = 4096  # bytes
SAID_LIMIT = PATH_LIMIT // 4  # characters
EXPLICIT = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
COUNTED = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")  # set by srun and mpirun
LOOK_EVERY_S = 0.2
GRACE_S = 2.0  # from another process's error until this one is ended: time to come upon it by itself
SHUTDOWN_S = 10.0

T = TypeVar("T")

_rounds = itertools.count()  # of `together` and `watched`: all processes have the same ones in the same order


class Failed(ValueError):  # noqa: N818 (it is what is said)
    """Another process of this run ended with an error."""


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
    jax.config.update("jax_enable_preemption_service", False)  # it takes SIGTERM, and nothing here asks it
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
    encoded = np.frombuffer(text.encode().ljust(PATH_LIMIT, b"\0"), np.uint8)
    return bytes(multihost_utils.broadcast_one_to_all(encoded)).rstrip(b"\0").decode()


def first_does(action: Callable[[], T]) -> T | None:
    """What the first process does while the others wait; these get None.

    Raises, in all of them, what it raised: `Failed` with its message in the others.
    """
    if jax.process_count() == 1:
        return action()
    done, refused = None, None
    if first():
        try:
            done = action()
        except Exception as error:  # whatever it is, the others would wait for it
            refused = error
    message = agreed("" if refused is None else f"{type(refused).__name__}: {refused}"[:SAID_LIMIT])
    if message:
        raise refused or Failed(message)
    return done


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
        message = agreed(str(refused or "")[:SAID_LIMIT])
        if message:
            raise refused or files.Locked(message)
        yield


def shared(count: int, action: Callable[[int], None]) -> None:
    """Call `action` with every number below `count`, each in one of the processes; returns when all are done.

    Between two of its numbers a process does not wait for the others. How many there are changes who does what, so what
    is done must depend on the number alone. Raises as `together`.
    """
    with together() as check:
        for number in range(jax.process_index(), count, jax.process_count()):
            action(number)
            check()


def divided(count: int, action: Callable[[int], T]) -> list[T]:
    """The results of `action` for every number below `count`, as `shared` computes them, in every process.

    Of several processes they are what is left of them in JSON: a tuple is a list then.
    """
    own: dict[int, T] = {}
    shared(count, lambda number: own.update({number: action(number)}))
    parts = gathered(list(own.values()))
    return [parts[number % len(parts)][number // len(parts)] for number in range(count)]


def gathered(value: Json) -> list[Json]:
    """What every process has to say, in their order."""
    if jax.process_count() == 1:
        return [value]
    encoded = np.frombuffer(json.dumps(value).encode(), np.uint8)
    sizes = multihost_utils.process_allgather(np.int32(encoded.size))
    texts = multihost_utils.process_allgather(np.pad(encoded, (0, int(sizes.max()) - encoded.size)))
    return [json.loads(bytes(text[:size])) for text, size in zip(texts, sizes, strict=True)]


@contextlib.contextmanager
def together() -> Iterator[Callable[[], None]]:
    """What each process does alone, perhaps for hours; ends when it has ended in all of them.

    The function that is given raises where another one has failed meanwhile.

    Raises what was raised here, and `Failed` where an error was raised in another process.
    """
    if jax.process_count() == 1:
        yield lambda: None
        return
    ends = _Ends(f"qstar/together/{next(_rounds)}/")
    try:
        yield ends.check
    except Failed:
        raise
    except Exception as error:  # whatever it is, the others would wait for it
        ends.say_of(f"{type(error).__name__}: {error}")
        raise
    ends.say("")
    while ends.check() < jax.process_count():
        time.sleep(LOOK_EVERY_S)


@contextlib.contextmanager
def watched() -> Iterator[None]:
    """All that a command does: an error or a signal that ends it in one process ends the others too, with status 1.

    They may be waiting for that process in an operation on the devices of all, which nothing but its end would end, and
    it would wait for them before it ends. So a thread of each looks, and ends the process where it does not end by
    itself; what is on disk survives that, as it does a kill.
    """
    from qstar.training.loop import Interrupted  # here: its import takes time

    if jax.process_count() == 1:
        yield
        return
    ends, over = _Ends(f"qstar/watched/{next(_rounds)}/"), threading.Event()
    watcher = threading.Thread(target=_watch, args=(ends, over), daemon=True, name="processes")
    watcher.start()
    try:
        with signals.telling(ends.say_of):
            yield
    except (Failed, Interrupted):  # said already; agreed on by all
        raise
    except Exception as error:  # whatever it is, the others would wait for it
        ends.say_of(f"{type(error).__name__}: {error}")
        raise
    finally:
        over.set()
        watcher.join()


def _watch(ends: "_Ends", over: threading.Event) -> None:
    while not over.wait(LOOK_EVERY_S):
        try:
            ends.check()
        except jax.errors.JaxRuntimeError:  # the process that has the store is gone: jax ends this one
            return
        except Failed as failed:
            if not over.wait(GRACE_S):
                console.console().show_cursor()  # a live bar hides it
                print(f"\n{type(failed).__name__}: {failed}", file=sys.stderr)
                sys.stdout.flush()
                sys.stderr.flush()
                # It waits for all processes, for one has the store of the messages; one that got a signal never comes.
                shutdown = threading.Thread(target=jax.distributed.shutdown, daemon=True)
                shutdown.start()
                shutdown.join(SHUTDOWN_S)
                os._exit(1)


class _Ends:
    """How the processes ended their parts, in the store of jax's coordinator: "", or an error.

    Not a collective operation of the devices: the first of them to end may have to wait for hours.
    """

    def __init__(self, folder: str):
        from orbax.checkpoint import multihost  # here: its import takes time, and one process needs none of it

        self._folder, self._client = folder, multihost.get_jax_distributed_client()

    def say(self, text: str) -> None:
        self._client.key_value_set(f"{self._folder}{jax.process_index()}", text)

    def say_of(self, end: str) -> None:
        """Say what ended this process early."""
        self.say(f"process {jax.process_index()} of {jax.process_count()}: {end}")

    def check(self) -> int:
        """How many have ended. Raises Failed where one of them ended with an error."""
        messages = [text for _, text in self._client.key_value_dir_get(self._folder)]
        failed = next(filter(None, messages), None)
        if failed:
            raise Failed(failed)
        return len(messages)


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
