"""Ctrl-C and SIGTERM outside the training loop: a line and a status, at once, whatever is being done."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from qstar.training import signals

ROOT = Path(__file__).parents[2]


def start(code: str, folder: Path) -> subprocess.Popen:
    # A test that runs in the background of a shell has Ctrl-C switched off.
    command = [
        sys.executable,
        "-c",
        f"import signal\nsignal.signal(signal.SIGINT, signal.SIG_DFL)\n{textwrap.dedent(code)}",
    ]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "QSTAR_CACHE": str(folder / "cache")}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=folder, env=environment, **pipes)


def outcome(code: str, folder: Path) -> tuple[int, str, str]:
    """Status, standard output and errors of a process that ends by itself."""
    process = start(code, folder)
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def wait_for_handlers(process: subprocess.Popen) -> None:
    """Until the process takes SIGTERM by itself, which Python does not."""
    end = time.monotonic() + 60
    while time.monotonic() < end and process.poll() is None:
        status = Path(f"/proc/{process.pid}/status").read_text()
        caught = int(status.partition("SigCgt:")[2].split()[0], 16)
        if caught >> (signal.SIGTERM - 1) & 1:
            return
        time.sleep(0.005)
    raise AssertionError(f"no handlers: {process.communicate()}")


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
@pytest.mark.parametrize(
    ("number", "delay", "command"),
    [
        (signal.SIGINT, 0.0, "train"),
        (signal.SIGTERM, 0.3, "improve"),
        (signal.SIGINT, 1.0, "evaluate"),
        (signal.SIGTERM, 2.0, "train"),
    ],
)
def test_a_command_that_is_interrupted_while_it_starts_says_so_and_leaves_nothing(tmp_path, number, delay, command):
    code = f"import sys; sys.argv = ['x', 'model.source=./absent']; from qstar.cli import scripts; scripts.{command}()"
    process = start(code, tmp_path)
    wait_for_handlers(process)
    time.sleep(delay)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    said = {signal.SIGINT: "\ninterrupted\n", signal.SIGTERM: "\nstopped by SIGTERM\n"}[number]
    if "no model at" in err:
        pytest.skip("it was over before the signal came")
    assert process.returncode == {signal.SIGINT: 130, signal.SIGTERM: 143}[number]
    assert out in ("", "loading libraries ...\n")  # the one phase before the model is looked for
    assert err in (said, f"qstar-{command}: starting{said}", f"qstar-{command}: starting\n{said}")
    assert list(tmp_path.iterdir()) == []


BUSY = """
    import hashlib
    from qstar.training import signals
    signals.install()
    with signals.advising(lambda: "first"), signals.advising(lambda: "Resume with  qstar-train resume=x"):
        print("busy", flush=True)
        hashlib.pbkdf2_hmac("sha256", b"", b"", 2_000_000_000)  # half an hour in C, without a look at signals
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_process_that_does_not_come_back_to_python(tmp_path, number):
    process = start(BUSY, tmp_path)
    assert process.stdout.readline() == "busy\n"
    process.send_signal(number)
    _, err = process.communicate(timeout=30)
    assert process.returncode == signals.status(number) == 128 + number
    assert err.endswith("\nResume with  qstar-train resume=x\n")


TAKEN_OVER = """
    import signal, time
    from qstar.training import signals
    signals.install()
    old = signal.signal(signal.SIGTERM, lambda number, frame: print("saving", flush=True))
    signal.raise_signal(signal.SIGTERM)
    time.sleep(0.5)
    signal.signal(signal.SIGTERM, old)
    print("saved", flush=True)
    signal.raise_signal(signal.SIGTERM)
"""


def test_who_takes_a_signal_over_is_left_alone_until_it_gives_it_back(tmp_path):
    assert outcome(TAKEN_OVER, tmp_path) == (143, "saving\nsaved\n", "\nstopped by SIGTERM\n")


LATE = """
    import jax, os, signal, sys, time
    from qstar.training import loop, signals
    signals.install()
    jax.process_count()  # what takes long the first time
    sys.setswitchinterval(60)  # the thread of the signals comes to nothing meanwhile
    with loop._StopSignals() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        asked = stop.asked(1, 1)
    sys.setswitchinterval(0.005)
    time.sleep(0.5)
    print("saved", asked)
"""


def test_a_signal_that_the_training_loop_has_handled_ends_nothing_after_it(tmp_path):
    assert outcome(LATE, tmp_path) == (0, "saved True\n", "")


TWICE = """
    import os, signal, sys
    from qstar.training import signals
    signals.install()
    calls = []
    def how():
        calls.append(1)
        if len(calls) == 1:
            os.kill(os.getpid(), signal.SIGTERM)
            sum(range(1000))
        return "Resume"
    sys.setswitchinterval(60)  # the main thread comes to the signal first
    with signals.advising(how):
        os.kill(os.getpid(), signal.SIGTERM)
        sum(range(1000))
"""
HELD = """
    import os, signal, threading, time
    from qstar.training import signals
    signals.install()
    signals.LEAVE_S = 0.5
    lock = threading.Lock()
    with signals.advising(lambda: lock.acquire() and ""), lock:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)
"""


@pytest.mark.parametrize("code", [TWICE, HELD], ids=["second signal", "advice that waits for the main thread"])
def test_a_process_that_is_leaving_ends_in_any_case(code, tmp_path):
    process = start(code, tmp_path)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 143 and "stopped by SIGTERM" in err
