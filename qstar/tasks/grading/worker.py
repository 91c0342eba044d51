"""A function of other people's code, called in another process with a bound on its time, its memory and its reach.

`Worker("package.module:function")` starts one interpreter, imports the module there once and calls its `prepare()`. For
every call it forks: the copy locks itself in (`confine.py`), answers, and is gone. So a call that never ends is killed
at its time, one that eats memory dies alone, and what one call changes no later call sees. Calls may come from any
thread, one at a time. The functions take and return text.

A copy reads files and writes none, and reaches no other process: seccomp holds that. Where the system has no seccomp,
sandbox.TooWeak is raised, unless the sandbox was configured with weak="allow": a library parses, and here and there
evaluates, what a model wrote.

`Lasting` answers every call in the one process, for code that keeps nothing from call to call and has a sandbox of its
own: only time and memory are bounded.
"""

import contextlib
import dataclasses
import importlib
import json
import os
import resource
import selectors
import signal
import subprocess
import sys
import threading
import time

START_S = 120.0  # imports of sympy and others on a machine under load
SHARE = 6  # wall clock a second of processor time: a call on a busy machine is no slower to judge than on an idle one
GRACE_S = 20.0  # beyond a call's wall clock, before the worker itself is given up
ENDED = "the worker process ended"
LAYERS = ("limits", "identity", "landlock", "seccomp", "audit")  # of a copy; the worker has namespaces
NEEDED = (("seccomp",),)


@dataclasses.dataclass(frozen=True)
class Reply:
    status: str  # done | timeout | crashed
    text: str  # what the function returned, or what is known of the crash


class Worker:
    """Calls `target` ("module:function") with `seconds` of processor time and `memory_bytes` of address space a call.

    Six times the seconds of wall clock end a call too.
    Raises what the import of the module raises there as RuntimeError, at the first call, and sandbox.TooWeak.
    """

    copies = True  # a copy of the process answers each call

    def __init__(self, target: str, seconds: float = 5.0, memory_bytes: int = 2 * 2**30):
        self.target, self.seconds, self.memory_bytes = target, seconds, memory_bytes
        self._lock = threading.Lock()
        self._process: subprocess.Popen | None = None
        self._owner = 0

    def __call__(self, *args: str) -> Reply:
        with self._lock:
            self._start_if_needed()
            try:
                _write(self._process.stdin, {"args": args})
                reply = self._read(self.seconds * SHARE + GRACE_S)
            except OSError:  # it died between two calls
                reply = None
            except BaseException:  # an interruption, after which its reply would be taken for that to the next call
                self._stop()
                raise
            if reply is None:
                self._stop()
                return Reply("crashed", ENDED)
        return Reply(reply["status"], reply["text"])

    def close(self) -> None:
        with self._lock:
            self._stop()

    def _start_if_needed(self) -> None:
        if self._process is not None and self._owner == os.getpid() and self._process.poll() is None:
            return
        self._stop()
        self._process = subprocess.Popen(
            [sys.executable, "-s", "-P", "-B", "-X", "utf8", __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={"PYTHONHASHSEED": "0"},  # sets are walked in one order, so what is made of a seed is always the same
            cwd="/",
            start_new_session=True,
        )
        self._owner = os.getpid()
        self._check(self._set_up())

    def _set_up(self) -> tuple[str, ...]:
        """Send what the worker needs to start; the layers that a copy of it has."""
        from qstar.tasks.grading import sandbox

        config = sandbox.configured()
        setup = {"path": sys.path, "target": self.target, "seconds": self.seconds, "memory": self.memory_bytes}
        setup |= {"layers": [layer for layer in LAYERS if layer not in config.without], "cwd": os.getcwd()}
        setup["copies"] = self.copies
        _write(self._process.stdin, setup)
        ready = self._read(START_S)
        if ready is None or ready["status"] != "done":
            self._stop()
            raise RuntimeError(f"the worker for {self.target} did not start: {ready and ready['text']}")
        return tuple(ready["text"].split())

    def _check(self, held: tuple[str, ...]) -> None:
        """Raise where a copy is too weakly locked in, or say so where that is allowed."""
        from qstar.tasks.grading import confine, sandbox

        if confine.lacking(held, NEEDED):
            if sandbox.configured().weak == "refuse":
                self._stop()
                raise sandbox.TooWeak(sandbox.too_weak(held, NEEDED))
            sandbox.say(sandbox.statement(held, sandbox.configured().without, NEEDED))

    def _read(self, seconds: float) -> dict | None:
        """One line of the worker, None where it ended or said nothing in time."""
        stream, deadline, line = self._process.stdout, time.monotonic() + seconds, b""
        with selectors.DefaultSelector() as waiting:
            waiting.register(stream, selectors.EVENT_READ)
            while not line.endswith(b"\n"):
                if not waiting.select(max(0.0, deadline - time.monotonic())):
                    return None
                chunk = os.read(stream.fileno(), 65536)
                if not chunk:
                    return None
                line += chunk
        return json.loads(line)

    def _stop(self) -> None:
        process, self._process = self._process, None
        if process is None or self._owner != os.getpid():
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            with contextlib.suppress(OSError):
                stream.close()

    def __del__(self):
        self._stop()


class Lasting(Worker):
    """A call that exceeds its bounds ends the process; the next one starts another."""

    copies = False

    def _check(self, held: tuple[str, ...]) -> None:
        """It is not locked in."""


def _write(stream, record: dict) -> None:
    stream.write(json.dumps(record).encode() + b"\n")
    stream.flush()


# Below: the worker's own side.

_in_force: list[str] = []  # of a copy


def serve() -> None:
    """Import, then answer calls until the input ends."""
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_RDWR), 1)  # what libraries print is no reply
    setup = json.loads(sys.stdin.buffer.readline())
    sys.path[:] = [path or setup["cwd"] for path in setup["path"]]
    module_name, function_name = setup["target"].split(":")
    from qstar.tasks.grading import confine

    confine.confine(("namespaces",))  # before there are threads, which a new user namespace does not take
    try:
        module = importlib.import_module(module_name)
        module.prepare()
        function = getattr(module, function_name)
    except Exception as error:  # told to the caller, who raises it
        _write(replies, {"status": "crashed", "text": f"{type(error).__name__}: {error}"})
        return
    if setup["copies"]:
        call = _forked
        _write(replies, _forked(_held, [], setup))
    else:
        call = _here
        resource.setrlimit(resource.RLIMIT_AS, (setup["memory"], setup["memory"]))
        _write(replies, {"status": "done", "text": ""})
    for line in sys.stdin.buffer:
        _write(replies, call(function, json.loads(line)["args"], setup))


def _here(function, args: list[str], setup: dict) -> dict:
    """One call in this process, which ends by SIGPROF when its time is over."""
    signal.setitimer(signal.ITIMER_PROF, setup["seconds"])
    try:
        return {"status": "done", "text": function(*args)}
    except Exception as error:  # of other people's code on any input
        return {"status": "crashed", "text": f"{type(error).__name__}: {error}"[:2000]}
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def _held() -> str:
    return " ".join(_in_force)


def _forked(function, args: list[str], setup: dict) -> dict:
    """One call in a copy of this process, killed when its time is over."""
    answer, answer_end = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(answer)
        _answer(function, args, setup, answer_end)
    os.close(answer_end)
    try:
        text, in_time = _all_of(answer, time.monotonic() + setup["seconds"] * SHARE)
    finally:
        os.close(answer)
        os.kill(child, signal.SIGKILL)
        _, code = os.waitpid(child, 0)
    if not in_time or (os.WIFSIGNALED(code) and os.WTERMSIG(code) == signal.SIGXCPU):
        return {"status": "timeout", "text": ""}
    status, _, rest = text.decode("utf-8", "replace").partition(" ")
    if status in ("done", "crashed"):
        return {"status": status, "text": rest}
    return {"status": "crashed", "text": f"the process ended with {code}"}


def _all_of(descriptor: int, deadline: float) -> tuple[bytes, bool]:
    """What a pipe gives until its end, and whether the end came before the deadline."""
    text = b""
    with selectors.DefaultSelector() as waiting:
        waiting.register(descriptor, selectors.EVENT_READ)
        while waiting.select(max(0.0, deadline - time.monotonic())):
            chunk = os.read(descriptor, 65536)
            if not chunk:
                return text, True
            text += chunk
    return text, False


def _answer(function, args: list[str], setup: dict, descriptor: int) -> None:
    """Lock this copy in, call, answer, end."""
    from qstar.tasks.grading import calls, confine, sandbox

    for standard in (0, 1, 2):
        os.dup2(os.open(os.devnull, os.O_RDWR), standard)
    os.closerange(3, descriptor)
    os.closerange(descriptor + 1, 256)
    limits = {"RLIMIT_CPU": max(1, round(setup["seconds"])), "RLIMIT_AS": setup["memory"]}
    limits |= {"RLIMIT_FSIZE": 0, "RLIMIT_NPROC": 0, "RLIMIT_CORE": 0}
    _in_force[:] = confine.confine(
        setup["layers"],
        readable=[*sys.path, *sandbox.library_paths()],
        limits=limits,
        calls=calls.filter_for(os.uname().machine, writes=False),
    )
    try:
        text = "done " + function(*args)
    except Exception as error:  # of other people's code on any input
        text = f"crashed {type(error).__name__}: {error}"[:2000]
    os.write(descriptor, text.encode("utf-8", "replace"))
    os._exit(0)


if __name__ == "__main__":
    serve()
