"""The one training loop: draw a batch, take a step, report, save; whatever the method.

The metrics of a step are fetched when the next one has been dispatched, so the device never waits for a log line. Where
a step has to be looked at (a hook, a checkpoint, the end) its own metrics come first: no state is saved, and no hook
sees one, before its loss is known to be finite. A checkpoint holds the state after step k and the position of the data
after k batches, for nothing is drawn ahead. Randomness lives in the step, which folds its number into `state.key`.
"""

import math
import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from qstar import sharding
from qstar.structs import Batch, Metrics, TrainState
from qstar.training import console, signals
from qstar.training.checkpoint import Checkpoints
from qstar.training.machine import Meter
from qstar.training.metrics import MetricLogger
from qstar.training.sources import Source
from qstar.training.step import Step

MUST_BE_FINITE = ("loss", "grad_norm")


@dataclass(frozen=True)
class Hook:
    """Something done after every step divisible by `every`, and at the end of training.

    `call(step, state)` gets the state after that step and must not keep it: the next step consumes its buffers. What it
    returns, values by name, joins the line of that step in the metrics.
    """

    every: int
    call: Callable[[int, TrainState], dict[str, float] | None]

    def __post_init__(self):
        if self.every < 1:
            raise ValueError(f"hook every {self.every} steps: expected a positive number")


class Interrupted(Exception):  # noqa: N818 (it is no error)
    """Ctrl-C or SIGTERM (`signal`). The state after `step` is saved in `directory`, or nowhere where that is None."""

    def __init__(self, step: int, directory: Path | None, signal: int = signal.SIGINT):
        self.step, self.directory, self.signal = step, directory, signal
        saved = f"saved in {directory}" if directory else "nothing was saved"
        super().__init__(f"interrupted after step {step}; {saved}")


class BeyondLimit(ValueError):  # noqa: N818 (its base says so)
    """A metric of `step` is above its limit."""

    def __init__(self, step: int, name: str, value: float, limit: float):
        self.step, self.name, self.value, self.limit = step, name, value, limit
        super().__init__(
            f"step {step}: {name} is {value:.3g}, above its limit of {limit:g}. Where it is the distance between the "
            "log-probs of sampler and trainer, they no longer compute the same model: train with model.dtype=float32, "
            f"give method.truncation=2, or method.{name}_limit={2 * value:.2g} to train on regardless"
        )


class NonFiniteLoss(FloatingPointError):  # noqa: N818 (its base says so)
    """The loss, the gradient or the weights after `step` are not finite. `saved` is the last good checkpoint's step."""

    def __init__(self, step: int, what: str, value: float, saved: int | None, directory: Path | None):
        self.step, self.what, self.saved, self.directory = step, what, saved, directory
        last = (
            "no checkpoint was saved before it"
            if saved is None
            else f"last good checkpoint: step {saved} in {directory}"
        )
        super().__init__(
            f"step {step}: {what} is {value}; {last}. The state of step {step} is not saved. A resumed run meets the "
            "same batch and the same randomness: lower the learning rate or the gradient clip first, or start with "
            "another seed. JAX_DEBUG_NANS=True names the operation."
        )


class Trains(Protocol):
    """What the loop needs to know of a `Program`."""

    @property
    def step(self) -> Step: ...

    @property
    def steps(self) -> int: ...

    @property
    def mesh(self) -> jax.sharding.Mesh | None: ...


@dataclass(frozen=True)
class Log:
    """What is written, kept and shown while a model trains."""

    logger: MetricLogger  # a line of metrics every `every` steps, wherever a hook returned values, and at the end
    every: int
    checkpoints: Checkpoints | None = None
    hooks: Sequence[Hook] = ()
    show: Sequence[str] = ("loss", "reward", "weight")  # metrics of the progress display
    description: str = "train"
    meter: Meter | None = None  # what it measures joins every line
    check: Callable[[TrainState, Batch], None] | None = None  # gets state and batch before the first step is taken
    limits: Mapping[str, float] = field(default_factory=dict)  # of metrics, above which training stops

    def __post_init__(self):
        if self.every < 1:
            raise ValueError(f"log_every = {self.every}: expected a positive number")


def fit(program: Trains, source: Source, state: TrainState, log: Log) -> TrainState:
    """Train from step `state.step` to step `program.steps`; returns the state after it.

    The step may donate its state. `source` has given `state.step` batches.

    Raises NonFiniteLoss; Interrupted, after saving, on SIGINT and SIGTERM (a second Ctrl-C kills the process at once);
    ValueError where the data ends early or its rows do not divide over the mesh.
    """
    start, steps, checkpoints = int(state.step), program.steps, log.checkpoints
    now = start
    log.logger.rewind(start)
    with (
        sharding.on(program.mesh),
        _StopSignals() as stop,
        console.progress(log.description, start, max(start, steps), log.show) as progress,
    ):
        report = _Report(log, progress)
        for now in range(start + 1, steps + 1):
            batch = _place(_draw(source, state, now, steps), program.mesh)
            if now == start + 1 and log.check is not None:
                log.check(state, batch)
            # An implicit transfer between host and device would stall every step.
            with jax.transfer_guard("disallow"):
                state, metrics = program.step(state, batch)
            report.dispatched(now, metrics)
            last = now == steps
            due = [hook for hook in log.hooks if last or now % hook.every == 0]
            if due:
                report.settle()
            values = [hook.call(now, state) for hook in due]
            stopped = stop.asked(now, log.every)
            save = checkpoints is not None and (last or stopped or now % checkpoints.every == 0)
            if last or stopped or due or save:
                report.settle()
                report.line(now, values, last)
            if save:
                report.check_weights(now, state)
                log.logger.mark(now)
                checkpoints.save(now, state, source, force=True)
            if due or save:
                report.restart_meter()
            if stopped:
                break
        if checkpoints is not None:
            checkpoints.wait()
        if stop.asked(now, 1):
            raise Interrupted(now, checkpoints.directory if checkpoints else None, stop.number)
    return state


def _draw(source: Source, state: TrainState, now: int, steps: int) -> Batch:
    try:
        return source.next(state)
    except StopIteration:
        raise ValueError(
            f"the data ended after step {now - 1}, expected {steps} steps: repeat the data or lower the steps"
        ) from None


def _place(batch: Batch, mesh: jax.sharding.Mesh | None) -> Batch:
    """Rows to the devices that need them; of several processes each takes its own rows."""
    if mesh is None:
        return jax.device_put(batch)
    place = sharding.named(mesh, "batch")
    sharding.check_rows(len(jax.tree.leaves(batch)[0]), mesh)
    rows = jax.tree.map(np.asarray, batch)
    return jax.tree.map(lambda x: jax.make_array_from_callback(x.shape, place, x.__getitem__), rows)


class _Report:
    """Metrics on their way from the device to the log."""

    def __init__(self, log: Log, progress: console.Progress):
        self._log, self._progress = log, progress
        self._flight: tuple[int, Metrics] | None = None

    def dispatched(self, step: int, metrics: Metrics) -> None:
        """Step `step` is on its way to the device: the step before it can be fetched without making it wait."""
        if self._flight:
            before = self._flight[0]
            self.settle()
            self.line(before)
        self._flight = (step, metrics)

    def settle(self) -> None:
        """Wait for the newest step and take its metrics in."""
        if self._flight is None:
            return
        (step, metrics), self._flight = self._flight, None
        metrics = jax.tree.map(float, jax.device_get(metrics))
        if self._log.meter is not None:
            self._log.meter.step()
        values = {name: mean.value() for name, mean in metrics.items()}
        for name in MUST_BE_FINITE:
            if not math.isfinite(values.get(name, 0.0)):
                raise self._non_finite(step, name, values[name])
        for name, limit in self._log.limits.items():
            if values.get(name, 0.0) > limit:
                raise BeyondLimit(step, name, values[name], limit)
        self._log.logger.add(metrics)
        self._progress.step(step, values)

    def line(self, step: int, from_hooks: Sequence[dict[str, float] | None] = (), last: bool = False) -> None:
        """Close the log interval with `step`, if it is time, `from_hooks` has values, or it is the last."""
        values = {name: float(value) for metrics in from_hooks for name, value in (metrics or {}).items()}
        if last or values or step % self._log.every == 0:
            values |= self._log.meter.interval() if self._log.meter is not None else {}
            self._progress.interval(step, self._log.logger.write(step, values))

    def restart_meter(self) -> None:
        """Something else than a step took time."""
        if self._log.meter is not None:
            self._log.meter.restart()

    def check_weights(self, step: int, state: TrainState) -> None:
        # A finite gradient can still take the weights out of range; such a state would be resumed from for ever.
        if not bool(_all_finite(state.params)):
            raise self._non_finite(step, "a weight", math.nan)

    def _non_finite(self, step: int, what: str, value: float) -> NonFiniteLoss:
        checkpoints = self._log.checkpoints
        if checkpoints is None:
            return NonFiniteLoss(step, what, value, None, None)
        checkpoints.wait()
        return NonFiniteLoss(step, what, value, checkpoints.latest, checkpoints.directory)


@jax.jit
def _all_finite(params: dict) -> jax.Array:
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(params)]))


class _StopSignals:
    """SIGINT and SIGTERM as a number to ask for, so that the step in flight and its checkpoint are finished first.

    Only the main thread can hold signal handlers; elsewhere none is ever seen.
    """

    def __init__(self):
        self.number = 0  # of the signal that came
        self._told = False
        self._old = {}

    def __enter__(self) -> "_StopSignals":
        if threading.current_thread() is threading.main_thread():
            self._old = {number: signal.signal(number, self._handle) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, kind: type[BaseException] | None, *_) -> None:
        signals.seen()
        for number, handler in self._old.items():
            signal.signal(number, handler)
        if self.number and not self._told and kind is None:  # it came after the loop looked for the last time
            signal.raise_signal(self.number)

    def _handle(self, number: int, frame) -> None:
        if self.number and number == signal.SIGINT:
            console.console().show_cursor()  # a live bar hides it
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self.number = number

    def asked(self, step: int, every: int) -> bool:
        """True when a signal came. Several processes agree on the step, at steps divisible by `every`."""
        if jax.process_count() > 1:
            if step % every:
                return False
            self.number = int(np.max(multihost_utils.process_allgather(np.array(self.number))))
        self._told = bool(self.number)
        return self._told
