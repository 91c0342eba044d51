"""Metrics of a run: added over a log interval, divided once, written as one line of `metrics.jsonl`.

A run that was killed and resumed leaves the lines of an undisturbed one. `mark`, called before a checkpoint is saved,
keeps the sums of the log interval that is open at that step in `metrics_open.jsonl`; `rewind`, called after a restore,
drops what the lost tail of the earlier process wrote and takes those sums up again. Process 0 alone writes.
"""

import importlib
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import jax

from qstar import files
from qstar.structs import Mean, Metrics

FILE = "metrics.jsonl"
LINE = "a line of metrics"
NUMBER = (int, float)


def records(directory: str | Path) -> list[dict]:
    """The lines of a run's metrics.jsonl. Raises ValueError with file and line for what is none."""
    return files.records(Path(directory) / FILE, LINE, step=int)


class MetricLogger:
    """Writes `metrics.jsonl` in `directory`, and to the `sinks` named: "tensorboard", "wandb".

    A line holds "step", "time_s" (seconds of this run, those of earlier processes included up to the checkpoint it
    resumed from) and the metrics by name. Raises ValueError for an unknown sink and ModuleNotFoundError for one whose
    package is not installed.
    """

    def __init__(self, directory: str | Path, sinks: "Sequence[str] | Sinks" = ()):
        self.directory = Path(directory)
        self.sinks = sinks if isinstance(sinks, Sinks) else Sinks(directory, sinks)
        self._sums: Metrics = {}
        self._started = time.monotonic()
        self._writes = jax.process_index() == 0

    def __enter__(self) -> "MetricLogger":
        return self

    def __exit__(self, *error) -> None:
        self.close()

    def rewind(self, step: int) -> None:
        """Put the files in the state of step `step` and go on from there; step 0 starts afresh.

        Raises ValueError where a file holds something else than lines of metrics.
        """
        self.close()
        self._sums = {}
        if not self._writes:
            return
        files.make(self.directory)
        lines = files.keep_until(self._lines, step, LINE, time_s=NUMBER)
        marks = files.keep_until(self._marks, step, "the sums of an open log interval", time_s=NUMBER, sums=dict)
        if marks and marks[-1].record["step"] == step:
            self._sums = {name: _mean(pair, marks[-1].where) for name, pair in marks[-1].record["sums"].items()}
        self._started = time.monotonic() - max((line.record["time_s"] for line in lines + marks), default=0.0)
        self.sinks.open(step)

    def add(self, metrics: Metrics) -> None:
        """Add the metrics of one step; leaves on the host."""
        for name, mean in metrics.items():
            self._sums[name] = self._sums[name] + mean if name in self._sums else mean

    def write(self, step: int, values: dict[str, float] | None = None) -> dict[str, float]:
        """Close the log interval with step `step`; `values` join its line. Returns what was written."""
        means = {name: mean.value() for name, mean in self._sums.items()} | (values or {})
        means = dict(sorted(means.items()))
        self._sums = {}
        if self._writes:
            files.append(self._lines, [{"step": step, "time_s": self._time_s(), **means}])
        self.sinks.write(step, means)
        return means

    def mark(self, step: int) -> None:
        """Remember the open log interval; call before the checkpoint of `step` is saved."""
        if self._writes:
            sums = {name: (float(mean.sum), float(mean.count)) for name, mean in self._sums.items()}
            files.append(self._marks, [{"step": step, "time_s": self._time_s(), "sums": sums}])

    def close(self) -> None:
        self.sinks.close()

    @property
    def _lines(self) -> Path:
        return self.directory / FILE

    @property
    def _marks(self) -> Path:
        return self.directory / "metrics_open.jsonl"

    def _time_s(self) -> float:
        return round(time.monotonic() - self._started, 3)


def _mean(pair: object, where: str) -> Mean:
    match pair:
        case [int() | float() as sum, int() | float() as count]:
            return Mean(sum, count)
    raise ValueError(f"{where}: {pair!r} is not a sum and count; {files.WAY_OUT}")


@dataclass(frozen=True)
class Rows:
    """A table for a sink: what a model wrote, with what was said of it."""

    columns: tuple[str, ...]
    rows: Sequence[Sequence[str | float]]


class Sinks:
    """Where figures and tables are shown besides the files of a run: `SINKS` by name. Process 0 alone writes.

    Args:
        config: the settings of the run, by dotted name.

    Raises ValueError for an unknown sink and ModuleNotFoundError for one whose package is not installed.
    """

    def __init__(self, directory: str | Path, names: Sequence[str], config: Mapping[str, object] | None = None):
        for name in names:
            _check_installed(name)
        self._directory, self._names, self._config = Path(directory), tuple(names), dict(config or {})
        self._open: list[TensorboardSink | WandbSink] = []

    def __bool__(self) -> bool:
        """Whether there is any."""
        return bool(self._names)

    def __enter__(self) -> "Sinks":
        return self

    def __exit__(self, *error) -> None:
        self.close()

    def open(self, step: int) -> None:
        """Begin at this step, or go on from it."""
        if jax.process_index() == 0:
            self._open = [SINKS[name](self._directory, step, self._config) for name in self._names]

    def write(self, step: int, values: Mapping[str, float]) -> None:
        for sink in self._open:
            sink.write(step, values)

    def table(self, step: int, name: str, rows: Rows) -> None:
        for sink in self._open:
            sink.table(step, name, rows)

    def close(self) -> None:
        for sink in self._open:
            sink.close()
        self._open = []


def numbers(record: Mapping, prefix: str = "") -> dict[str, float]:
    """The numbers of a nested record, by their path: {"dev": {"n": 3}} gives dev/n."""
    out: dict[str, float] = {}
    for name, value in record.items():
        if isinstance(value, Mapping):
            out |= numbers(value, f"{prefix}{name}/")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            out[f"{prefix}{name}"] = value
    return out


class TensorboardSink:
    """Event files in `directory`/tensorboard; what was logged after `step` is hidden."""

    def __init__(self, directory: Path, step: int, config: Mapping[str, object]):
        import tensorboardX

        self._writer = tensorboardX.SummaryWriter(str(directory / "tensorboard"), purge_step=step + 1)

    def write(self, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def table(self, step: int, name: str, rows: Rows) -> None:
        """As text: a table in Markdown, without the characters that would end a cell."""
        lines = [rows.columns, ["---"] * len(rows.columns), *rows.rows]
        cells = [[str(cell).replace("|", "\\|").replace("\n", " ") for cell in line] for line in lines]
        self._writer.add_text(name, "\n".join(f"| {' | '.join(line)} |" for line in cells), step)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class WandbSink:
    """A Weights & Biases run with the settings, kept over resumes by the id in `directory`/wandb_id.txt.

    Project and entity come from WANDB_PROJECT and WANDB_ENTITY. Steps that are redone after a kill are logged once:
    wandb passes over steps it already has.
    """

    def __init__(self, directory: Path, step: int, config: Mapping[str, object]):
        import wandb

        path = directory / "wandb_id.txt"
        if not path.exists():
            files.write(path, secrets.token_hex(4))
        self._run = wandb.init(
            id=path.read_text(), resume="allow", dir=str(directory), name=directory.resolve().name, config=dict(config)
        )

    def write(self, step: int, values: dict[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def table(self, step: int, name: str, rows: Rows) -> None:
        import wandb

        data = [list(row) for row in rows.rows]
        self._run.log({name: wandb.Table(columns=list(rows.columns), data=data)}, step=step)

    def close(self) -> None:
        self._run.finish()


SINKS = {"tensorboard": TensorboardSink, "wandb": WandbSink}
PACKAGES = {"tensorboard": "tensorboardX", "wandb": "wandb"}


def _check_installed(sink: str) -> None:
    if sink not in PACKAGES:
        raise ValueError(f"metrics sink {sink!r}: choose from {', '.join(PACKAGES)}")
    try:
        importlib.import_module(PACKAGES[sink])
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"metrics sink {sink!r} needs the package {PACKAGES[sink]}: pip install '.[{sink}]', "
            "or take it out of the sinks; metrics.jsonl is written in any case"
        ) from error
