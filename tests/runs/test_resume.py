"""A run that is stopped and resumed is the run that was never stopped."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
import resume_driver
from tolerances import rounding

from qstar.training import loop

STEPS = 30
DRIVER = Path(resume_driver.__file__)


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    directory = tmp_path_factory.mktemp("straight")
    return resume_driver.run(directory, STEPS), lines(directory)


def lines(directory: Path) -> list[dict]:
    """The metrics of every line, without the clock."""
    records = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in record.items() if name != "time_s"} for record in records]


def saved_steps(directory: Path) -> list[int]:
    return sorted(int(path.name) for path in (directory / "checkpoints").iterdir() if path.name.isdigit())


def assert_same_run(directory: Path, state, straight) -> None:
    expected_state, expected_lines = straight
    assert lines(directory) == expected_lines
    leaves, expected_leaves = jax.tree.leaves(state), jax.tree.leaves(expected_state)
    assert len(leaves) == len(expected_leaves) == 9
    for leaf, expected in zip(leaves, expected_leaves, strict=True):
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf, expected = jax.random.key_data(leaf), jax.random.key_data(expected)
        np.testing.assert_array_equal(leaf, expected)


def start(directory: Path, *arguments: str) -> subprocess.Popen:
    directory.mkdir(exist_ok=True)
    command = [sys.executable, str(DRIVER), str(directory), "--steps", str(STEPS), *arguments]
    environment = os.environ | {
        "PYTHONPATH": str(DRIVER.parent.parent),
        "JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wait_until(process: subprocess.Popen, reached, timeout_s: float = 120.0) -> None:
    end = time.monotonic() + timeout_s
    while not reached():
        assert process.poll() is None, f"the run ended early:\n{process.communicate()[0]}"
        assert time.monotonic() < end, "the run did not get there in time"
        time.sleep(0.005)


def logged(directory: Path, step: int):
    path = directory / "metrics.jsonl"
    return lambda: path.exists() and any(f'"step": {step},' in line for line in path.read_text().splitlines())


def kill(process: subprocess.Popen) -> None:
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL


def test_metrics_hold_every_log_interval_once(straight):
    _, found = straight
    assert [line["step"] for line in found] == [3, 6, 9, 12, 15, 18, 21, 24, 27, 30]
    assert found[-1]["loss"] < found[0]["loss"] / 2


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_run_stopped_by_a_signal_saves_and_resumes_bit_for_bit(number, tmp_path, straight):
    process = start(tmp_path, "--pause-s", "0.1")
    wait_until(process, logged(tmp_path, 9))
    process.send_signal(number)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 3, output
    stopped_at = saved_steps(tmp_path)[-1]
    assert 9 <= stopped_at < STEPS
    assert f"interrupted after step {stopped_at}; saved in {tmp_path / 'checkpoints'}" in output
    assert_same_run(tmp_path, resume_driver.run(tmp_path, STEPS), straight)


def kill_at_random_and_resume(directory: Path, straight, seed: int) -> None:
    process = start(directory, "--pause-s", "0.05")
    wait_until(process, logged(directory, 6))
    time.sleep(random.Random(seed).uniform(0.0, 0.5))
    kill(process)
    assert lines(directory)[-1]["step"] < STEPS  # it was killed on its way
    assert_same_run(directory, resume_driver.run(directory, STEPS), straight)


@pytest.mark.slow  # at the worst moment, between save and commit, it is killed below
@pytest.mark.parametrize("seed", range(13))
def test_run_killed_at_a_random_moment_resumes_bit_for_bit(seed, tmp_path, straight):
    kill_at_random_and_resume(tmp_path, straight, seed)


def test_run_killed_between_save_and_commit_resumes_from_the_save_before(tmp_path, straight):
    process = start(tmp_path, "--stall-commit", "12", "--pause-s", "0.02")
    # The loop runs on while the save hangs: the lines of steps 12 and 15 belong to the lost tail.
    wait_until(process, lambda: (tmp_path / "stalled").exists() and logged(tmp_path, 15)())
    kill(process)
    assert saved_steps(tmp_path) == [4, 8]
    assert any(path.name.startswith("12.") for path in (tmp_path / "checkpoints").iterdir())
    assert_same_run(tmp_path, resume_driver.run(tmp_path, STEPS), straight)


def test_second_ctrl_c_quits_at_once(tmp_path):
    process = start(tmp_path, "--pause-s", "60")
    wait_until(process, (tmp_path / "pausing").exists)
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    assert process.poll() is None  # the first one waits for the step, which pauses for a minute
    end = time.monotonic() + 30
    while process.poll() is None and time.monotonic() < end:
        process.send_signal(signal.SIGINT)  # on a busy machine two that come close together may count as one
        time.sleep(0.3)
    process.communicate(timeout=1)
    assert process.returncode == -signal.SIGINT
    assert saved_steps(tmp_path) == []


def test_run_on_8_devices_resumes_with_2(tmp_path, straight):
    interrupt = loop.Hook(13, lambda step, state: signal.raise_signal(signal.SIGTERM))
    with pytest.raises(loop.Interrupted, match="after step 13"):
        resume_driver.run(tmp_path, STEPS, devices=8, hooks=(interrupt,))
    state = resume_driver.run(tmp_path, STEPS, devices=2)
    expected_state, expected_lines = straight
    assert [line["tokens"] for line in lines(tmp_path)] == [line["tokens"] for line in expected_lines]
    # Gradients are sums over 8 rows of 4 tokens, in another order on every mesh, that may cancel to a tenth; an update
    # of Adam is as wrong as its gradient, relative to lr.
    for name in ("embed", "out"):
        np.testing.assert_allclose(
            state.params[name], expected_state.params[name], rtol=0, atol=STEPS * 1e-2 * rounding(32, size=10)
        )


def free_port() -> str:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return str(found.getsockname()[1])


@pytest.mark.slow
def test_signal_to_one_of_two_processes_stops_both_at_one_step(tmp_path, straight):
    shared = ("--processes", "2", "--port", free_port(), "--pause-s", "0.1")
    both = [start(tmp_path, *shared, "--process", str(i)) for i in range(2)]
    wait_until(both[0], logged(tmp_path, 9))
    both[1].send_signal(signal.SIGTERM)
    outputs = [process.communicate(timeout=120)[0] for process in both]
    stopped_at = saved_steps(tmp_path)[-1]
    assert 9 <= stopped_at < STEPS
    for process, output in zip(both, outputs, strict=True):
        assert process.returncode == 3, output
        assert f"interrupted after step {stopped_at};" in output
    assert "train 9/30" in outputs[0] and "train 9/30" not in outputs[1]
    again = ("--processes", "2", "--port", free_port())
    both = [start(tmp_path, *again, "--process", str(i)) for i in range(2)]
    for process in both:
        output, _ = process.communicate(timeout=120)
        assert process.returncode == 0, output
    _, expected_lines = straight
    assert [line["tokens"] for line in lines(tmp_path)] == [line["tokens"] for line in expected_lines]
    # Sums over the batch are taken in another order, as above; a loss is a square.
    expected_losses = [line["loss"] for line in expected_lines]
    np.testing.assert_allclose(
        [line["loss"] for line in lines(tmp_path)], expected_losses, rtol=2 * STEPS * 1e-2 * rounding(32, size=10)
    )
