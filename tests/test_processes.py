"""Several processes are one run: what a command does in two is what it does in one."""

import dataclasses
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import jax
import pytest
import tiny
import tolerances
from compiling import xla_flags
from small_runs import MODEL, RUN, lines

from qstar import files, processes
from qstar.data.rationales import Store
from qstar.evals import journal
from qstar.runs import label, solve

ROOT = Path(__file__).parent.parent
DEVICES = 4
SETTINGS = (
    *MODEL,
    *RUN,
    "mesh=fsdp",
    "control=false",
    "optim.warmup_steps=0",
    "log_every=1",
    "save_every=1",
    "sample_every=0",
    "eval.items=2",
    "peak_tflops=1",
    "run_dir=run",
)
# Six steps of one layer in float32; gradients, sums over batch and text, may cancel to a hundredth.
BOUND = tolerances.trained(dataclasses.replace(tiny.LM, layers=1), 6, lr=0.01, update=tolerances.rounding(100))


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def start(command: str, folder: Path, count: int, *overrides: str, devices: int = 1) -> list[subprocess.Popen]:
    """`qstar-COMMAND` in so many processes, each with so many devices."""
    folder.mkdir(exist_ok=True)
    shared = os.environ | {
        "PYTHONPATH": str(ROOT),
        "JAX_NUM_CPU_DEVICES": str(devices),
        "JAX_COMPILATION_CACHE_DIR": str(folder.parent / "cache"),
        "XLA_FLAGS": xla_flags(),
    }
    if count > 1:
        shared |= {"JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{free_port()}", "JAX_NUM_PROCESSES": str(count)}
    return [
        subprocess.Popen(
            [sys.executable, "-c", f"from qstar.cli import scripts; scripts.{command}()", *overrides],
            cwd=folder,
            env=shared | ({"JAX_PROCESS_ID": str(index)} if count > 1 else {}),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for index in range(count)
    ]


def ended(started: list[subprocess.Popen], code: int = 0) -> list[str]:
    """What each of them printed; all end with this code."""
    outputs = [process.communicate(timeout=900)[0] for process in started]
    assert [process.returncode for process in started] == [code] * len(started), "\n".join(outputs)
    return outputs


def killed(started: list[subprocess.Popen], there: Callable[[], bool]) -> None:
    """Kill them, the last one first, as soon as something is there."""
    while not there():
        assert all(process.poll() is None for process in started), started[-1].communicate()[0]
        time.sleep(0.002)
    for process in reversed(started):
        process.kill()
    ended(started, -signal.SIGKILL)


def train(folder: Path, count: int, *overrides: str) -> list[str]:
    """`qstar-train` in so many processes, which share four devices; gives what each of them prints."""
    return ended(start("train", folder, count, *overrides, devices=DEVICES // count))


def assert_close(found: list[dict], wanted: list[dict]) -> None:
    """Lines that agree but for sums taken in another order."""
    assert [line.keys() for line in found] == [line.keys() for line in wanted]
    for one, other in zip(found, wanted, strict=True):
        assert one == pytest.approx(other, rel=BOUND, abs=BOUND)


@pytest.mark.slow
def test_two_processes_equal_one_and_go_on_from_each_others_checkpoints(tmp_path):
    straight, shared = tmp_path / "straight", tmp_path / "shared"
    train(straight, 1, *SETTINGS, "steps=6")
    outputs = train(shared, 2, *SETTINGS, "steps=2")
    said = ["\n".join(line for line in output.splitlines() if "[Gloo]" not in line) for output in outputs]
    assert "Held-out answers" in said[0] and said[1] == ""  # the first one alone speaks
    wanted = lines(straight / "run" / "metrics.jsonl")
    losses = [line["loss"] for line in wanted if line["step"]]
    assert len(set(losses)) == 6
    assert_close(lines(shared / "run" / "metrics.jsonl")[:2], wanted[:2])
    for count, steps in ((1, 4), (2, 6)):  # what two wrote is read by one, and what one wrote by two
        train(shared, count, "resume=run", f"steps={steps}")
        assert (shared / "run" / "checkpoints" / str(steps)).is_dir()
    found = lines(shared / "run" / "metrics.jsonl")
    assert [line["step"] for line in found] == [1, 2, 3, 4, 5, 6]
    assert [line["loss"] for line in found] == pytest.approx(losses, rel=BOUND)
    evaluated = [line["step"] for line in lines(shared / "run" / "evals.jsonl")]
    assert evaluated == sorted(evaluated) and evaluated.count(0) == 2 and evaluated.count(6) == 2


# --- questions are divided ----------------------------------------------------------------------------------------

SOLVE = (
    "search=beam",
    "search.n=4",
    "search.m=2",
    "scorer=[oracle,logprob]",
    "step_tokens=2",
    "task.min_moves=6",
    "task.max_moves=6",
    "questions=24",
    "sample_batch=1",
)


LABEL = ("problems=24", "batch=1", "samples=2", "task.train=24", "task.max_moves=6", "rows=8", "label.k=2")


def straight_and_resumed(command: str, settings: tuple[str, ...], parts: str, tmp_path: Path) -> tuple[Path, Path]:
    """Run directories of one process, and of two that are killed, one that is killed, and two."""
    folder, alone = tmp_path / "shared", start(command, tmp_path / "straight", 1, *settings, "run_dir=run")
    count = lambda: len(list((folder / "run" / parts).glob("*batch*")))  # noqa: E731
    killed(start(command, folder, 2, *settings, "run_dir=run"), lambda: count() > 2)
    begun = count()
    killed(start(command, folder, 1, "resume=run"), lambda: count() > begun + 2)
    assert count() < 24
    ended(start(command, folder, 2, "resume=run"))
    ended(alone)
    return tmp_path / "straight" / "run", folder / "run"


@pytest.mark.slow
def test_a_search_in_two_processes_stopped_and_resumed_has_the_rows_of_one(tmp_path):
    straight, resumed = straight_and_resumed("solve", SOLVE, solve.FOLDER, tmp_path)
    expected, rows = (Store.open(run / solve.FOLDER).rows() for run in (straight, resumed))
    assert rows.equals(expected)
    assert {line["batch"] for line in solve.batches(resumed)} == set(range(24))
    of_the_second = lines(resumed / "batches_1.jsonl")
    assert of_the_second and all(line["batch"] % 2 == 1 for line in of_the_second)


@pytest.mark.slow
def test_labels_of_two_processes_stopped_and_resumed_are_those_of_one(tmp_path):
    straight, resumed = straight_and_resumed("label", LABEL, label.BATCHES, tmp_path)
    for name in (label.LABELS, label.TRL, label.SUMMARY):
        assert (resumed / name).read_bytes() == (straight / name).read_bytes()


@pytest.mark.slow
def test_evaluations_of_two_processes_stopped_and_resumed_are_those_of_one(tmp_path):
    evaluate = ("run=none", "eval.items=24", "eval.batch_size=1", "out=run")
    folder, alone = tmp_path / "shared", start("evaluate", tmp_path / "straight", 1, *evaluate)
    started = start("evaluate", folder, 2, *evaluate)
    journals = [folder / "run" / "step_0" / name for name in ("cups.jsonl", "cups.1.jsonl")]
    killed(started, lambda: sum(len(files.lines(file, journal.KIND)) for file in journals) > 4)
    assert not (folder / "run" / "step_0" / "cups.parquet").exists() and journals[1].is_file()
    ended(start("evaluate", folder, 2, *evaluate))
    ended(alone)
    straight, resumed = tmp_path / "straight" / "run", folder / "run"
    assert journal.load(resumed)["cups"].equals(journal.load(straight)["cups"])
    assert (resumed / "summary.md").read_bytes() == (straight / "summary.md").read_bytes()
    assert not journals[0].exists() and not journals[1].exists()


IMPROVE = (
    "experiments=star/sums",
    "task.digits=[1]",
    "task.train=64",
    "task.dev=4",
    "improve.problems=24",
    "improve.steps=2",
    "improve.iterations=1",
    "sample_batch=2",
    "batch_size=4",
    "length=64",
    "wrong_hints=4",
    "optim.warmup_steps=0",
    "run_dir=run",
)


@pytest.mark.slow
def test_self_training_in_two_processes_goes_on_in_one_and_the_other_way_round(tmp_path):
    """A process for each of two devices, or one for both."""
    folder, alone = tmp_path / "shared", start("improve", tmp_path / "straight", 1, *IMPROVE, "mesh=data", devices=2)
    count = lambda: len(list((folder / "run" / "rationales").glob("*batch*")))  # noqa: E731
    killed(start("improve", folder, 2, *IMPROVE, "mesh=data"), lambda: count() > 2)
    begun = count()
    killed(start("improve", folder, 1, "resume=run", devices=2), lambda: count() > begun + 2)
    assert count() < 12
    ended(start("improve", folder, 2, "resume=run"))
    ended(alone)
    straight, resumed = tmp_path / "straight" / "run", folder / "run"
    exact = ["iteration", "batch", "problem", "hint", "tokens", "answer", "correct", "stored", "checkpoint"]
    for store in ("rationales", "wrong_hints"):
        expected, rows = (Store.open(run / store).rows(columns=exact) for run in (straight, resumed))
        assert rows.num_rows and rows.equals(expected)
    expected, results = (lines(run / "iterations.jsonl") for run in (straight, resumed))
    assert [line.pop("iteration") for line in results] == [0, 1]
    for line, other in zip(results, expected, strict=True):
        assert line["ledger"] == other["ledger"] and line["accuracy"] == other["accuracy"]
        assert line.get("nll", 0) == pytest.approx(other.get("nll", 0), rel=BOUND)


@pytest.mark.slow
def test_an_error_in_one_process_ends_the_others_with_its_message(tmp_path):
    (tmp_path / "shared" / "run" / "batches_1.jsonl").mkdir(parents=True)
    first, second = ended(start("solve", tmp_path / "shared", 2, *SOLVE, "run_dir=run"), 1)
    assert "process 1 of 2: IsADirectoryError" in first and "batches_1.jsonl" in first
    assert "batches_1.jsonl" in second and "Traceback" not in first + second


@pytest.mark.slow
@pytest.mark.parametrize("which", [0, 1])
def test_a_signal_to_one_process_of_a_search_ends_the_other_too(which, tmp_path):
    started = start("solve", tmp_path / "shared", 2, *SOLVE[:-2], "questions=2000", "sample_batch=1", "run_dir=run")
    while not list((tmp_path / "shared" / "run").glob("batches_*")):
        assert all(process.poll() is None for process in started), started[-1].communicate()[0]
        time.sleep(0.01)
    started[which].send_signal(signal.SIGTERM)
    began = time.monotonic()
    outputs = [process.communicate(timeout=900)[0] for process in started]
    assert time.monotonic() - began < 60
    assert started[which].returncode == 143 and "stopped by SIGTERM" in outputs[which], "\n".join(outputs)
    assert started[1 - which].returncode not in (0, 143)


@pytest.mark.slow
def test_an_error_in_the_first_process_of_a_training_ends_those_that_wait_for_it(tmp_path):
    (tmp_path / "shared" / "run" / "samples.jsonl").mkdir(parents=True)
    first, second = ended(start("train", tmp_path / "shared", 2, *SETTINGS, "sample_every=2", "steps=1000000"), 1)
    assert "\nIsADirectoryError" in first and "samples.jsonl" in first
    assert "\nFailed: process 0 of 2: IsADirectoryError" in second and "Traceback" not in first + second


@pytest.mark.slow
def test_a_disk_that_is_full_for_one_process_of_a_training_ends_all_of_them_soon(tmp_path):
    """jax would let the first one wait in a step for five minutes."""
    started = start("train", tmp_path / "shared", 2, *SETTINGS, "steps=1000000")
    saved = tmp_path / "shared" / "run" / "checkpoints" / "2"
    while not saved.is_dir():
        assert all(process.poll() is None for process in started), started[-1].communicate()[0]
        time.sleep(0.01)
    resource.prlimit(started[1].pid, resource.RLIMIT_FSIZE, (100, 100))
    began = time.monotonic()
    first, second = ended(started, 1)
    assert time.monotonic() - began < 60
    assert "\nFailed: process 1 of 2: OSError" in first and "\nOSError" in second
    assert "Traceback" not in first + second


@pytest.mark.slow
def test_a_mesh_without_devices_of_every_process_is_refused_before_anything_is_sampled(tmp_path):
    for said in ended(start("improve", tmp_path / "shared", 2, *IMPROVE, "mesh=single"), 1):
        assert "mesh (data, fsdp, tensor) = (1, 1, 1) is of 1 of 2 devices" in said
    assert not (tmp_path / "shared" / "run").exists()


# --- who is told to join ------------------------------------------------------------------------------------------


@pytest.fixture
def initialized(monkeypatch):
    """The arguments of every call of jax.distributed.initialize, which does nothing here."""
    calls = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *arguments: calls.append(arguments))
    for name in ("QSTAR_DISTRIBUTED", *processes.EXPLICIT, *processes.COUNTED):
        monkeypatch.delenv(name, raising=False)
    return calls


@pytest.mark.parametrize(
    ("environment", "wanted"),
    [
        ({}, []),
        ({"SLURM_STEP_NUM_TASKS": "1"}, []),
        ({"SLURM_STEP_NUM_TASKS": "16"}, [()]),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, [()]),
        ({"SLURM_STEP_NUM_TASKS": "16", "QSTAR_DISTRIBUTED": "0"}, []),
        ({"QSTAR_DISTRIBUTED": "1"}, [()]),
        (
            {"JAX_COORDINATOR_ADDRESS": "first:1234", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "1"},
            [("first:1234", 2, 1)],
        ),
    ],
)
def test_processes_that_were_started_together_find_each_other(environment, wanted, initialized, monkeypatch):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    processes.join()
    assert initialized == wanted


def test_half_an_address_and_unknown_words_are_errors(initialized, monkeypatch):
    monkeypatch.setenv("JAX_NUM_PROCESSES", "2")
    with pytest.raises(ValueError, match="JAX_NUM_PROCESSES without JAX_COORDINATOR_ADDRESS, JAX_PROCESS_ID: give all"):
        processes.join()
    monkeypatch.setenv("QSTAR_DISTRIBUTED", "yes")
    with pytest.raises(ValueError, match="QSTAR_DISTRIBUTED=yes"):
        processes.join()
    assert initialized == []
