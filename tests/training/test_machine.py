import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import jax
import pytest

from qstar import sharding
from qstar.sharding import MeshConfig
from qstar.training import console, machine
from qstar.training.machine import Meter


@pytest.fixture
def clock(monkeypatch):
    """A clock that is set by hand."""
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_speed_counts_the_steps_without_the_first_and_without_work_between_them(clock, monkeypatch):
    monkeypatch.setattr(machine, "peak_bytes", lambda: 3 * 2**29)
    meter = Meter(tokens=640, thoughts=1280, flops=2000, peak=10000.0)
    clock[0] += 30  # compiles
    meter.step()
    assert meter.interval() == {"machine/peak_gib": 1.5}
    clock[0] += 2
    meter.step()
    clock[0] += 50  # a hook
    meter.restart()
    clock[0] += 3
    meter.step()
    assert meter.interval() == {
        "machine/peak_gib": 1.5,
        "machine/tokens_per_s": 256.0,  # two steps in five seconds
        "machine/thoughts_per_s": 512.0,
        "machine/mfu": 0.08,
    }
    assert meter.interval().keys() == {"machine/peak_gib"}


def test_what_does_not_think_has_no_thoughts_a_second(clock):
    meter = Meter(tokens=640, thoughts=0, flops=2000, peak=0.0)
    meter.step()
    clock[0] += 2
    meter.step()
    assert meter.interval().keys() == {"machine/peak_gib", "machine/tokens_per_s"}


def test_the_peak_is_measured_once_and_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("QSTAR_CACHE", str(tmp_path / "cache"))
    mesh = sharding.make_mesh(MeshConfig(data=8))
    measured = []
    monkeypatch.setattr(machine, "measured_peak", lambda device, dtype: measured.append(dtype) or 5e10)
    # The eight devices of a CPU share its cores.
    assert [machine.peak_flops(mesh, kind) for kind in ("float32", "float32", "bfloat16")] == [5e10] * 3
    assert measured == ["float32", "bfloat16"]
    kept = json.loads((tmp_path / "cache" / "peaks.json").read_text())
    assert [name.split(", ")[-2:] for name in kept] == [["cpu", "float32"], ["cpu", "bfloat16"]]


def test_a_torn_file_of_peaks_is_written_again(tmp_path, monkeypatch):
    monkeypatch.setenv("QSTAR_CACHE", str(tmp_path))
    (tmp_path / "peaks.json").write_text('{"a": 1')
    monkeypatch.setattr(machine, "measured_peak", lambda device, dtype: 7.0)
    assert machine.peak_flops(sharding.make_mesh(MeshConfig()), "float32") == 7.0
    assert list(json.loads((tmp_path / "peaks.json").read_text()).values()) == [7.0]


def test_a_peak_that_is_given_is_not_measured(monkeypatch):
    monkeypatch.setattr(machine, "measured_peak", None)
    assert machine.peak_flops(sharding.make_mesh(MeshConfig(data=4)), "float32", given=3e12) == 3e12


def test_the_measured_peak_is_that_of_a_machine(monkeypatch):
    monkeypatch.setattr(machine, "SIDES", (256, 512))
    monkeypatch.setattr(machine, "ENOUGH_S", 0.05)
    assert 1e8 < machine.measured_peak(jax.devices()[0], "float32") < 1e14


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="there is no /proc here")
def test_peak_memory_on_a_cpu_is_the_high_water_mark_of_the_process():
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    assert machine.peak_bytes() == pytest.approx(1024 * int(status["VmHWM"].split()[0]), rel=0.01)


def group(folder, limit, used, cached):
    for name, text in (("limit", limit), ("used", used), ("stat", f"anon 5\ninactive_file {cached}")):
        (folder / name).write_text(f"{text}\n")
    return (*(str(folder / name) for name in ("limit", "used", "stat")), "inactive_file")


def test_free_memory_is_the_least_of_the_systems_and_the_containers(tmp_path, monkeypatch):
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:  16000 kB\nMemFree: 1 kB\nMemAvailable:    5000 kB\n")
    monkeypatch.setattr(machine, "MEMINFO", meminfo)
    free = lambda: machine.free_bytes(jax.devices()[0])  # noqa: E731
    monkeypatch.setattr(machine, "CONTROL_GROUPS", (group(tmp_path, 4_000_000, 3_000_000, 500_000),))
    assert free() == 1_500_000
    monkeypatch.setattr(machine, "CONTROL_GROUPS", (group(tmp_path, "max", 3_000_000, 500_000),))
    assert free() == 5000 * 1024
    monkeypatch.setattr(machine, "MEMINFO", tmp_path / "none")
    assert free() is None


def test_an_accelerator_reports_its_memory_and_what_is_in_use(monkeypatch):
    class Device:
        platform = "gpu"

        def memory_stats(self):
            return {"bytes_limit": 900, "bytes_in_use": 200, "peak_bytes_in_use": 700}

    monkeypatch.setattr(jax, "local_devices", lambda: [Device(), Device()])
    assert machine.free_bytes(Device()) == 700
    assert machine.peak_bytes() == 700


def test_plain_lines_show_the_speed_where_it_was_measured(capsys):
    lines = console.PlainLines("train", 0, 9, ())
    lines.interval(1, {"machine/peak_gib": 1.0})
    lines.interval(2, {"machine/tokens_per_s": 12345.6, "machine/mfu": 0.314})
    first, second = capsys.readouterr().out.splitlines()
    assert "tokens" not in first
    assert "  12,346 tokens/s  31% of peak  " in second


def test_several_devices_of_one_cpu_have_enough_threads_for_their_collectives(monkeypatch):
    monkeypatch.setattr(machine, "_cores", lambda: 2)

    def threads(devices: int, flags: str = "", given: str | None = None) -> str | None:
        monkeypatch.setattr(machine.os, "environ", {"XLA_FLAGS": flags} | ({"PJRT_NPROC": given} if given else {}))
        monkeypatch.setattr(machine.jax, "config", SimpleNamespace(jax_num_cpu_devices=devices))
        machine.share_threads()
        return machine.os.environ.get("PJRT_NPROC")

    assert threads(-1) is None
    assert threads(1) is None
    assert threads(8) == "256"
    assert threads(-1, "--xla_cpu_max_isa=AVX2 --xla_force_host_platform_device_count=4") == "128"
    assert threads(8, given="9") == "9"


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="Linux counts a process's threads there")
def test_the_threads_are_there():
    program = (
        "import os, jax; from qstar.cli import entry; entry.prepare_jax(); jax.devices(); "
        "print(len(os.listdir('/proc/self/task')))"
    )

    def count(**more: str) -> int:
        environment = {name: value for name, value in os.environ.items() if name != "PJRT_NPROC"}
        done = subprocess.run(
            [sys.executable, "-c", program], env=environment | more, capture_output=True, text=True, check=True
        )
        return int(done.stdout)

    assert count(JAX_NUM_CPU_DEVICES="8") - count() >= 8 * machine.THREADS_A_DEVICE
