"""Many jobs: in processes that share the processors, and in processes of their own that print what they measured.

A job that is done has written something (a file, a line of a record) by which the next call skips it, so that a command
can be given again after an interruption.
"""

import contextlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

MARK = "measured: "
GRACE_S = 30  # from the request to stop until a process is ended: time for a checkpoint

Job = TypeVar("Job")


def nothing() -> None:
    """What a worker does first where nothing is said."""


def carry_out(
    work: Callable[[Job], str], jobs: Sequence[Job], workers: int, begin: Callable[[], None] = nothing
) -> None:
    """Every job, in this process (`workers` 1) or in several, each with its share of the processors.

    What `work` returns is printed as it comes. `begin` is called once in every process before its first job. What a job
    raises is raised here.
    """
    if workers == 1:
        begin()
        for number, job in enumerate(jobs, start=1):
            print(f"[{number}/{len(jobs)}] {work(job)}", flush=True)
        return
    context = multiprocessing.get_context("spawn")
    shares = context.Queue()
    for share in shares_of_processors(workers):
        shares.put(share)
    with ProcessPoolExecutor(workers, context, _begin, (shares, begin)) as pool:
        for number, done in enumerate(as_completed([pool.submit(work, job) for job in jobs]), start=1):
            print(f"[{number}/{len(jobs)}] {done.result()}", flush=True)


def shares_of_processors(workers: int) -> list[list[int]]:
    """The processors of every worker: shared out, at least one for each worker."""
    processors = sorted(os.sched_getaffinity(0))
    return [processors[first::workers] or processors for first in range(workers)]


def _begin(shares: multiprocessing.Queue, begin: Callable[[], None]) -> None:
    # Before JAX counts the processors: two workers with two threads each on two of them take longer than one. Processes
    # that a worker starts have its share as well.
    os.sched_setaffinity(0, shares.get())
    begin()


def call(arguments: Sequence[str], log: Path) -> None:
    """Run python with these arguments, its output at the end of a file. Raises CalledProcessError."""
    print("python " + " ".join(arguments), flush=True)
    with log.open("a", encoding="utf-8") as stream:
        subprocess.run([sys.executable, *arguments], stdout=stream, stderr=stream, check=True)


# --- measurements -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Measured:
    """The outcome of a process that measures."""

    status: str  # done, failed, too slow
    seconds: float
    result: dict  # empty unless done
    error: str = ""  # the end of what it printed


def say(record: Mapping) -> None:
    """What was measured, for the process that started this one."""
    print(f"\n{MARK}{json.dumps(record)}", flush=True)


def said(text: str) -> dict | None:
    """The last record that a process printed; None where it printed none."""
    marked = [line for line in text.splitlines() if line.startswith(MARK)]
    return json.loads(marked[-1].removeprefix(MARK)) if marked else None


def measured(command: Sequence[str], environment: Mapping[str, str], log: Path, limit_s: float) -> Measured:
    """Run a command that prints what it measured, its output in a file; after the limit it is stopped."""
    started, status, code = time.monotonic(), "done", 0
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w", encoding="utf-8") as stream:
        process = subprocess.Popen(
            command, stdout=stream, stderr=stream, env=os.environ | environment, start_new_session=True
        )
        try:
            code = process.wait(limit_s)
        except subprocess.TimeoutExpired:
            status = "too slow"
            _stop(process)
    text = log.read_text(encoding="utf-8", errors="replace")
    record = None if code else said(text[: text.rfind("\n") + 1])  # a last line may be torn
    if record is not None:
        status = "done"  # also if it had not ended yet: what was measured stands
    elif status == "done":
        status = "failed"
    error = "" if status == "done" else " | ".join(text.strip().splitlines()[-3:])[-600:]
    return Measured(status, round(time.monotonic() - started, 1), record if status == "done" else {}, error)


def _stop(process: subprocess.Popen) -> None:
    """Ask a process and those that it started to stop, and end what is still there after the grace."""
    os.killpg(process.pid, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(GRACE_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
