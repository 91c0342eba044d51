"""Checkpoints: parameters alone, and whole training states with the position of the data.

A checkpoint counts once it is committed: it is written next to its final name and renamed, and only then is an older
one deleted. A save that was killed or ran out of disk leaves the last committed checkpoint as the one to resume from.
Then it is sealed: the checksums of its files are written beside them, and compared before it is read. Checkpoints
without a seal (of earlier versions, or killed between the two) are read as they are.
States are restored onto whatever mesh the abstract state names.
"""

import asyncio
import contextlib
import dataclasses
import errno
import json
import logging
import os
import shlex
import tempfile
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent import futures
from pathlib import Path

import jax
import numpy as np

from qstar import files
from qstar.models.definition import differences
from qstar.structs import TrainState
from qstar.training.sources import Position, Source
from qstar.typing import Params

SEAL = "checksums.json"  # in a checkpoint: of its other files
READERS = 4  # threads that compute checksums
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Damaged(ValueError):  # noqa: N818 (it is what is said)
    """A checkpoint whose files are not as they were written. `whole` is the newest step before it that is, or None."""

    def __init__(self, path: Path, what: str, way_out: str = "Put back a copy of it.", whole: int | None = None):
        self.path, self.what, self.whole = path, what, whole
        super().__init__(f"{path} is a damaged checkpoint: {what}. {way_out}")


class _Quiet(logging.Filter):
    """Drops orbax's log: a page on every step, and on a failed save a thousand lines before the exception it raises."""

    def filter(self, record: logging.LogRecord) -> bool:
        return "orbax" not in record.pathname


logging.getLogger("absl").addFilter(_Quiet())


def check_path(path: str | Path) -> None:
    """Raise ValueError for a place from which checkpoints could not be read again."""
    # Orbax looks for the files of a checkpoint by patterns, and these would be a part of the pattern.
    special = sorted(set("*?[") & set(str(Path(path).absolute())))
    if special:
        raise ValueError(
            f"{Path(path).absolute()}: checkpoints in a folder with {' '.join(special)} in its path cannot be read "
            "again: choose another folder"
        )


def save_params(path: str | Path, params: Params) -> None:
    """Write parameters alone. Raises ValueError when `path` already holds something."""
    from orbax.checkpoint import v1 as ocp

    check_path(path)
    path = Path(path).absolute()
    if path.exists():
        raise ValueError(f"{path} exists: parameters are saved to a new path")
    with files.explained(path):
        ocp.save_checkpointables(path, {"params": params})
    if jax.process_index() == 0:
        seal(path)


def load_params(path: str | Path, abstract: Params | None = None) -> Params:
    """Parameters written by `save_params`.

    Args:
        abstract: `jax.ShapeDtypeStruct`s with shardings to load onto; None gives numpy arrays.

    Raises:
        FileNotFoundError: nothing there.
        ValueError: damaged, or of another model than `abstract`.
    """
    from orbax.checkpoint import v1 as ocp

    path = Path(path).absolute()
    if not path.is_dir():
        raise FileNotFoundError(f"no parameters at {path}")
    _check_seal(path)
    metadata = _metadata(path, "params")
    if abstract is None:
        abstract = _as_numpy(metadata)
    else:
        _check(_shapes(abstract), _shapes(metadata), f"the parameters at {path}")
    with _reading(path):
        return ocp.load_checkpointables(path, {"params": abstract})["params"]


# --- checksums ----------------------------------------------------------------------------------------------------


def seal(path: Path) -> None:
    """Write the checksums of all files of a checkpoint into it."""
    names = [file.relative_to(path).as_posix() for file in _contents(path)]
    with futures.ThreadPoolExecutor(READERS) as pool:
        sums = list(pool.map(lambda name: files.checksum(path / name), names))
    sizes = [(path / name).stat().st_size for name in names]
    sealed = {name: {"bytes": size, "blake2b": sum} for name, size, sum in zip(names, sizes, sums, strict=True)}
    files.write_json(path / SEAL, sealed)


def damage(path: Path) -> str:
    """What is wrong with the files of a checkpoint; "" where they are as they were sealed, or were not."""
    if not (path / SEAL).is_file():
        return ""
    try:
        sealed = files.read_json(path / SEAL)
        expected = {name: (about["bytes"], about["blake2b"]) for name, about in sealed.items()}
    except (ValueError, KeyError, TypeError) as error:
        return f"{SEAL} cannot be read ({error!r})"
    with futures.ThreadPoolExecutor(READERS) as pool:
        faults = pool.map(lambda name: _fault(path / name, *expected[name]), expected)
        return next((f"{name} {fault}" for name, fault in zip(expected, faults, strict=True) if fault), "")


def _check_seal(path: Path) -> None:
    if fault := damage(path):
        raise Damaged(path, fault)


def _fault(file: Path, size: int, checksum: str) -> str:
    if not file.is_file():
        return "is missing"
    if file.stat().st_size != size:
        return f"has {file.stat().st_size} bytes, {size} were written"
    return "" if files.checksum(file) == checksum else "holds other bytes than were written"


def _contents(path: Path) -> list[Path]:
    return sorted(file for file in path.rglob("*") if file.is_file() and file != path / SEAL)


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    """What goes wrong with a checkpoint that has no seal, as Damaged."""
    try:
        yield
    # The array reader's own errors for damaged files are bare Exceptions, KeyErrors and ValueErrors.
    except Exception as error:
        if isinstance(error, Damaged) or (path / SEAL).is_file():
            raise
        what = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise Damaged(path, f"it cannot be read ({what[:200]})") from error


def params_shapes(path: str | Path) -> dict[str, tuple[int, ...]]:
    """Shape of every weight that `save_params` wrote, under its path; no weight is read. Raises as `load_params`."""
    path = Path(path).absolute()
    if not path.is_dir():
        raise FileNotFoundError(f"no parameters at {path}")
    return _shapes(_metadata(path, "params"))


class Checkpoints:
    """The checkpoints of one run. A context manager: leaving it waits for the save in flight.

    Args:
        directory: made when missing; holds one folder a step.
        every: `save` writes at multiples of this many steps (and when the machine announces its preemption).
        keep: number of newest checkpoints that are kept.
    """

    def __init__(self, directory: str | Path, every: int, keep: int):
        from orbax.checkpoint import v1 as ocp

        if every < 1 or keep < 1:
            raise ValueError(f"checkpoints: every = {every}, keep = {keep}: expected positive integers")
        check_path(directory)
        self.every = every
        self._directory = Path(directory).absolute()
        self._pending: futures.Future | None = None  # the save in flight, with its seal
        policies = ocp.training.save_decision_policies
        self._saver = ocp.training.Checkpointer(
            self._directory,
            save_decision_policy=policies.AnySavePolicy(
                [policies.FixedIntervalPolicy(every), policies.PreemptionCheckpointingPolicy()]
            ),
            preservation_policy=ocp.training.preservation_policies.LatestN(keep),
        )

        self._opened = os.open(self._directory, os.O_RDONLY)  # the folder itself, even if its name is reused

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_) -> None:
        try:
            self.wait()
        finally:
            self._saver.close()
            os.close(self._opened)

    @property
    def directory(self) -> Path:
        return self._directory

    @property
    def latest(self) -> int | None:
        """Step of the newest committed checkpoint, or None; waits for the save in flight."""
        self.wait()
        return self._committed()

    def wait(self) -> None:
        """Until the save in flight is committed and sealed. Raises OSError when the disk was full."""
        pending, self._pending = self._pending, None
        with self._explained():
            try:
                self._saver.wait()
            finally:
                if pending is not None:
                    pending.result()

    def save(self, step: int, state: TrainState, source: Source, force: bool = False) -> bool:
        """Begin to save if it is time (or `force`); True when a save was begun.

        The arrays and the source's position are copied before this returns, the disk is written afterwards. Raises
        OSError when the disk was full, at this save or at the one before; a step that is saved already is left alone.
        """
        if any(known.step == step for known in self._saver.checkpoints):
            return False
        if not (force or self._saver.should_save(step)):
            return False
        self.wait()
        with self._explained():
            self._probe()
            # Frozen weights never change: they are kept once, or read again from where they came.
            contents = {"state": state.replace(frozen=None), "data": _Kept(source.position())}
            begun = self._saver.save_checkpointables_async(step, contents, force=force)
        if begun is not None:
            self._pending = _aside(lambda: self._finish(step, begun.result))
        return begun is not None

    def _finish(self, step: int, committed: Callable[[], object]) -> None:
        committed()  # ends its thread, which would otherwise be left running after every save
        if jax.process_index() == 0:
            seal(self._directory / str(step))

    def restore(self, abstract_state: TrainState, source: Source, step: int | None = None) -> TrainState:
        """The state at `step` (default: latest) without frozen weights, and `source` moved to where it was.

        Args:
            abstract_state: tree of `jax.ShapeDtypeStruct` with the current shardings.

        Raises:
            FileNotFoundError: no such checkpoint.
            ValueError: it is of another model or optimiser (the differences are listed), its processes stood at
                different places of the data and were not as many as now.
            Damaged: it cannot be read, or is not what was written.
        """
        from orbax.checkpoint import v1 as ocp

        step = self._resolve(step)
        with self._reading(step) as path:
            _check_seal(path)
            position, metadata = _position(path), _metadata(path, "state")
        _check(_shapes(abstract_state), _shapes(metadata), f"step {step} of {self._directory}")
        # Asked for by name: what this state lacks may not have been a part of a state yet when it was saved.
        fields = [field.name for field in dataclasses.fields(abstract_state)]
        present = {name: getattr(abstract_state, name) for name in fields if getattr(abstract_state, name) is not None}
        context = ocp.Context()
        context.pytree.loading.partial_load = True
        with context, self._reading(step):
            loaded = self._saver.load_checkpointables(step, {"state": present})["state"]
        source.restore(position)
        return abstract_state.replace(**loaded)

    def load_params(self, step: int | None = None) -> Params:
        """The trained parameters to evaluate, as numpy arrays: their moving average where one was kept.

        Raises as `restore`.
        """
        from orbax.checkpoint import v1 as ocp

        step = self._resolve(step)
        with self._reading(step) as path:
            _check_seal(path)
            metadata = _metadata(path, "state")
        name = "ema" if metadata.get("ema") else "params"
        context = ocp.Context()
        context.pytree.loading.partial_load = True
        with context, self._reading(step):
            return self._saver.load_checkpointables(step, {"state": {name: _as_numpy(metadata[name])}})["state"][name]

    def load_optimizer(self, abstract_state: TrainState) -> tuple:
        """The newest state's optimizer, onto the places of the abstract one. Raises as `restore`."""
        from orbax.checkpoint import v1 as ocp

        step = self._resolve(None)
        metadata = _metadata(self._directory / str(step), "state")
        expected = abstract_state.opt_state
        _check(_shapes(expected), _shapes(metadata["opt_state"]), f"the optimizer at step {step} of {self._directory}")
        context = ocp.Context()
        context.pytree.loading.partial_load = True
        with context:
            return self._saver.load_checkpointables(step, {"state": {"opt_state": expected}})["state"]["opt_state"]

    def _resolve(self, step: int | None) -> int:
        latest = self.latest
        steps = [known.step for known in self._saver.checkpoints]
        if latest is None:
            raise FileNotFoundError(
                f"{self._directory} holds no committed checkpoint; is it the checkpoints folder of a run, and did the "
                "run get as far as its first save?"
            )
        if step is not None and step not in steps:
            raise FileNotFoundError(f"{self._directory} has no checkpoint of step {step}; there are {steps}")
        return latest if step is None else step

    @contextlib.contextmanager
    def _reading(self, step: int) -> Iterator[Path]:
        """Of a damaged checkpoint the way back to the newest one before it that is whole is said too."""
        path = self._directory / str(step)
        try:
            with _reading(path):
                yield path
        except Damaged as error:
            raise self._with_way_back(step, error.what) from error

    def _with_way_back(self, step: int, fault: str) -> Damaged:
        before = [known.step for known in self._saver.checkpoints if known.step < step]
        whole = next((number for number in reversed(before) if not damage(self._directory / str(number))), None)
        aside = [number for number in (*before, step) if whole is None or number > whole]
        then = "starts again" if whole is None else f"continues from step {whole}"
        return Damaged(
            self._directory / str(step),
            fault,
            f"Put back a copy of it, or put it aside, then a resumed run {then}:\n{self._put_aside(aside)}",
            whole,
        )

    def _put_aside(self, steps: Sequence[int]) -> str:
        """The command line that moves these checkpoints out of the way."""
        moves = []
        for step in steps:
            target = self._directory.parent / f"damaged_checkpoint_{step}"
            while target.exists():
                target = target.with_name(f"{target.name}_again")
            moves.append(shlex.join(["mv", str(self._directory / str(step)), str(target)]))
        return " && ".join(moves)

    def _probe(self) -> None:
        # A disk too full for one more folder leaves the saver waiting minutes for it; ask first.
        if self._is_gone():
            raise FileNotFoundError
        with tempfile.TemporaryFile(dir=self._directory) as file:
            file.write(bytes(65536))

    def _is_gone(self) -> bool:
        # A save in flight recreates its folder, with nothing of the run in it.
        return not self._directory.is_dir() or not os.path.samestat(self._directory.stat(), os.fstat(self._opened))

    def _committed(self) -> int | None:
        return self._saver.latest.step if self._saver.latest is not None else None

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """A full disk, or a folder that is gone, as an OSError that names the last good checkpoint."""
        try:
            yield
        except (OSError, ValueError) as error:
            if self._is_gone():
                raise FileNotFoundError(
                    errno.ENOENT,
                    f"cannot write a checkpoint: {self._directory} is not there; was it deleted or moved while the run "
                    "was running?",
                ) from error
            number = _refusal(error)
            if number is None:
                raise
            # What the saver believes after a failed save is not what is on disk.
            self._saver.reload()
            good = self._committed()
            kept = "no checkpoint has been committed" if good is None else f"the last good checkpoint is step {good}"
            raise OSError(
                number,
                f"{files.WAYS_OUT[number]}, or keep fewer checkpoints (keep=1), and resume: a checkpoint could not be "
                f"written to {self._directory}; {kept}",
            ) from error


def _refusal(error: Exception) -> int | None:
    """The system's number of what it refused: a full disk, a quota, a limit on the size of files; None for others."""
    # The array writer reports it as a ValueError of its own, with the system's number in the text.
    known = (number for number in FULL if f"os_error_code='{number}'" in str(error))
    number = getattr(error, "errno", None)
    return number if number in FULL else next(known, None)


def _aside(call: Callable[[], None]) -> futures.Future:
    """A call in a thread of its own."""
    pool = futures.ThreadPoolExecutor(1)
    future = pool.submit(call)
    pool.shutdown(wait=False)
    return future


class _Kept:
    """A position as orbax saves it: in a file of its process, among those of the others."""

    def __init__(self, position: Position):
        self._text = json.dumps(position, indent=4)

    async def save(self, directory) -> Coroutine[None, None, None]:
        return self._write(directory)

    async def _write(self, directory) -> None:
        file = await directory.await_creation() / _position_file(jax.process_index(), jax.process_count())
        await asyncio.to_thread(file.write_text, self._text)

    async def load(self, directory) -> Coroutine[None, None, None]:
        raise NotImplementedError(f"{directory}: positions are read without orbax")


def _position_file(process: int, count: int) -> str:
    return f"process_{process}-of-{count}.json"


def _position(path: Path) -> Position:
    """This process's position in the data. What another number of processes kept has to be one position.

    Raises Damaged where there is none.
    """
    kept = {file.name: _read_position(path, file) for file in sorted(path.glob("data/process_*-of-*.json"))}
    own = kept.get(_position_file(jax.process_index(), jax.process_count()))
    if own is not None:
        return own
    positions = list(kept.values())
    if not positions:
        raise Damaged(path, "it lacks the position of the data")
    if any(position != positions[0] for position in positions):
        raise ValueError(
            f"{path} was saved by {len(positions)} processes that stood at different places of the data, this run has "
            f"{jax.process_count()}; resume with {len(positions)} processes"
        )
    return positions[0]


def _read_position(path: Path, file: Path) -> Position:
    try:
        return files.read_json(file)
    except ValueError as error:
        raise Damaged(path, f"{file.relative_to(path)} cannot be read ({error})") from error


def _metadata(path: Path, name: str) -> dict:
    """Tree of shapes and types of one item. Raises ValueError when the files cannot be read."""
    from orbax.checkpoint import v1 as ocp

    try:
        metadata = ocp.checkpointables_metadata(path).metadata.get(name)
    except (ocp.errors.InvalidLayoutError, OSError, ValueError) as error:
        raise Damaged(path, f"it cannot be read, or is none ({error})") from error
    if metadata is None:
        raise Damaged(path, f"its {name!r} cannot be read")
    return metadata


def _shapes(tree) -> dict[str, tuple[int, ...]]:
    """Shape of every leaf under its path; a random key counts as the integers it is stored as."""

    def stored(leaf) -> tuple[int, ...]:
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.eval_shape(jax.random.key_data, leaf)
        return tuple(leaf.shape)

    flat = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): stored(leaf) for path, leaf in flat}


def _check(expected: dict, actual: dict, source: str) -> None:
    problems = differences(expected, actual)
    if problems:
        raise ValueError(
            f"{source}: not of this model and optimiser:\n  {problems}\n"
            "use the config it was saved under, or another directory"
        )


def _as_numpy(metadata: Params) -> Params:
    """A request for numpy arrays of these shapes, without their memory."""
    return jax.tree.map(lambda leaf: np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape), metadata)
