"""What a run shows: one rich console for everything that prints, the progress of a loop, and what is done around it.

A terminal gets a live bar with the values of the newest step, and a spinner while something else is done. A pipe or a
log file gets one plain line per log interval with the means of the interval, a line where something else begins and
another now and then while it lasts, and no escape codes.
"""

import contextlib
import datetime
import functools
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence

import rich.progress
from rich.cells import cell_len
from rich.console import Console
from rich.status import Status
from rich.table import Column
from rich.text import Text

from qstar import ranks

COUNTED_S = 10.0  # between the plain lines of `counting` and `phase`
ROOMY = 160  # columns of a terminal with room for a long bar
CRAMPED = 70  # columns of a terminal below which there is no bar, but its figures
PLAIN_WIDTH = 160  # of tables in pipes and files, where rich would assume 80 columns and fold cells


class Progress:
    """A context manager that a loop tells of its steps. This one shows nothing."""

    def step(self, step: int, values: dict[str, float]) -> None:
        """Step `step` is done and its metrics are known."""

    def interval(self, step: int, means: dict[str, float]) -> None:
        """A log interval ended with step `step`."""

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *error) -> None:
        pass


@functools.cache
def console() -> Console:
    """The console of the process, on standard output. Lines are never folded where the output is not a terminal.

    Texts are shown as they are, in tables too: names of folders hold brackets that rich would take for markup.

    Whether it is one is asked of the output itself: notebooks set FORCE_COLOR for their commands, by which rich would
    draw bars and spinners into a cell.
    """
    output = Console(highlight=False, markup=False, emoji=False)
    if output.file.isatty():
        return output
    width = None if "COLUMNS" in os.environ else PLAIN_WIDTH
    return Console(highlight=False, markup=False, emoji=False, width=width, soft_wrap=True, force_terminal=False)


def say(text: str) -> None:
    """Print a text as it is: no markup is read in it, and no line of it is folded, so that a command can be pasted."""
    console().print(text, markup=False, emoji=False, highlight=False, soft_wrap=True)


def progress(description: str, start: int, total: int, show: Sequence[str]) -> Progress:
    """The progress of steps `start + 1` to `total`; of the metrics, those named in `show` appear, in that order.

    Of several processes the first one shows it.
    """
    import jax  # here: what is shown before jax is imported should not wait for it

    if jax.process_index():
        return Progress()
    kind = LiveBar if console().is_interactive else PlainLines
    return kind(description, start, total, show)


def _values(values: dict[str, float], show: Sequence[str]) -> str:
    return "  ".join(f"{name} {values[name]:.4g}" for name in show if name in values)


def _speed(means: dict[str, float]) -> str:
    """What the meter of a loop measured, where there is one (`machine.Meter`)."""
    shown = {"tokens_per_s": "{:,.0f} tokens/s", "mfu": "{:.0%} of peak"}
    values = {name: means.get(f"machine/{name}") for name in shown}
    return "  ".join(shown[name].format(value) for name, value in values.items() if value is not None)


class Spinner:
    """What is being done, next to a spinner."""

    def __init__(self, text: str):
        self._text, self._status = text, Status(Text(text), console=console())

    def update(self, text: str) -> str:
        """Show another text; returns the one before."""
        before, self._text = self._text, text
        self._status.update(Text(text))
        return before

    def __enter__(self) -> "Spinner":
        self._status.start()
        _LIVE.append(self)
        return self

    def __exit__(self, *error) -> None:
        _LIVE.remove(self)
        self._status.stop()


_LIVE: list["LiveBar | Spinner"] = []  # what moves on the terminal now: rich takes one at a time


@contextlib.contextmanager
def phase(description: str, aside: bool = False) -> Iterator[None]:
    """Show what is being done meanwhile: in a terminal beside the bar or the spinner that is there, else by itself.

    `aside` sends lines to standard error, for a command whose output is a result.
    """
    if _LIVE:
        before = _LIVE[-1].update(description)
        try:
            yield
        finally:
            _LIVE[-1].update(before)
    elif not ranks.first():
        yield
    elif console().is_interactive:
        with Spinner(description):
            yield
    else:
        with _still(description, Console(stderr=True, soft_wrap=True) if aside else console()):
            yield


@contextlib.contextmanager
def _still(description: str, out: Console) -> Iterator[None]:
    """A plain line, and another whenever `COUNTED_S` have passed."""
    out.print(f"{description} ...", markup=False, highlight=False)
    done, began = threading.Event(), time.monotonic()

    def tell() -> None:
        while not done.wait(COUNTED_S):
            out.print(f"{description}: {time.monotonic() - began:.0f} s so far", markup=False, highlight=False)

    teller = threading.Thread(target=tell, daemon=True)
    teller.start()
    try:
        yield
    finally:
        done.set()
        teller.join()


class LiveBar(Progress):
    """A bar that is redrawn in place: description, steps, time left, values of the newest step, speed.

    On a narrow terminal the speed is left out and the values are cut at its edge; below `CRAMPED` columns there is no
    bar.
    """

    def __init__(self, description: str, start: int, total: int, show: Sequence[str]):
        self._show, bar = show, _bar()
        self._fixed = bar + len(f" {total}/{total} ")
        self._bar = rich.progress.Progress(
            rich.progress.SpinnerColumn(),  # moves while a step is computed
            _named(self._fixed + 12),
            *([rich.progress.BarColumn(bar_width=bar)] if bar else []),
            rich.progress.MofNCompleteColumn(table_column=Column(no_wrap=True)),
            rich.progress.TimeRemainingColumn(table_column=Column(no_wrap=True)),
            rich.progress.TextColumn("{task.fields[values]}", markup=False),
            console=console(),
        )
        self._task = self._bar.add_task(description, total=total, completed=start, values="")
        self._speed = ""

    def step(self, step: int, values: dict[str, float]) -> None:
        task = self._bar.tasks[0]
        rate = f"{task.speed:.3g} steps/s" if task.speed else ""  # rich averages over the last 30 s
        # Rich would cut every column alike, steps and time too.
        left = len(str(datetime.timedelta(seconds=int(task.time_remaining or 0))))
        room = max(console().width - self._fixed - cell_len(task.description) - left - 4, 0)
        text = Text(_values(values, self._show))
        text.truncate(room, overflow="ellipsis")
        for part in filter(None, (rate, self._speed)):
            if text.cell_len + len(part) + 2 <= room:
                text.append(f"  {part}")
        self._bar.update(self._task, completed=step, values=text.plain)

    def interval(self, step: int, means: dict[str, float]) -> None:
        self._speed = _speed(means) or self._speed

    def update(self, text: str) -> str:
        """Show another description; returns the one before."""
        before = self._bar.tasks[0].description
        self._bar.update(self._task, description=text)
        return before

    def __enter__(self) -> "LiveBar":
        self._bar.__enter__()
        _LIVE.append(self)
        return self

    def __exit__(self, *error) -> None:
        _LIVE.remove(self)
        self._bar.__exit__(*error)


def _bar() -> int:
    """The width of a bar: none where there is no room for it."""
    width = console().width
    return 0 if width < CRAMPED else 10 if width < ROOMY else 40


def _named(others: int) -> rich.progress.TextColumn:
    """The column of descriptions, which are cut where other columns need so much of the terminal."""
    column = Column(no_wrap=True, max_width=max(console().width - others, 8))
    return rich.progress.TextColumn("{task.description}", markup=False, table_column=column)


class PlainLines(Progress):
    """One line of text per log interval."""

    def __init__(self, description: str, start: int, total: int, show: Sequence[str]):
        self._description, self._total, self._show = description, total, show
        self._last, self._time_s = start, time.monotonic()

    def interval(self, step: int, means: dict[str, float]) -> None:
        now = time.monotonic()
        rate = (step - self._last) / max(now - self._time_s, 1e-9)
        self._last, self._time_s = step, now
        left = datetime.timedelta(seconds=round((self._total - step) / rate)) if rate else "unknown"
        parts = (
            f"{self._description} {step}/{self._total}",
            _values(means, self._show),
            f"{rate:.3g} steps/s",
            _speed(means),
            f"{left} left",
        )
        console().print("  ".join(part for part in parts if part), markup=False)

    def __enter__(self) -> "PlainLines":
        self._time_s = time.monotonic()
        return self


@contextlib.contextmanager
def counting(description: str) -> Iterator[Callable[[int, int], None]]:
    """A bar for work that reports (done, in all); a line now and then where the output is not a terminal."""
    if not console().is_interactive:
        yield _Counted(description)
        return
    bar = _bar()
    columns = (
        _named(bar + len(" 100% 10:00:00 ")),
        *([rich.progress.BarColumn(bar_width=bar)] if bar else []),
        rich.progress.TaskProgressColumn(table_column=Column(no_wrap=True)),
        rich.progress.TimeRemainingColumn(table_column=Column(no_wrap=True)),
    )
    with rich.progress.Progress(*columns, console=console(), transient=True) as bar:
        task = bar.add_task(description, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


class _Counted:
    """Plain lines for `counting`: one where the work begins, others where it lasts."""

    def __init__(self, description: str):
        self._description, self._next_s = description, time.monotonic() + COUNTED_S
        console().print(f"{description} ...", markup=False)

    def __call__(self, done: int, total: int) -> None:
        if time.monotonic() >= self._next_s:
            self._next_s = time.monotonic() + COUNTED_S
            console().print(f"{self._description} {done}/{total}", markup=False)
