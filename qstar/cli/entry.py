"""What the console scripts share: a compile cache, memory that is kept, and errors that read as sentences."""

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from qstar import advice, files, paths
from qstar.cli import signals

EXPECTED = (ValueError, FileNotFoundError, ModuleNotFoundError, ConnectionError, OSError, FloatingPointError)


def prepare_jax() -> None:
    """Keep compiled programs between runs, in the cache folder unless JAX_COMPILATION_CACHE_DIR says otherwise.

    Freed memory is kept for the next step too; QSTAR_KEEP_MEMORY=0 leaves glibc as it is.
    """
    import jax

    from qstar.training import machine

    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", str(paths.cache_folder() / "jax"))
    machine.share_threads()
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)  # a start has dozens of small ones
    if os.environ.get("QSTAR_KEEP_MEMORY") != "0":
        machine.keep_freed_memory(True)


@dataclass
class Ending:
    """What is printed when a command ends early: how to go on, once there is something to go on from."""

    go_on: Callable[[], str] = lambda: ""


@contextlib.contextmanager
def errors() -> Iterator[Ending]:
    """Print an expected error as a message and exit with status 1; QSTAR_TRACEBACK=1 shows all of it.

    Ctrl-C exits with status 130, SIGTERM with 143. Where the command has told how to go on, that is printed after an
    interruption, and after what another attempt may fix (a full disk, a damaged checkpoint).
    """
    from qstar.training.checkpoint import Damaged
    from qstar.training.loop import Interrupted

    ending = Ending()
    try:
        with signals.advising(lambda: ending.go_on()):
            yield ending
    except Interrupted as stop:
        _leave(f"{stop}", ending.go_on() or _resume(stop.directory), signals.status(stop.signal))
    except KeyboardInterrupt:  # outside the training loop, where nothing is to be saved
        _leave("interrupted", ending.go_on(), signals.status(signal.SIGINT))
    except EXPECTED as error:
        if os.environ.get("QSTAR_TRACEBACK"):
            raise
        mendable = isinstance(error, Damaged) or getattr(error, "errno", None) in files.WAYS_OUT
        _leave(f"{type(error).__name__}: {error}", ending.go_on() if mendable else "", 1)


def _leave(text: str, advice: str, status: int) -> None:
    print("\n" + "\n".join(part for part in (text, advice) if part), file=sys.stderr)
    raise SystemExit(status) from None


def _resume(checkpoints: Path | None) -> str:
    """How to go on from a checkpoint directory, the control's included."""
    if checkpoints is None:
        return ""
    directory = checkpoints.parent
    return resume("qstar-train", directory.parent if directory.name == "control" else directory)


def resume(program: str, directory: Path) -> str:
    """The line that says how to go on with a run."""
    return f"Go on with  {advice.resume(program, directory)}"


@contextlib.contextmanager
def own_folder(node: DictConfig, directory: Path) -> Iterator[Path]:
    """The directory of a run; where it is named by the clock, one that no run begun in the same second has.

    Of several processes the first one makes it and tells the others.
    """
    from qstar import processes

    by_clock = "${now:" in str(OmegaConf.to_container(node, resolve=False).get("run_dir")) and not node.resume
    if not by_clock or not processes.first():
        yield Path(processes.agreed(str(directory)))
        return
    with files.fresh(directory) as made:
        yield Path(processes.agreed(str(made)))
