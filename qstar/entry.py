"""What the console scripts share: a compile cache, memory that is kept, and errors that read as sentences."""

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from qstar import paths

EXPECTED = (ValueError, FileNotFoundError, ModuleNotFoundError, ConnectionError, OSError, FloatingPointError)


def prepare_jax() -> None:
    """Keep compiled programs between runs, in the cache folder unless JAX_COMPILATION_CACHE_DIR says otherwise.

    Freed memory is kept for the next step too; QSTAR_KEEP_MEMORY=0 leaves glibc as it is.
    """
    import jax

    from qstar.training import machine

    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", str(paths.cache_folder() / "jax"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)  # a start has dozens of small ones
    if os.environ.get("QSTAR_KEEP_MEMORY") != "0":
        machine.keep_freed_memory(True)


@contextlib.contextmanager
def errors() -> Iterator[None]:
    """Print an expected error as a message and leave with status 1 (130 after Ctrl-C); QSTAR_TRACEBACK=1 shows all."""
    from qstar.training.loop import Interrupted

    try:
        yield
    except Interrupted as stop:
        print(f"\n{stop}\nGo on with  qstar-train resume={_run(stop.directory)}", file=sys.stderr)
        raise SystemExit(130) from None
    except KeyboardInterrupt:  # outside the training loop, where nothing is to be saved
        print("\ninterrupted", file=sys.stderr)
        raise SystemExit(130) from None
    except EXPECTED as error:
        if os.environ.get("QSTAR_TRACEBACK"):
            raise
        print(f"\n{type(error).__name__}: {error}", file=sys.stderr)
        raise SystemExit(1) from None


def _run(checkpoints: Path | None) -> Path | None:
    """The run directory of a checkpoint directory, the control's included."""
    if checkpoints is None:
        return None
    directory = checkpoints.parent
    return directory.parent if directory.name == "control" else directory
