"""First minutes: importing, `--help` of every command, and the bundled main job from the command to its first step.

    python experiments/benchmarks/startup.py [--repeats 5] [--only import help step]

Every line is a process of its own, started again for each repeat; the lines take turns. Printed: median and range of
the wall time, and the median of the processor time of the process and its children. A first step is there when its
line is in metrics.jsonl, evaluation before training included; `compiled` is a second start, with the programs that
the first one left in the compile cache.
"""

import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.table import Table

from qstar.cli import flags
from qstar.reports import tables
from qstar.training import trial

COMMANDS = ("train", "improve", "evaluate", "compare", "think", "prepare")
POLL_S = 0.02
LIMIT_S = 600.0

Timed = tuple[float, float]  # wall and processor seconds


def script(command: str, *arguments: str) -> tuple[str, ...]:
    """What the interpreter is given by the console script of this command, installed or not."""
    return ("-c", f"from qstar.cli.scripts import {command}; {command}()", *arguments)


def python(*arguments: str) -> Timed:
    """A whole process."""
    return _finished(_started(arguments, {}), time.perf_counter())


def first_step(cache: Path) -> Timed:
    """The main job until its first step is logged, with programs kept under `cache`."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "run" / "metrics.jsonl"
        start = time.perf_counter()
        arguments = script("train", f"run_dir={log.parent}")
        process = _started(arguments, {"JAX_COMPILATION_CACHE_DIR": str(cache)})
        while not (log.is_file() and log.read_text(encoding="utf-8").count("\n")):
            if process.poll() is not None or time.perf_counter() - start > LIMIT_S:
                process.kill()
                raise RuntimeError(f"the main job ended, or took over {LIMIT_S:.0f} s, before its first step")
            time.sleep(POLL_S)
        wall = time.perf_counter() - start
        process.send_signal(signal.SIGKILL)
        return wall, _finished(process, start, killed=True)[1]


def _started(arguments: tuple[str, ...], environment: dict[str, str]) -> subprocess.Popen:
    quiet = subprocess.DEVNULL
    return subprocess.Popen([sys.executable, *arguments], env=os.environ | environment, stdout=quiet, stderr=quiet)


def _finished(process: subprocess.Popen, start: float, killed: bool = False) -> Timed:
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode and not killed:
        raise RuntimeError(f"{process.args} left with status {process.returncode}")
    return time.perf_counter() - start, used.ru_utime + used.ru_stime


def measurements(caches: Path) -> dict[str, dict[str, Callable[[int], Timed]]]:
    """What is measured, by kind and name, as functions of the number of the repeat."""
    return {
        "import": {
            f"import {module}": lambda _, module=module: python("-c", f"import {module}")
            for module in ("jax", "qstar.config", "qstar.train")
        },
        "help": {
            f"qstar-{command} --help": lambda _, command=command: python(*script(command, "--help"))
            for command in COMMANDS
        },
        "step": {
            "qstar-train: first step, nothing compiled": lambda repeat: first_step(caches / str(repeat)),
            "qstar-train: first step, compiled": lambda repeat: first_step(caches / str(repeat)),
        },
    }


def table(taken: dict[str, list[Timed]]) -> Table:
    times = {name: list(zip(*each, strict=True)) for name, each in taken.items()}
    rows = [
        (name, *tables.median_and_spread(wall, ".2f"), f"{statistics.median(used):.2f}")
        for name, (wall, used) in times.items()
    ]
    return tables.screen(("what", "wall s", "range", "processor s"), rows, title="First minutes")


def main() -> None:
    options = flags.parser(__doc__)
    options.add_argument("--repeats", type=int, default=5)
    options.add_argument("--only", nargs="+", choices=("import", "help", "step"), default=("import", "help", "step"))
    args = options.parse_args()
    with tempfile.TemporaryDirectory() as caches:
        kinds = measurements(Path(caches))
        chosen = {name: measure for kind in args.only for name, measure in kinds[kind].items()}
        taken = trial.in_turns(chosen, args.repeats)
    Console().print(table(taken))


if __name__ == "__main__":
    main()
