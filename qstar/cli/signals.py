"""Ctrl-C and SIGTERM while a command starts, or does anything but train: a line, and status 130 or 143, at once.

Until the training loop takes the signals over there is nothing to save, and what is on disk survives a kill, so the
process just ends. An exception in the middle of an import or a compilation would instead pass through code that
cannot take it (a traceback of someone's import, or an abort). A thread of our own receives it at once: the main thread
handles a signal only once it is back in Python, which can take half a minute when it compiles.
"""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator

NUMBERS = (signal.SIGINT, signal.SIGTERM)

SHOW_CURSOR = b"\x1b[?25h"  # a live bar hides it

_leaving = threading.Lock()
_advice: list[Callable[[], str]] = []  # how to resume; the last one is printed


def install() -> None:
    """Take the signals; call first of all, from the main thread."""
    out, into = os.pipe()
    for end in (out, into):
        os.set_blocking(end, end == out)
    signal.set_wakeup_fd(into, warn_on_full_buffer=False)
    for number in NUMBERS:
        if signal.getsignal(number) != signal.SIG_IGN:  # as in a job in the background of a shell, or under nohup
            signal.signal(number, _handle)
    threading.Thread(target=_watch, args=(out,), daemon=True, name="signals").start()


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


def _watch(out: int) -> None:
    while number := os.read(out, 1):
        # Whoever has taken the signal over (the training loop) is told by the interpreter.
        if number[0] in NUMBERS and signal.getsignal(number[0]) is _handle:
            _leave(number[0])


def _handle(number: int, frame) -> None:
    _leave(number)


def _leave(number: int) -> None:
    if not _leaving.acquire(blocking=False):  # the other thread is already exiting
        while True:
            time.sleep(1)
    try:
        if os.isatty(1):
            os.write(1, SHOW_CURSOR)
        text = "interrupted" if number == signal.SIGINT else "stopped by SIGTERM"
        os.write(2, f"\n{text}\n".encode())
        if _advice and (how := _advice[-1]()):
            os.write(2, f"{how}\n".encode())
    finally:
        os._exit(status(number))
