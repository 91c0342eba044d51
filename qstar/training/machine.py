"""The machine that trains: the peak of its matrix products, the memory it has, and how fast and how full a run is.

The peak is that of one large product in the model's type, kept in ~/.cache/qstar/peaks.json by machine, cores that the
process may use, device, type and version of jax. A machine may be busy when it is measured, and then the peak is too
low: the first three runs measure it, the largest counts, and a run that computes faster raises it (`Peak.share`).
Model-FLOP utilisation is the FLOPs that the method asks for (`models.cost.flops`: sampling forward, what has a gradient
three times, nothing that is recomputed) over time and peak.
"""

import contextlib
import ctypes
import json
import math
import os
import platform
import re
import resource
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp

from qstar import files, paths, sharding
from qstar.training import console

SIDES = (1024, 2048, 4096, 8192)  # of the product: the first that takes LONG_S, for then a call costs nothing
LONG_S, ENOUGH_S = 0.02, 0.3
MEASUREMENTS = 3  # of a peak, each by another run as it starts
GROUP = "machine/"  # before the names of what depends on the clock and the machine, in lines of metrics


# --- threads ------------------------------------------------------------------------------------------------------

THREADS_A_DEVICE = 32


def share_threads() -> None:
    """Give XLA threads enough for all devices where several are made of one CPU; call before any device is asked for.

    A collective holds its thread until every device has come to it, and a device comes to independent ones at once, in
    any order. XLA has one thread a device, or a core where those are more: eight devices on two cores that are held
    twice wait for ever, and after 40 seconds XLA ends the process. PJRT_NPROC is kept where it is set.
    """
    given = re.findall(r"--xla_force_host_platform_device_count=(\d+)", os.environ.get("XLA_FLAGS", ""))
    count = max(jax.config.jax_num_cpu_devices, int(given[-1]) if given else 1)
    if count > 1:
        os.environ.setdefault("PJRT_NPROC", str(max(_cores(), count * THREADS_A_DEVICE)))


# --- peak ---------------------------------------------------------------------------------------------------------


class Peak:
    """FLOPs a second of matrix products in `dtype` on all devices of the mesh; `given`, of one device, goes before.

    The devices of one CPU share its cores: they count once a process.
    """

    def __init__(self, mesh: jax.sharding.Mesh, dtype: str, given: float = 0.0):
        device = jax.local_devices(backend=mesh.devices.flat[0].platform)[0]
        self._count = jax.process_count() if device.platform == "cpu" else mesh.size
        self._given, self._kept = given, None if given else _Kept(device, dtype)
        self._one = self._kept.measured() if self._kept else given  # of one device

    @property
    def flops(self) -> float:
        return self._count * self._one

    def share(self, flops: float, seconds: float) -> float | None:
        """The share of the peak that a run used which computed so many FLOPs in so many seconds.

        What computed faster than the peak raises it, also for later runs, and used all of it. None where it lasted too
        short to tell: over few steps the time between two of them may be off by that of a busy processor.
        """
        if flops <= self.flops * seconds:
            return flops / (self.flops * seconds)
        if seconds < ENOUGH_S:
            return None
        reached = flops / seconds / self._count
        if self._kept:
            self._kept.raise_to(reached)
        elif self._one == self._given:
            console.say(
                f"peak_tflops = {self._given / 1e12:.4g}: this run computes {reached / 1e12:.4g} TFLOP/s a device, "
                "which counts as the peak from here on; give a larger one, or none to have it measured"
            )
        self._one = reached
        return 1.0


class _Kept:
    """The measurements of one device's peak, in a file that all runs of this user share."""

    def __init__(self, device: jax.Device, dtype: str):
        self._device, self._dtype, self._file = device, dtype, paths.cache_folder() / "peaks.json"
        self._name = f"{platform.node()}, {_cores()} cores, {device.device_kind}, {dtype}, jax {jax.__version__}"

    def measured(self) -> float:
        """The largest, with one of now where there are few."""
        known = self._read().get(self._name, [])
        if len(known) < MEASUREMENTS:
            known = [*known, measured_peak(self._device, self._dtype)]
            self._write(known)
        return max(known)

    def raise_to(self, reached: float) -> None:
        """A run computed so fast: what was measured to be slower was a busy machine, and later runs measure again."""
        self._write([reached, *(rate for rate in self._read().get(self._name, []) if rate > reached)])

    def _read(self) -> dict[str, list[float]]:
        with contextlib.suppress(OSError, ValueError):  # none yet, or torn
            return json.loads(self._file.read_text(encoding="utf-8"))
        return {}

    def _write(self, rates: list[float]) -> None:
        with contextlib.suppress(OSError):  # a place that cannot be written to: measured in every run
            files.make(self._file.parent)
            files.write_json(self._file, self._read() | {self._name: rates})


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def measured_peak(device: jax.Device, dtype: str) -> float:
    """The best of a few products of two square matrices, in FLOPs a second; takes well under a second."""
    product = jax.jit(jnp.matmul)
    with jax.set_mesh(sharding.make_mesh(sharding.MeshConfig(), [device])):  # not the mesh of the run around it
        for side in SIDES:
            matrix = jax.device_put(
                jnp.sin(jnp.arange(side**2, dtype=jnp.float32)).reshape(side, side).astype(dtype), device
            )
            _timed(product, matrix)  # compiles
            best = _timed(product, matrix)
            if best >= LONG_S:
                break
        calls = math.ceil(LONG_S / best)  # more than one where even the largest product is short beside its call
        until = time.monotonic() + ENOUGH_S
        while time.monotonic() < until:
            best = min(best, _timed(product, matrix, calls))
    return 2 * side**3 / best


def _timed(product, matrix: jax.Array, calls: int = 1) -> float:
    """Seconds of a call, of several that wait in line for the device."""
    started = time.perf_counter()
    for _ in range(calls):
        out = product(matrix, matrix)
    jax.block_until_ready(out)
    return (time.perf_counter() - started) / calls


# --- memory -------------------------------------------------------------------------------------------------------


def peak_bytes() -> int:
    """The most memory that was ever held: of the fullest device where it keeps count, else of this process."""
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    counted = [entry["peak_bytes_in_use"] for entry in stats if "peak_bytes_in_use" in entry]
    if counted:
        return max(counted)
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return held if sys.platform == "darwin" else held * 1024


def free_bytes(device: jax.Device) -> int | None:
    """Memory that a step can still have: of the device, or of the system where that is the CPU. None: unknown."""
    stats = device.memory_stats() or {}
    if "bytes_limit" in stats:
        return stats["bytes_limit"] - stats.get("bytes_in_use", 0)
    if device.platform != "cpu":
        return None
    give_back()
    limits = [free for free in (_system_free(), *map(_group_free, CONTROL_GROUPS)) if free is not None]
    return min(limits, default=None)


# Of malloc.h: when the heap's end is trimmed, how much is mapped apart, and how many heaps there are. To keep: never,
# nothing, and one for all threads, since the others hold 64 MiB at most and give way to mapping.
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8
_KEEP, _AS_IT_WAS = {_TRIM_THRESHOLD: -1, _MMAP_MAX: 0, _ARENA_MAX: 1}, {_TRIM_THRESHOLD: 2**17, _MMAP_MAX: 2**16}


def keep_freed_memory(keep: bool) -> None:
    """Let glibc keep what is freed for the next step, or give it back to the system; elsewhere nothing happens.

    XLA on CPU allocates its temporaries in every step. By default glibc maps large ones freshly each time, and the
    system clears every page of them: a third of a small model's step. What is kept may hold them twice: where little
    things were put into the room of the last ones, the next do not fit into it.
    """
    if sys.platform != "linux":
        return
    with contextlib.suppress(OSError, AttributeError):  # another C library
        mallopt = ctypes.CDLL(None).mallopt
        for option, value in (_KEEP if keep else _AS_IT_WAS).items():
            mallopt(option, value)


def give_back() -> None:
    """What glibc kept for later steps (`keep_freed_memory`) counts as free: let the system have it."""
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


MEMINFO = Path("/proc/meminfo")
CONTROL_GROUPS = (  # limit, use, statistics and the names in them of what is given up when memory is short
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current", "/sys/fs/cgroup/memory.stat", "inactive_file"),
    (
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "/sys/fs/cgroup/memory/memory.usage_in_bytes",
        "/sys/fs/cgroup/memory/memory.stat",
        "total_inactive_file",
    ),
)


def _system_free() -> int | None:
    with contextlib.suppress(OSError, KeyError):
        lines = dict(line.split(":", 1) for line in MEMINFO.read_text().splitlines())
        return int(lines["MemAvailable"].split()[0]) * 1024
    return None


def _group_free(files: tuple[str, str, str, str]) -> int | None:
    """What a container may still use; None where nothing limits it."""
    limit, use, statistics, cached = files
    with contextlib.suppress(OSError, ValueError, KeyError):  # no such group, or "max"
        lines = dict(line.split() for line in Path(statistics).read_text().splitlines())
        return int(Path(limit).read_text()) - int(Path(use).read_text()) + int(lines[cached])
    return None


# --- speed --------------------------------------------------------------------------------------------------------


class Meter:
    """Speed of the steps of a log interval, without what happens between them: compiling, hooks, checkpoints.

    Args:
        tokens, thoughts: of one step.
        flops: of one step, as the method asks for them.
        peak: of the machine; None: the share of it is not measured.
    """

    def __init__(self, tokens: int, thoughts: int, flops: int, peak: Peak | None):
        self._tokens, self._thoughts, self._flops, self._peak = tokens, thoughts, flops, peak
        self._since: float | None = None  # the first step, which compiles, is not counted
        self._steps, self._seconds = 0, 0.0

    def step(self) -> None:
        """A step has ended, directly after the one before it."""
        now = time.monotonic()
        if self._since is not None:
            self._steps, self._seconds = self._steps + 1, self._seconds + now - self._since
        self._since = now

    def restart(self) -> None:
        """Something else was done since the last step ended."""
        self._since = time.monotonic()

    def interval(self) -> dict[str, float]:
        """The speed since the last call, by name, where there was a step to measure; and the peak of memory so far."""
        rate = self._steps / max(self._seconds, 1e-9)
        values = {"peak_gib": peak_bytes() / 2**30}
        if self._steps:
            values["tokens_per_s"] = rate * self._tokens
            if self._thoughts:
                values["thoughts_per_s"] = rate * self._thoughts
            share = self._peak.share(self._steps * self._flops, self._seconds) if self._peak else None
            if share is not None:
                values["mfu"] = share
        self._steps, self._seconds = 0, 0.0
        return {GROUP + name: float(f"{value:.4g}") for name, value in values.items()}
