"""Checkpoints: parameters alone, and whole training states with the position of the data.

A checkpoint counts once it is committed: it is written beside its final name and renamed, and only then is an older
one deleted. A save that was killed or ran out of disk leaves the last committed checkpoint as the one to resume from.
States are restored onto whatever mesh the abstract state names.
"""

import contextlib
import dataclasses
import errno
import json
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import numpy as np

from qstar.models.definition import differences
from qstar.structs import TrainState
from qstar.typing import Params

if TYPE_CHECKING:  # orbax and grain take a second to import: they are, where a checkpoint is read or written
    import grain


class _Quiet(logging.Filter):
    """Drops orbax's log: a page on every step, and on a failed save a thousand lines before the exception it raises."""

    def filter(self, record: logging.LogRecord) -> bool:
        return "orbax" not in record.pathname


logging.getLogger("absl").addFilter(_Quiet())


def save_params(path: str | Path, params: Params) -> None:
    """Write parameters alone. Raises ValueError when `path` already holds something."""
    from orbax.checkpoint import v1 as ocp

    path = Path(path).absolute()
    if path.exists():
        raise ValueError(f"{path} exists: parameters are saved to a new path")
    ocp.save_checkpointables(path, {"params": params})


def load_params(path: str | Path, abstract: Params | None = None) -> Params:
    """Parameters written by `save_params`.

    Args:
        abstract: `jax.ShapeDtypeStruct`s with shardings to load onto; None gives numpy arrays.

    Raises:
        FileNotFoundError: nothing there.
        ValueError: unreadable, or of another model than `abstract`.
    """
    from orbax.checkpoint import v1 as ocp

    path = Path(path).absolute()
    if not path.is_dir():
        raise FileNotFoundError(f"no parameters at {path}")
    found = _metadata(path, "params")
    if abstract is None:
        abstract = _as_numpy(found)
    else:
        _check(_shapes(abstract), _shapes(found), f"the parameters at {path}")
    return ocp.load_checkpointables(path, {"params": abstract})["params"]


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
            raise ValueError(f"checkpoints: every = {every}, keep = {keep}: positive integers are wanted")
        self.every = every
        self._directory = Path(directory).absolute()
        self._pending = None  # the save in flight
        policies = ocp.training.save_decision_policies
        self._saver = ocp.training.Checkpointer(
            self._directory,
            save_decision_policy=policies.AnySavePolicy(
                [policies.FixedIntervalPolicy(every), policies.PreemptionCheckpointingPolicy()]
            ),
            preservation_policy=ocp.training.preservation_policies.LatestN(keep),
        )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_) -> None:
        try:
            self.wait()
        finally:
            self._saver.close()

    @property
    def directory(self) -> Path:
        return self._directory

    @property
    def latest(self) -> int | None:
        """Step of the newest committed checkpoint, or None; waits for the save in flight."""
        self.wait()
        return self._committed()

    def wait(self) -> None:
        """Until the save in flight is committed. Raises OSError when the disk was full."""
        pending, self._pending = self._pending, None
        with self._explained():
            try:
                self._saver.wait()
            finally:
                if pending is not None:
                    pending.result()  # ends the thread it came with: one would stay behind for every save

    def save(self, step: int, state: TrainState, iterator: "grain.DatasetIterator", force: bool = False) -> bool:
        """Begin to save if it is time (or `force`); True when a save was begun.

        The arrays and the iterator's position are copied before this returns, the disk is written afterwards. Raises
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
            contents = {"state": state.replace(frozen=None), "data": iterator}
            self._pending = self._saver.save_checkpointables_async(step, contents, force=force)
        return self._pending is not None

    def restore(
        self, abstract_state: TrainState, iterator: "grain.DatasetIterator", step: int | None = None
    ) -> TrainState:
        """The state at `step` (default: latest) without frozen weights, and `iterator` moved to where it was.

        Args:
            abstract_state: tree of `jax.ShapeDtypeStruct` with the shardings wanted now.

        Raises:
            FileNotFoundError: no such checkpoint.
            ValueError: it is of another model or optimiser (the differences are listed), its processes stood at
                different places of the data and were not as many as now, or it is unreadable.
        """
        from orbax.checkpoint import v1 as ocp

        step = self._resolve(step)
        position = _position(self._directory / str(step))
        found = _metadata(self._directory / str(step), "state")
        _check(_shapes(abstract_state), _shapes(found), f"step {step} of {self._directory}")
        # Asked for by name: what this state lacks may not have been a part of a state yet when it was saved.
        fields = [field.name for field in dataclasses.fields(abstract_state)]
        wanted = {name: getattr(abstract_state, name) for name in fields if getattr(abstract_state, name) is not None}
        context = ocp.Context()
        context.pytree.loading.partial_load = True
        with context:
            parts = {"state": wanted} if position else {"state": wanted, "data": iterator}
            loaded = self._saver.load_checkpointables(step, parts)["state"]
        if position:
            iterator.set_state(position)
        return abstract_state.replace(**loaded)

    def load_params(self, step: int | None = None) -> Params:
        """The trained parameters to evaluate, as numpy arrays: their moving average where one was kept.

        Raises as `restore`.
        """
        from orbax.checkpoint import v1 as ocp

        step = self._resolve(step)
        found = _metadata(self._directory / str(step), "state")
        name = "ema" if found.get("ema") else "params"
        context = ocp.Context()
        context.pytree.loading.partial_load = True
        with context:
            return self._saver.load_checkpointables(step, {"state": {name: _as_numpy(found[name])}})["state"][name]

    def load_optimizer(self, abstract_state: TrainState) -> tuple:
        """The newest state's optimizer, onto the places of the abstract one. Raises as `restore`."""
        from orbax.checkpoint import v1 as ocp

        step = self._resolve(None)
        found = _metadata(self._directory / str(step), "state")
        wanted = abstract_state.opt_state
        _check(_shapes(wanted), _shapes(found["opt_state"]), f"the optimizer at step {step} of {self._directory}")
        context = ocp.Context()
        context.pytree.loading.partial_load = True
        with context:
            return self._saver.load_checkpointables(step, {"state": {"opt_state": wanted}})["state"]["opt_state"]

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

    def _probe(self) -> None:
        # A disk too full for one more folder leaves the saver waiting minutes for it; ask first.
        with tempfile.TemporaryFile(dir=self._directory) as file:
            file.write(bytes(65536))

    def _committed(self) -> int | None:
        return self._saver.latest.step if self._saver.latest is not None else None

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """A full disk as an OSError that names the last good checkpoint."""
        try:
            yield
        except (OSError, ValueError) as error:
            if not _disk_full(error):
                raise
            # What the saver believes after a failed save is not what lies on disk.
            self._saver.reload()
            good = self._committed()
            kept = "no checkpoint has been committed" if good is None else f"the last good checkpoint is step {good}"
            raise OSError(
                errno.ENOSPC,
                f"the disk is full: a checkpoint could not be written to {self._directory}; {kept}. Make room, or "
                "lower the number of checkpoints kept, and start again to resume",
            ) from error


def _disk_full(error: Exception) -> bool:
    # The array writer reports it as a ValueError of its own, with the system's number in the text.
    return getattr(error, "errno", None) == errno.ENOSPC or f"os_error_code='{errno.ENOSPC}'" in str(error)


def _position(path: Path) -> dict | None:
    """Where another number of processes stood in the data; None where there were as many as now."""
    # Every process keeps a position, in a file that is named for it and their number.
    files = list(path.glob("data/process_*-of-*.json"))
    counts = {int(file.stem.rpartition("-of-")[2]) for file in files}
    if not counts or counts == {jax.process_count()}:
        return None
    positions = [json.loads(file.read_text()) for file in files]
    if any(one != positions[0] for one in positions):
        raise ValueError(
            f"{path} was saved by {max(counts)} processes that stood at different places of the data, this run has "
            f"{jax.process_count()}; go on with {max(counts)} processes"
        )
    return positions[0]


def _metadata(path: Path, name: str) -> dict:
    """Tree of shapes and types of one item. Raises ValueError when the files cannot be read."""
    from orbax.checkpoint import v1 as ocp

    try:
        found = ocp.checkpointables_metadata(path).metadata.get(name)
    except (ocp.errors.InvalidLayoutError, OSError, ValueError) as error:
        raise ValueError(f"{path} is no checkpoint, or a damaged one: {error}") from error
    if found is None:
        raise ValueError(f"{path} is a damaged checkpoint: its {name!r} cannot be read; remove it to use an older one")
    return found


def _shapes(tree) -> dict[str, tuple[int, ...]]:
    """Shape of every leaf under its path; a random key counts as the integers it is stored as."""

    def stored(leaf) -> tuple[int, ...]:
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.eval_shape(jax.random.key_data, leaf)
        return tuple(leaf.shape)

    flat = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): stored(leaf) for path, leaf in flat}


def _check(wanted: dict, found: dict, source: str) -> None:
    problems = differences(wanted, found)
    if problems:
        raise ValueError(
            f"{source}: not of this model and optimiser:\n  {problems}\n"
            "use the config it was saved under, or another directory"
        )


def _as_numpy(metadata: Params) -> Params:
    """A request for numpy arrays of these shapes, without their memory."""
    return jax.tree.map(lambda leaf: np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape), metadata)
