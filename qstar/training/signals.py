"""Ctrl-C and SIGTERM while a command starts, or does anything but train: a line, and status 130 or 143, at once.

Until the training loop takes the signals over there is nothing to save, and what is on disk survives a kill, so the
process just ends. An exception in the middle of an import or a compilation would instead pass through code that
cannot take it (a traceback of someone's import, or an abort). A thread of our own receives it at once: the main thread
handles a signal only once it is back in Python, which can take half a minute when it compiles.

The thread may come to a signal late, when whoever had taken the signals over has handled it and given them back: the
process would end in what follows. So who gives them back drops those that came until then (`seen`).
"""

import contextlib
import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator

NUMBERS = (signal.SIGINT, signal.SIGTERM)

SHOW_CURSOR = b"\x1b[?25h"  # a live bar hides it

PIPE = 65536  # bytes of a pipe, of a signal each
LEAVE_S = 10.0  # that the thread which ends the process may take
TELL_S = 2.0  # that telling others may take

_leaving = threading.RLock()  # a second signal may come to the thread that is leaving
_reading = threading.Lock()  # a signal is read, and who has it is looked up, in one
_pipe = -1  # where the numbers of signals that came are read; none yet
_advice: list[Callable[[], str]] = []  # how to resume; the last one is printed
_told: list[Callable[[str], None]] = []  # who else hears that a signal ends the process


def install() -> None:
    """Take the signals; call first of all, from the main thread."""
    global _pipe
    _pipe, into = os.pipe()
    for end in (_pipe, into):
        os.set_blocking(end, False)
    signal.set_wakeup_fd(into, warn_on_full_buffer=False)
    for number in NUMBERS:
        if signal.getsignal(number) != signal.SIG_IGN:  # as in a job in the background of a shell, or under nohup
            signal.signal(number, _handle)
    threading.Thread(target=_watch, daemon=True, name="signals").start()


def seen() -> None:
    """The signals that came so far are those of whoever has taken them over, and now gives them back."""
    if _pipe >= 0:
        with _reading:
            _numbers()


def status(number: int) -> int:
    """Of a process that ends for this signal: 130 for Ctrl-C, 143 for SIGTERM."""
    return 128 + number


@contextlib.contextmanager
def advising(how: Callable[[], str]) -> Iterator[None]:
    """When a signal ends the process meanwhile, `how()` is printed."""
    _advice.append(how)
    try:
        yield
    finally:
        _advice.pop()


@contextlib.contextmanager
def telling(others: Callable[[str], None]) -> Iterator[None]:
    """When a signal ends the process meanwhile, `others("stopped by SIGTERM")` is called, in a thread of its own."""
    _told.append(others)
    try:
        yield
    finally:
        _told.pop()


def _watch() -> None:
    while True:
        select.select([_pipe], [], [])
        with _reading:
            # Whoever has taken the signal over (the training loop) is told by the interpreter.
            ours = [number for number in _numbers() if number in NUMBERS and signal.getsignal(number) is _handle]
        if ours:
            _leave(ours[0])


def _numbers() -> bytes:
    """Of the signals that came since the last call."""
    with contextlib.suppress(BlockingIOError):
        return os.read(_pipe, PIPE)
    return b""


def _handle(number: int, frame) -> None:
    _leave(number)


def _leave(number: int) -> None:
    if not _leaving.acquire(blocking=False):  # the other thread is already exiting; it may need what this one holds
        time.sleep(LEAVE_S)
        os._exit(status(number))
    try:
        if os.isatty(1):
            os.write(1, SHOW_CURSOR)
        text = "interrupted" if number == signal.SIGINT else "stopped by SIGTERM"
        os.write(2, f"\n{text}\n".encode())
        if _told:
            teller = threading.Thread(target=_told[-1], args=(text,), daemon=True)
            teller.start()
            teller.join(TELL_S)
        if _advice and (how := _advice[-1]()):
            os.write(2, f"{how}\n".encode())
    finally:
        os._exit(status(number))
