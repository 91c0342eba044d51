"""Programs that a model wrote, run where they can hurt nobody: `run(program)` gives what its `solution()` returned.

Each program has a fresh interpreter in a session of its own, an empty environment, an empty folder, an empty input.
`bwrap` starts it where that is installed and works (tried once), and it locks itself in (`confine.py` lists the layers
and what each holds) before it runs the program's first line. The caller holds the clock: at the end, in time or not,
the whole process group is killed. Nothing here uses signals or forks Python, so any thread may call, beside any other.

What is in force on this system is printed once a process. Where the kernel would not keep a program from other people's
files, or not from other processes, none is run: TooWeak, unless `sandbox.weak=allow` (`configure` in Python).

A program may write on the channel of results what it likes: that only says what `return` says, for the right answer is
never in its process.
"""

import contextlib
import dataclasses
import functools
import importlib.util
import marshal
import os
import secrets
import selectors
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent import futures
from pathlib import Path

from qstar.tasks.grading import bubblewrap, calls, confine

# Shared libraries that the interpreter's own modules load.
SYSTEM_LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/etc/ld.so.cache")
START_S = 20.0  # an interpreter's start and locks on a machine under load, before the program's own time
END_S = 1.0  # from the end of a program to that of the process around it
TICK_S = 0.05
LONGEST = 4000  # characters of a value or an error
KINDS = ("int", "float", "str", "Fraction", "Decimal")
TRIAL = "def solution():\n    return 0\n"
# What a program can do where no layer of a group of `confine.NEEDED` is in force.
DANGERS = {
    ("seccomp",): "without seccomp a program can signal, trace and slow down other processes and open connections",
    ("bubblewrap", "mounts", "landlock"): "without bubblewrap, mounts and landlock it can read and write any file",
}
WEAK = ("refuse", "allow")


class TooWeak(OSError):  # noqa: N818 (it is what is said)
    """What this system has of the sandbox does not hold what a language model wrote."""


@dataclasses.dataclass(frozen=True)
class SandboxConfig:
    """How programs and answers that a model wrote are locked in when they are run to grade them."""

    weak: str = "refuse"  # if too few isolation layers are available: refuse to run model-written code, or allow it
    without: tuple[str, ...] = ()  # isolation layers to leave out, as in [bubblewrap]

    def __post_init__(self):
        object.__setattr__(self, "without", tuple(self.without))
        if self.weak not in WEAK:
            raise ValueError(f"sandbox.weak = {self.weak!r}: expected one of {', '.join(WEAK)}")
        for layer in self.without:
            if layer not in confine.LAYERS:
                raise ValueError(f"sandbox.without = {layer!r}: expected some of {', '.join(confine.LAYERS)}")


@dataclasses.dataclass(frozen=True)
class Limits:
    """What one program may use."""

    seconds: float = 5.0  # wall clock, from the moment it is locked in
    cpu_seconds: int = 5
    memory_bytes: int = 512 * 2**20  # address space, the interpreter's own 40 MB included
    printed_bytes: int = 64 * 2**10  # to standard output and error together
    file_bytes: int = 2**20  # one file
    folder_bytes: int = 4 * 2**20  # all files
    folder_files: int = 64
    open_files: int = 32

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if not value > 0:
                raise ValueError(f"Limits.{field.name} = {value}: every limit is above zero")

    def resources(self) -> dict[str, int]:
        """As `resource` names them. A program that only computes needs no process or thread beside its own."""
        return {
            "RLIMIT_CPU": self.cpu_seconds,
            "RLIMIT_AS": self.memory_bytes,
            "RLIMIT_FSIZE": self.file_bytes,
            "RLIMIT_NOFILE": self.open_files,
            "RLIMIT_NPROC": 0,
            "RLIMIT_CORE": 0,
        }


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of a program."""

    status: str  # value | crashed | timeout | forbidden | output (too much) | disk (too much) | refused (too weak)
    kind: str = ""  # of the value: int, float, str, Fraction or Decimal
    text: str = ""  # the value as Python spells it
    detail: str = ""  # the error, or the event that is forbidden
    printed: str = ""  # the beginning of what it printed
    in_force: tuple[str, ...] = ()  # layers of confinement


_config = SandboxConfig()
_said: set[str] = set()
_asking = threading.Lock()  # so that threads which start together try the layers and say so once


def configure(config: SandboxConfig) -> None:
    """Set how this process locks in what it runs, programs and workers alike."""
    global _config
    _config = config


def configured() -> SandboxConfig:
    return _config


def run(program: str, limits: Limits | None = None, config: SandboxConfig | None = None) -> Outcome:
    """Run a program and hear what its `solution()` returned. Never raises for what the program does, never hangs.

    `config` is the process's own where none is given. Raises OSError where the system has no POSIX processes, TooWeak
    where its layers would not hold the program.
    """
    config = config or _config
    ready(config)
    outcome = _run(program, limits or Limits(), layers_for(config), config.weak == "refuse")
    if outcome.status == "refused":  # a layer that held when it was tried, as where no more namespaces are to be had
        raise TooWeak(too_weak(outcome.in_force))
    return outcome


def run_many(programs: Sequence[str], limits: Limits | None = None, workers: int | None = None) -> list[Outcome]:
    """The outcomes of many programs, `workers` at a time (one a core)."""
    with futures.ThreadPoolExecutor(workers or os.cpu_count() or 1) as pool:
        return list(pool.map(lambda program: run(program, limits), programs))


def ready(config: SandboxConfig | None = None) -> None:
    """Say what is in force, once a process. Raises TooWeak where that is too little and not allowed."""
    config = config or _config
    with _asking:
        held = in_force(config.without)
        if confine.lacking(held) and config.weak == "refuse":
            raise TooWeak(too_weak(held))
        say(statement(held, config.without))


def say(line: str) -> None:
    """To standard error, each line once a process."""
    if line not in _said:
        _said.add(line)
        print(line, file=sys.stderr, flush=True)


def statement(held: Sequence[str], without: Sequence[str] = (), needed: Sequence = confine.NEEDED) -> str:
    """One line: the layers in force, those that are not and why, and what a program could do for that."""
    missing = [layer for layer in confine.LAYERS if layer not in held]
    if "bubblewrap" in held:
        missing = [layer for layer in missing if layer not in ("namespaces", "mounts")]  # its own
    reasons = dict.fromkeys(missing, "not to be had here") | dict.fromkeys(without, "left out")
    if "bubblewrap" in missing and "bubblewrap" not in without:
        reasons["bubblewrap"] = bubblewrap_problem()
    line = f"sandbox: {' + '.join(held) or 'nothing'}"
    if missing:
        line += f"; not in force: {', '.join(f'{layer} ({reasons[layer]})' for layer in missing)}"
    dangers = [DANGERS[group] for group in confine.lacking(held, needed)]
    return f"{line}. TOO WEAK, allowed by sandbox.weak=allow: {'; '.join(dangers)}" if dangers else line


def too_weak(held: Sequence[str], needed: Sequence = confine.NEEDED) -> str:
    groups = confine.lacking(held, needed)
    expected = " and ".join(" or ".join(group) for group in groups)
    problem, bubble = bubblewrap_problem(), "install bubblewrap (apt-get install bubblewrap)"
    if problem.startswith("installed"):
        bubble = f"let bubblewrap make namespaces (it is {problem})"
    return (
        f"sandbox: expected {expected} to run what a language model wrote, found {', '.join(held) or 'no layer'}: "
        f"{'; '.join(DANGERS[group] for group in groups)}. Use Linux 5.13 or later on x86-64 or ARM64, {bubble}, or "
        "accept the danger:  sandbox.weak=allow  (in Python: "
        'sandbox.configure(sandbox.SandboxConfig(weak="allow")))'
    )


def layers_for(config: SandboxConfig) -> tuple[str, ...]:
    """The layers to take: all but those left out, and bubblewrap only where it works."""
    layers = [layer for layer in confine.LAYERS if layer not in config.without]
    if "bubblewrap" in layers and bubblewrap_problem():
        layers.remove("bubblewrap")
    return tuple(layers)


@functools.cache
def bubblewrap_problem() -> str:
    """Why bubblewrap cannot be had, "" where it can: a program was run in it."""
    if sys.platform != "linux" or not bubblewrap.program():
        return "not installed"
    outcome = _run_once(TRIAL, Limits(seconds=30), confine.LAYERS, False)
    if outcome.text == "0":
        return ""
    first_line = (outcome.printed or outcome.detail or outcome.status).strip().partition("\n")[0]
    return f"installed, but: {first_line.removeprefix('bwrap: ').partition(', likely')[0][:100]}"


def in_force(without: Sequence[str] = ()) -> tuple[str, ...]:
    """The layers of confinement that this system has, as a program that runs here finds them; tried once a process."""
    return _in_force(tuple(without))


@functools.cache
def _in_force(without: tuple[str, ...]) -> tuple[str, ...]:
    if os.name != "posix":
        raise OSError(f"the sandbox needs a POSIX system, this is {os.name}: run it on Linux")
    outcome = _run(TRIAL, Limits(seconds=30), layers_for(SandboxConfig(without=without)), False)
    if outcome.text != "0":
        raise OSError(f"no program runs in the sandbox here ({outcome.status}: {outcome.detail or outcome.printed})")
    return outcome.in_force


def library_paths() -> list[str]:
    """What a program may read: the interpreter's standard library and shared libraries."""
    paths = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib")]
    return list(dict.fromkeys([*paths, os.path.join(sys.base_prefix, "lib"), *SYSTEM_LIBRARIES]))


def _run(program: str, limits: Limits, layers: tuple[str, ...], strong: bool) -> Outcome:
    """`strong` asks that the program is only run where confinement holds it.

    Where bubblewrap ends before the program begins, as where there are namespaces for no more, our layers hold it.
    """
    outcome = _run_once(program, limits, layers, strong)
    if "bubblewrap" in layers and "bubblewrap" not in outcome.in_force:
        return _run_once(program, limits, tuple(layer for layer in layers if layer != "bubblewrap"), strong)
    return outcome


def _run_once(program: str, limits: Limits, layers: tuple[str, ...], strong: bool) -> Outcome:
    folder = tempfile.mkdtemp(prefix="qstar-sandbox-")
    try:
        return _watched(program, limits, layers, strong, os.path.realpath(folder))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _order(program: str, limits: Limits, layers: tuple[str, ...], strong: bool, folder: str, token: str) -> bytes:
    return marshal.dumps(
        {
            "program": program,
            "layers": layers,
            "strong": strong,
            "folder": folder,
            "readable": library_paths(),
            "limits": limits.resources(),
            "calls": calls.filter_for(os.uname().machine, writes=True),
            "token": token,
        }
    )


def _command(layers: tuple[str, ...], folder: str, results: int) -> list[str]:
    scripts = [str(Path(__file__).with_name(name)) for name in ("inside.py", "confine.py")]
    options = ["-I", "-S", "-B", "-X", "utf8", scripts[0], str(results)]
    if "bubblewrap" not in layers:
        return [sys.executable, *options]
    python = bubblewrap.interpreter()
    compiled = importlib.util.cache_from_source(scripts[1])
    return bubblewrap.around([python, *options], folder, [*library_paths(), python, *scripts, compiled])


def _watched(program: str, limits: Limits, layers: tuple[str, ...], strong: bool, folder: str) -> Outcome:
    token = secrets.token_hex(16)
    results, results_end = os.pipe()
    with tempfile.TemporaryFile() as order, os.fdopen(results, "rb", 0) as results_file:
        order.write(_order(program, limits, layers, strong, folder, token))
        order.seek(0)
        try:
            process = subprocess.Popen(
                _command(layers, folder, results_end),
                stdin=order,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env={},
                cwd=folder,
                pass_fds=(results_end,),
                start_new_session=True,
            )
        finally:
            os.close(results_end)
        with process.stdout:
            watch = _Watch(limits, folder, token, strong)
            try:
                stopped = watch.until_silent(results_file, process.stdout)
                if not stopped and not watch.heard_an_outcome():
                    _wait(process)
            finally:
                # Not reaped yet, so its number is nobody else's.
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.kill()
                code = process.wait()
    return watch.outcome(stopped, code)


def _wait(process: subprocess.Popen) -> None:
    """Until a process whose program is gone has ended of itself, and so says why; it is not reaped."""
    deadline = time.monotonic() + END_S
    ended = None
    while ended is None and time.monotonic() < deadline:
        ended = os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG)
        if ended is None:
            time.sleep(0.002)


class _Watch:
    """Reads a program's two streams, within its limits."""

    def __init__(self, limits: Limits, folder: str, token: str, strong: bool):
        self.limits, self.folder, self.token, self.strong = limits, folder, token, strong
        self.said, self.printed = b"", b""

    def until_silent(self, results, printed) -> str:
        """Read until the results end or a limit is passed: which one, "" for none."""
        deadline = time.monotonic() + START_S
        locked_in = False
        with selectors.DefaultSelector() as streams:
            streams.register(results, selectors.EVENT_READ, "said")
            streams.register(printed, selectors.EVENT_READ, "printed")
            while True:
                if time.monotonic() > deadline:
                    return "timeout"
                for key, _ in streams.select(TICK_S):
                    chunk = os.read(key.fd, 65536)
                    if not chunk:
                        streams.unregister(key.fileobj)
                    setattr(self, key.data, getattr(self, key.data) + chunk)
                if not locked_in and self.said:
                    locked_in, deadline = True, time.monotonic() + self.limits.seconds
                if len(self.printed) > self.limits.printed_bytes or len(self.said) > 64 * 2**10:
                    return "output"
                if self._overflows():
                    return "disk"
                if self.heard_an_outcome() or results not in [key.fileobj for key in streams.get_map().values()]:
                    return ""

    def _overflows(self) -> bool:
        files = size = 0
        with contextlib.suppress(OSError), os.scandir(self.folder) as entries:  # one may vanish between the two calls
            for entry in entries:
                files += 1
                size += entry.stat(follow_symlinks=False).st_size
        return files > self.limits.folder_files or size > self.limits.folder_bytes

    def _lines(self) -> dict[str, str]:
        """Text by tag, of the lines that carry the token."""
        lines = [line.split() for line in self.said.decode("ascii", "replace").split("\n")[:-1]]
        texts: dict[str, str] = {}
        for line in lines:
            if line[:1] == [self.token] and 2 <= len(line) <= 3:
                with contextlib.suppress(ValueError):  # only a forged line is not hexadecimal
                    texts.setdefault(line[1], bytes.fromhex("".join(line[2:])).decode("utf-8", "replace")[:LONGEST])
        return texts

    def heard_an_outcome(self) -> bool:
        return self.said.count(b"\n") > 1

    def outcome(self, stopped: str, code: int) -> Outcome:
        lines = self._lines()
        common = {
            "printed": self.printed[: self.limits.printed_bytes].decode("utf-8", "replace"),
            "in_force": tuple(lines.pop("in_force", "").split()),
        }
        if stopped:
            return Outcome(stopped, **common)
        # Layers are said before the program's first line, so no program can have this said.
        if self.strong and "refused" in lines and confine.lacking(common["in_force"]):
            return Outcome("refused", detail=lines["refused"], **common)
        for tag, text in lines.items():
            if tag in KINDS:
                return Outcome("value", kind=tag, text=text, **common)
            return Outcome("forbidden" if tag == "forbidden" else "crashed", detail=text, **common)
        if code in (-signal.SIGXCPU, 128 + signal.SIGXCPU):  # the second from a process that waited for it
            return Outcome("timeout", detail="CPU time", **common)
        return Outcome("crashed", detail=f"the process ended with {code}, without a result", **common)
