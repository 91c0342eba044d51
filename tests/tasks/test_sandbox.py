"""Programs that attack what runs them."""

import os
import signal
import socket
import threading
import time
from concurrent import futures

import pytest

from qstar.tasks import confine, sandbox

QUICK = sandbox.Limits(seconds=4, cpu_seconds=1)
KERNEL = tuple(layer for layer in confine.LAYERS if layer != "audit")
# Where neither namespaces nor Landlock nor seccomp are to be had: limits, dropped privileges and Python's own events.
BARE = ("limits", "identity", "audit")
MODES = {"all layers": confine.LAYERS, "kernel only": KERNEL, "no kernel help": BARE}


@pytest.fixture(params=[pytest.param(m, marks=[pytest.mark.slow] * (m == "kernel only")) for m in MODES])
def layers(request):
    return MODES[request.param]


def needs(layer):
    return pytest.mark.skipif(layer not in sandbox.in_force(), reason=f"this system has no {layer}")


def body(*lines):
    return "\n".join(lines)


def returns(expression):
    return f"import os, sys\ndef solution():\n    return {expression}\n"


def is_kept_out(outcome):
    return outcome.status in ("crashed", "forbidden", "timeout")


def test_a_program_returns_numbers_and_texts():
    assert [sandbox.run(returns(text)).text for text in ("6 * 7", "0.5", "'a\\nb'")] == ["42", "0.5", "a\nb"]
    fraction = sandbox.run("from fractions import Fraction\ndef solution():\n    return Fraction(1, 3)\n")
    assert (fraction.kind, fraction.text) == ("Fraction", "1/3")


def test_the_standard_library_works_inside():
    program = body(
        "import math, decimal, fractions, datetime, random, statistics, itertools, re, collections, heapq, json",
        "import hashlib, string, functools, typing, dataclasses, copy, time, enum, calendar, cmath, bisect, textwrap",
        "import secrets",
        "@dataclasses.dataclass",
        "class Pair:",
        "    left: int = 3",
        "def solution():",
        "    with open('note.txt', 'w') as file:",
        "        file.write(str(Pair().left))",
        "    with open('note.txt') as file:",
        "        return int(file.read()) + len(hashlib.sha256(b'').hexdigest()) + datetime.date(2024, 2, 29).day",
    )
    assert sandbox.run(program).text == "96"


@pytest.mark.parametrize("value", ["True", "None", "[1]", "1j", "b'1'", "type('I', (int,), {})(1)", "object()"])
def test_values_of_other_kinds_do_not_leave(value):
    outcome = sandbox.run(returns(value))
    assert outcome.status == "crashed" and "no plain number or text" in outcome.detail


def test_a_program_without_solution_says_so():
    assert sandbox.run("x = 1").detail == "the program defines no solution()"
    assert "SyntaxError" in sandbox.run("def solution(:").detail


def test_what_is_printed_is_no_value():
    outcome = sandbox.run("print('in_force all'); print('int 42', flush=True)\nimport os\nos._exit(0)")
    assert outcome.status == "crashed" and "int 42" in outcome.printed


def test_lines_without_the_token_are_no_value():
    program = body(
        "import os",
        "for number in range(3, 16):",
        "    try:",
        "        os.write(number, b'x int 3432\\n')",
        "    except OSError:",
        "        pass",
        "os._exit(0)",
    )
    assert sandbox.run(program).status == "crashed"


def test_a_huge_error_message_is_cut():
    assert len(sandbox.run("raise ValueError('x' * 10**7)").detail) <= sandbox.LONGEST


def test_endless_computing_ends_by_processor_time():
    outcome = sandbox.run("while True: pass", sandbox.Limits(seconds=30, cpu_seconds=1))
    assert (outcome.status, outcome.detail) == ("timeout", "CPU time")


def test_sleep_ends_by_the_clock():
    start = time.monotonic()
    assert sandbox.run("import time; time.sleep(600)", sandbox.Limits(seconds=0.5)).status == "timeout"
    assert time.monotonic() - start < 60


def test_ignored_signals_do_not_help():
    program = body(
        "import signal, time",
        "for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGXCPU, signal.SIGALRM):",
        "    signal.signal(number, signal.SIG_IGN)",
        "time.sleep(600)",
    )
    assert sandbox.run(program, sandbox.Limits(seconds=0.5)).status == "timeout"


def test_memory_is_bounded():
    assert "MemoryError" in sandbox.run("x = bytearray(10**10)", QUICK).detail


def test_no_process_is_made(layers):
    program = "import os\nwhile True:\n    if os.fork() == 0:\n        os.setsid()\n"
    assert is_kept_out(sandbox.run(program, QUICK, layers))
    assert is_kept_out(sandbox.run("import subprocess\nsubprocess.run(['true'])", QUICK, layers))


@needs("seccomp")
def test_no_thread_is_made():
    program = "import threading\nthreading.Thread(target=print).start()\n" + returns("1")
    assert "can't start new thread" in sandbox.run(program, QUICK, KERNEL).detail


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="looks at processes under /proc")
def test_nothing_outlives_the_program(layers, tmp_path, monkeypatch):
    """Neither a daemon nor the program itself: no process is left whose folder is below the sandboxes' own."""
    tmp_path.chmod(0o755)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    program = body(
        "import os, time",
        "open('started', 'w').close()",
        "try:",
        "    if os.fork() == 0:",
        "        os.setsid()",
        "except OSError:",
        "    pass",
        "time.sleep(600)",
    )
    runner = threading.Thread(target=sandbox.run, args=(program, sandbox.Limits(seconds=1), layers))
    runner.start()
    seen = set()
    while runner.is_alive():
        seen |= _processes_below(tmp_path)
        time.sleep(0.01)
    assert seen and _processes_below(tmp_path) == set()


def _processes_below(folder):
    found = set()
    for entry in os.listdir("/proc"):
        try:
            if entry.isdigit() and os.readlink(f"/proc/{entry}/cwd").startswith(str(folder)):
                found.add(entry)
        except OSError:
            continue
    return found


def test_disk_floods_end(layers):
    one = "with open('big', 'wb') as file:\n    while True:\n        file.write(bytes(2**16))\n"
    many = "for number in range(10**9):\n    with open(f'file{number}', 'w') as file:\n        file.write('x')\n"
    assert "File too large" in sandbox.run(one, QUICK, layers).detail
    assert sandbox.run(many, QUICK, layers).status in ("disk", "timeout")


def test_output_floods_end(layers):
    outcome = sandbox.run("while True: print('x' * 1000)", QUICK, layers)
    assert outcome.status == "output" and len(outcome.printed) == QUICK.printed_bytes


def test_other_files_are_not_read(layers, tmp_path):
    secret = tmp_path / "secret.txt"
    secret.write_text("42")
    tmp_path.chmod(0o755)
    for path in (str(secret), "/etc/passwd", "/proc/self/environ", __file__):
        assert is_kept_out(sandbox.run(returns(f"open({path!r}).read()"), QUICK, layers)), path
        assert is_kept_out(sandbox.run(returns(f"os.read(os.open({path!r}, 0), 9).decode()"), QUICK, layers)), path
    assert is_kept_out(sandbox.run(returns("len(os.listdir('/'))"), QUICK, layers))


def test_links_do_not_lead_out(layers):
    for line in ("os.symlink('/etc/passwd', 'link')", "os.link('/etc/passwd', 'link')", "os.chdir('/etc')"):
        program = f"import os\n{line}\ndef solution():\n    return open('link').read() + open('passwd').read()\n"
        assert is_kept_out(sandbox.run(program, QUICK, layers)), line


def test_nothing_is_written_outside(layers, tmp_path):
    tmp_path.chmod(0o777)
    target = tmp_path / "mine"
    target.write_text("old")
    target.chmod(0o666)
    for line in (
        f"open({str(target)!r}, 'w').write('new')",
        f"open({str(tmp_path / 'made')!r}, 'w').write('new')",
        f"os.remove({str(target)!r})",
        f"os.rename({str(target)!r}, 'here')",
        f"os.chmod({str(target)!r}, 0)",
        f"os.mkdir({str(tmp_path / 'folder')!r})",
        f"os.truncate({str(target)!r}, 0)",
    ):
        assert is_kept_out(sandbox.run(f"import os\n{line}\n" + returns("1"), QUICK, layers)), line
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    assert target.read_text() == "old" and target.stat().st_mode & 0o777 == 0o666


def test_the_environment_is_empty(monkeypatch):
    monkeypatch.setenv("QSTAR_SECRET", "42")
    assert sandbox.run(returns("repr(dict(os.environ))")).text == "{}"


def test_the_folder_is_fresh_and_goes_away(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    program = returns("len(os.listdir('.')) or open('x', 'w').write('1')")
    assert [sandbox.run(program).text for _ in range(2)] == ["1", "1"]
    assert list(tmp_path.iterdir()) == []


def test_no_connection_gets_through(layers):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.2)
        port = listener.getsockname()[1]
        program = body(
            "import socket",
            f"socket.create_connection(('127.0.0.1', {port}), 2).sendall(b'42')",
            returns("1"),
        )
        assert is_kept_out(sandbox.run(program, QUICK, layers))
        with pytest.raises(TimeoutError):
            listener.accept()


@needs("namespaces")
def test_namespaces_alone_hold_the_network():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.2)
        program = f"import socket\nsocket.create_connection(('127.0.0.1', {listener.getsockname()[1]}), 2)"
        assert "OSError" in sandbox.run(program, QUICK, ("namespaces",)).detail
        with pytest.raises(TimeoutError):
            listener.accept()


@needs("landlock")
def test_landlock_alone_holds_files_and_connections(tmp_path):
    (tmp_path / "secret").write_text("42")
    outcome = sandbox.run(returns(f"open({str(tmp_path / 'secret')!r}).read()"), QUICK, ("landlock",))
    assert "PermissionError" in outcome.detail and outcome.in_force == ("landlock",)


@needs("seccomp")
def test_seccomp_alone_holds_processes_and_sockets():
    assert "PermissionError" in sandbox.run("import os; os.fork()", QUICK, ("seccomp",)).detail
    assert "PermissionError" in sandbox.run("import socket; socket.socket()", QUICK, ("seccomp",)).detail


def test_the_caller_is_not_killed(layers):
    heard = []
    before = signal.signal(signal.SIGUSR1, lambda *_: heard.append(1))
    try:
        for line in (
            "os.kill(os.getppid(), signal.SIGUSR1)",
            f"os.kill({os.getpid()}, signal.SIGUSR1)",
            "os.kill(-1, 9)",
        ):
            assert is_kept_out(sandbox.run(f"import os, signal\n{line}\n" + returns("1"), QUICK, layers))
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert heard == []


@needs("seccomp")
def test_the_callers_limits_are_not_lowered():
    program = f"import resource\nresource.prlimit({os.getpid()}, resource.RLIMIT_NOFILE, (4, 4))\n" + returns("1")
    assert "PermissionError" in sandbox.run(program, QUICK, KERNEL).detail


@pytest.mark.parametrize(
    "program",
    [
        "import ctypes\nctypes.string_at(0)",
        "import sys\nsys.setrecursionlimit(10**9)\ndef f(n):\n    return [f(n + 1)]\nf(0)",
        "import os\nos._exit(0)",
        "import os\nos.abort()",
        "raise SystemExit(0)",
        "import sys\nsys.addaudithook(print)",
        "import gc\ngc.get_objects()",
        "class E(Exception):\n    def __str__(self): raise self\nraise E()",
    ],
)
def test_crashes_stay_inside(program):
    assert is_kept_out(sandbox.run(program, QUICK))


def test_many_run_side_by_side_and_in_order():
    programs = [returns(str(number)) for number in range(6)] + ["while True: pass"]
    outcomes = sandbox.run_many(programs, QUICK, workers=3)
    assert [outcome.text for outcome in outcomes] == ["0", "1", "2", "3", "4", "5", ""]


def test_threads_other_than_the_main_one_may_run_programs():
    assert threading.current_thread() is threading.main_thread()
    with futures.ThreadPoolExecutor(1) as pool:
        assert (
            pool.submit(sandbox.run, "import time; time.sleep(60)", sandbox.Limits(seconds=0.3)).result().status
            == "timeout"
        )


def test_limits_below_zero_are_refused():
    with pytest.raises(ValueError, match=r"Limits.seconds = 0: every limit is above zero"):
        sandbox.Limits(seconds=0)
