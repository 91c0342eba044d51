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
    meter = Meter(tokens=640, thoughts=1280, flops=2000, peak=peak(given=10000.0))
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
    meter = Meter(tokens=640, thoughts=0, flops=2000, peak=None)
    meter.step()
    clock[0] += 2
    meter.step()
    assert meter.interval().keys() == {"machine/peak_gib", "machine/tokens_per_s"}


@pytest.fixture
def measure(tmp_path, monkeypatch):
    """The rates that the next measurements of a peak come to, first to last."""
    monkeypatch.setenv("QSTAR_CACHE", str(tmp_path / "cache"))
    rates = []
    monkeypatch.setattr(machine, "measured_peak", lambda device, dtype: rates.pop(0))
    return rates


def peak(dtype: str = "float32", given: float = 0.0, **mesh: int) -> machine.Peak:
    return machine.Peak(sharding.make_mesh(MeshConfig(**mesh)), dtype, given)


def kept(tmp_path) -> dict[str, list[float]]:
    return json.loads((tmp_path / "cache" / "peaks.json").read_text())


def test_the_peak_is_the_largest_of_three_measurements_each_by_a_run(tmp_path, measure):
    measure += [2e10, 5e10, 3e10]
    # The eight devices of a CPU share its cores. The first run found them busy.
    assert [peak(data=8).flops for _ in range(5)] == [2e10, 5e10, 5e10, 5e10, 5e10]
    assert list(kept(tmp_path).values()) == [[2e10, 5e10, 3e10]]


def test_peaks_are_kept_by_cores_device_type_and_version_of_jax(tmp_path, measure, monkeypatch):
    measure += [1.0, 2.0, 3.0, 4.0]
    assert [peak().flops, peak("bfloat16").flops] == [1.0, 2.0]
    monkeypatch.setattr(machine, "_cores", lambda: 77)  # as under taskset
    assert peak().flops == 3.0
    monkeypatch.setattr(jax, "__version__", "9.9")
    assert peak().flops == 4.0
    name = [part.split(", ")[1:] for part in kept(tmp_path)]
    assert name[1][1:3] == ["cpu", "bfloat16"] and name[2][0] == "77 cores" and name[3][3] == "jax 9.9"


def test_a_run_that_exceeds_the_peak_raises_it_and_later_runs_measure_again(tmp_path, measure):
    measure += [2e10, 1e10, 4e10, 6e10, 5e10]
    first = [peak() for _ in range(3)][-1]
    assert first.share(3e10, 2.0) == 0.375
    assert first.share(10e10, 2.0) == 1.0
    assert first.flops == 5e10 and list(kept(tmp_path).values()) == [[5e10]]
    assert first.share(5e10, 2.0) == 0.5
    assert [peak().flops for _ in range(3)] == [6e10] * 3
    assert list(kept(tmp_path).values()) == [[5e10, 6e10, 5e10]]


def test_a_peak_that_another_run_raised_meanwhile_is_not_lowered(tmp_path, measure):
    measure += [2.0, 9.0]
    first = peak()
    assert peak().flops == 9.0
    first.share(6.0, 2.0)
    assert list(kept(tmp_path).values()) == [[3.0, 9.0]]


def test_moments_tell_nothing_of_a_peak_that_they_exceed(tmp_path, measure):
    measure += [2e10]
    first = peak()
    assert first.share(1e10, 0.1) is None
    assert first.share(1e9, 0.1) == 0.5
    assert list(kept(tmp_path).values()) == [[2e10]]


def test_no_line_of_metrics_shows_more_than_the_whole_peak(clock):
    meter = Meter(tokens=640, thoughts=0, flops=3000, peak=peak(given=1000.0))
    meter.step()
    shares = []
    for seconds in (6, 3, 2, 4, 0.1):
        clock[0] += seconds
        meter.step()
        shares.append(meter.interval().get("machine/mfu"))
    assert shares == [0.5, 1.0, 1.0, 0.5, None]


def test_a_torn_file_of_peaks_is_written_again(tmp_path, measure):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "peaks.json").write_text('{"a": 1')
    measure += [7.0]
    assert peak().flops == 7.0
    assert list(kept(tmp_path).values()) == [[7.0]]


def test_a_peak_that_is_given_is_not_measured_and_said_to_be_too_low(measure, capsys):
    first = peak(given=3e12, data=4)
    assert first.flops == 3e12 and first.share(3e12, 2.0) == 0.5 and capsys.readouterr().out == ""
    assert first.share(8e12, 2.0) == 1.0 and first.flops == 4e12
    assert "peak_tflops = 3: this run computes 4 TFLOP/s a device" in capsys.readouterr().out
    assert first.share(10e12, 2.0) == 1.0 and first.flops == 5e12 and capsys.readouterr().out == ""


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
