"""What the console scripts share: the frame of a command and of a run, a compile cache, errors as messages."""

import contextlib
import dataclasses
import functools
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from qstar import advice, files, overrides, paths
from qstar import config as configs
from qstar.cli import manual
from qstar.config import C
from qstar.training import signals

if TYPE_CHECKING:  # a command imports the code of its runs late, so that --help answers at once
    from qstar.runs.kinds import Kind

OUT_OF_MEMORY = "RESOURCE_EXHAUSTED"  # in the RuntimeErrors of jax
MEMORY_WAYS_OUT = (
    "lower the rows of a batch (batch_size, sample_batch, rows), what is sampled for a question (search.n, "
    "improve.samples, label.k), or the length of a text; or spread the model over more devices with mesh="
)
EXPECTED = (ValueError, FileNotFoundError, ModuleNotFoundError, ConnectionError, OSError, FloatingPointError)


def command(
    name: str, alone: Sequence[str] = (), after: Callable[[], None] = lambda: None
) -> Callable[[Callable[[DictConfig], None]], Callable[[], None]]:
    """Decorates what qstar-NAME does with its configuration, `configs/NAME.yaml`; gives its `main`.

    Args:
        alone: the arguments of the command where it is given none.
        after: called at the end, after all jobs of a sweep.
    """
    configs.register()

    def decorated(body: Callable[[DictConfig], None]) -> Callable[[], None]:
        composed = hydra.main(version_base="1.3", config_path=paths.CONFIGS, config_name=name)(body)

        @functools.wraps(body)
        def main() -> None:
            if manual.asked(sys.argv[1:]):
                manual.show(name, sys.argv[1:])
                return
            if alone and not sys.argv[1:]:
                same = advice.command(f"qstar-{name}", *alone)
                print(f"without arguments, the same as: {same}", file=sys.stderr, flush=True)
                sys.argv += alone
            overrides.run(name, composed)
            after()

        return main

    return decorated


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
    """What is printed when a command ends early: how to resume, once there is something to resume from."""

    go_on: Callable[[], str] = lambda: ""


@contextlib.contextmanager
def errors() -> Iterator[Ending]:
    """Print an expected error as a message and exit with status 1; QSTAR_TRACEBACK=1 shows all of it.

    Ctrl-C exits with status 130, SIGTERM with 143. If the command has said how to resume, that is printed after an
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
    except RuntimeError as error:
        if OUT_OF_MEMORY not in str(error) or os.environ.get("QSTAR_TRACEBACK"):
            raise
        _leave(f"out of memory ({str(error).splitlines()[0]}): {MEMORY_WAYS_OUT}", "", 1)


@contextlib.contextmanager
def shared_errors() -> Iterator[Ending]:
    """`errors` of a command that several processes may carry out, of which this becomes one: one's error ends all."""
    from qstar import processes

    with errors() as ending:
        processes.join()
        with processes.watched():
            yield ending


def _leave(text: str, advice: str, status: int) -> None:
    print("\n" + "\n".join(part for part in (text, advice) if part), file=sys.stderr)
    raise SystemExit(status) from None


def _resume(checkpoints: Path | None) -> str:
    """How to resume from a checkpoint directory, also the control's."""
    if checkpoints is None:
        return ""
    directory = checkpoints.parent
    return resume("qstar-train", directory.parent if directory.name == "control" else directory)


def resume(program: str, directory: Path) -> str:
    """The line that says how to resume a run."""
    return f"Resume with  {advice.resume(program, directory)}"


# --- runs ---------------------------------------------------------------------------------------------------------


def in_a_sweep() -> bool:
    return HydraConfig.get().mode == RunMode.MULTIRUN


@contextlib.contextmanager
def run(kind: "Kind[C]", node: DictConfig) -> Iterator[tuple[C, Path]]:
    """The configuration and directory of a new run, or of the one to resume, with `shared_errors` around its work."""
    with shared_errors() as ending:
        job = HydraConfig.get()
        if in_a_sweep():  # the jobs of a sweep share a second, so a directory by time would clash
            node.run_dir = os.path.relpath(job.runtime.output_dir)
        cfg, directory = chosen(kind, node, job.overrides.task)
        prepare_jax()
        with own_folder(node, directory) as own:
            ending.go_on = lambda: resume(f"qstar-{kind.command}", own) if kind.is_at(own) else ""
            yield cfg if own == directory else dataclasses.replace(cfg, run_dir=str(own)), own


def chosen(kind: "Kind[C]", node: DictConfig, given: Sequence[str], key: str = "resume") -> tuple[C, Path]:
    """The configuration and directory of a new run, or of the stored one that `key` names, with overridden values.

    A stored run keeps its choices from configuration groups, but for those in `kind.groups`.

    Raises FileNotFoundError where `key` names no run of this kind, ValueError for any other choice from a group.
    """
    if not node[key]:
        cfg = configs.build(node)
        return cfg, Path(cfg.run_dir)
    directory = kind.latest() if node[key] == "latest" else Path(node[key])
    kind.check(directory, f"{key}={node[key]}")
    given = [override for override in given if _name(override) not in (key, "run_dir")]
    choices = [override for override in given if _name(override) in (*configs.SCHEMAS, "experiments")]
    refused = [override for override in choices if _name(override) not in kind.groups]
    if refused:
        raise ValueError(
            f"{', '.join(refused)} with {key}: a run keeps its own configuration; override single values as in "
            f"seed=1, or start a new run without {key}"
        )
    groups = {_name(override) for override in choices}
    values = [override for override in given if _name(override).partition(".")[0] not in groups]
    cfg = configs.load(directory / kind.file, values, kind.schema)
    again = {group: configs.build(node[group], f"{group}.") for group in groups}  # the rest may lack values
    return dataclasses.replace(cfg, **again, **{key: str(directory)}), directory


def _name(override: str) -> str:
    """The group or the dotted setting of `key=value`, `+key=value` or `~key`."""
    return override.partition("=")[0].lstrip("+~")


@contextlib.contextmanager
def own_folder(node: DictConfig, directory: Path) -> Iterator[Path]:
    """The directory of a run; where it is named by the clock, one that no other run started in the same second has.

    Of several processes the first one makes it and tells the others.
    """
    from qstar import processes

    by_clock = "${now:" in str(OmegaConf.to_container(node, resolve=False).get("run_dir")) and not node.resume
    if not by_clock or not processes.first():
        yield Path(processes.agreed(str(directory)))
        return
    with files.fresh(directory) as made:
        yield Path(processes.agreed(str(made)))
