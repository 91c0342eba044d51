"""Programs that attack what runs them."""

import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from concurrent import futures

import escapes
import pytest
from small_runs import composed

from qstar.tasks.grading import confine, sandbox, worker

QUICK = sandbox.Limits(seconds=4, cpu_seconds=1)


def without(*layers):
    """Layers left out, whatever strength is left."""
    return sandbox.SandboxConfig(weak="allow", without=layers)


def only(*layers):
    return without(*[layer for layer in confine.LAYERS if layer not in layers])


MODES = {
    "all layers": without(),
    "own layers": without("bubblewrap"),
    "kernel only": without("audit"),
    # Where neither namespaces nor Landlock nor seccomp are to be had: limits, dropped privileges, Python's own events.
    "no kernel help": only("limits", "identity", "audit"),
}


@pytest.fixture(params=[pytest.param(m, marks=[pytest.mark.slow] * (m == "kernel only")) for m in MODES])
def config(request):
    return MODES[request.param]


@pytest.fixture
def fresh(monkeypatch):
    """The sandbox as in a process that has run nothing yet."""

    def forget():
        sandbox._in_force.cache_clear()
        sandbox.bubblewrap_problem.cache_clear()

    forget()
    monkeypatch.setattr(sandbox, "_said", set())
    monkeypatch.setattr(sandbox, "_config", sandbox.SandboxConfig())
    yield
    forget()


def needs(*layers, config=MODES["own layers"]):
    """These layers, where bubblewrap is left out."""
    missing = [layer for layer in layers if layer not in sandbox.in_force(config.without)]
    return pytest.mark.skipif(bool(missing), reason=f"this system has no {' and no '.join(missing)}")


needs_bubblewrap = pytest.mark.skipif(
    bool(sandbox.bubblewrap_problem()), reason=f"bubblewrap: {sandbox.bubblewrap_problem()}"
)


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


def test_no_process_is_made(config):
    program = "import os\nwhile True:\n    if os.fork() == 0:\n        os.setsid()\n"
    assert is_kept_out(sandbox.run(program, QUICK, config))
    assert is_kept_out(sandbox.run("import subprocess\nsubprocess.run(['true'])", QUICK, config))


@needs("seccomp")
def test_no_thread_is_made():
    program = "import threading\nthreading.Thread(target=print).start()\n" + returns("1")
    assert "can't start new thread" in sandbox.run(program, QUICK, MODES["kernel only"]).detail


needs_proc = pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="looks at processes under /proc")


def running(process):
    """Its parent and the time it began, which tell it from a later one of its number; None where it has ended."""
    try:
        with open(f"/proc/{process}/stat") as file:
            state, parent, *others = file.read().rpartition(")")[2].split()
    except OSError:
        return None
    return None if state == "Z" else (int(parent), int(others[17]))


def running_programs(ancestor):
    """Numbers and beginnings of the processes of programs below a process."""
    processes = {int(entry): running(entry) for entry in filter(str.isdigit, os.listdir("/proc"))}

    def is_program(process):
        try:
            with open(f"/proc/{process}/cmdline") as file:
                return "inside.py" in file.read()
        except OSError:
            return False

    def is_below(process):
        while processes.get(process) and process != ancestor:
            process = processes[process][0]
        return process == ancestor

    return {(one, at[1]) for one, at in processes.items() if at and is_below(one) and is_program(one)}


def are_gone(programs, seconds=10):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not any((now := running(process)) and now[1] == began for process, began in programs):
            return True
        time.sleep(0.01)
    return False


@needs_proc
def test_nothing_outlives_the_program(config):
    """Neither a daemon nor the program itself."""
    program = body(
        "import os, time",
        "try:",
        "    if os.fork() == 0:",
        "        os.setsid()",
        "except OSError:",
        "    pass",
        "time.sleep(600)",
    )
    seen = set()
    for seconds in (1, 10):  # on a busy machine an interpreter may take longer than a second to start
        runner = threading.Thread(target=sandbox.run, args=(program, sandbox.Limits(seconds=seconds), config))
        runner.start()
        while runner.is_alive():
            seen |= running_programs(os.getpid())
            time.sleep(0.01)
        if seen:
            break
    assert seen and are_gone(seen)


@needs_proc
@needs("seccomp")
def test_no_program_outlives_a_caller_that_is_killed(tmp_path):
    """A program that sleeps uses no processor time, so no limit of its own would end it."""
    caller = """
        import sys, threading
        from qstar.tasks.grading import sandbox
        sleeping = "print('asleep', flush=True)\\nimport time\\ntime.sleep(600)"
        for layers in ((), ("bubblewrap",), ("bubblewrap", "namespaces", "mounts")):
            config = sandbox.SandboxConfig(weak="allow", without=layers)
            run = lambda config=config: sandbox.run(sleeping, sandbox.Limits(seconds=500), config)
            threading.Thread(target=run, daemon=True).start()
        print("started", flush=True)
        sys.stdin.read()
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(caller)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "TMPDIR": str(tmp_path)},
    )
    with process, process.stdin, process.stdout:
        process.stdout.readline()
        programs, deadline = set(), time.monotonic() + 20
        # Three programs that last: what only tries a layer is gone between two looks.
        while time.monotonic() < deadline:
            before, programs = programs, running_programs(process.pid)
            if len(programs) >= 3 and programs == before:
                break
            time.sleep(0.3)
        process.kill()
        process.wait()
    assert len(programs) >= 3 and are_gone(programs)


def test_disk_floods_end(config):
    one = "with open('big', 'wb') as file:\n    while True:\n        file.write(bytes(2**16))\n"
    many = "for number in range(10**9):\n    with open(f'file{number}', 'w') as file:\n        file.write('x')\n"
    assert "File too large" in sandbox.run(one, QUICK, config).detail
    assert sandbox.run(many, QUICK, config).status in ("disk", "timeout")


def test_output_floods_end(config):
    outcome = sandbox.run("while True: print('x' * 1000)", QUICK, config)
    assert outcome.status == "output" and len(outcome.printed) == QUICK.printed_bytes


def test_other_files_are_not_read(config, tmp_path):
    secret = tmp_path / "secret.txt"
    secret.write_text("42")
    tmp_path.chmod(0o755)
    for path in (str(secret), "/etc/passwd", "/proc/self/environ", __file__):
        assert is_kept_out(sandbox.run(returns(f"open({path!r}).read()"), QUICK, config)), path
        assert is_kept_out(sandbox.run(returns(f"os.read(os.open({path!r}, 0), 9).decode()"), QUICK, config)), path
    assert is_kept_out(sandbox.run(returns("len(os.listdir('/'))"), QUICK, config))


def test_links_do_not_lead_out(config):
    for line in ("os.symlink('/etc/passwd', 'link')", "os.link('/etc/passwd', 'link')", "os.chdir('/etc')"):
        program = f"import os\n{line}\ndef solution():\n    return open('link').read() + open('passwd').read()\n"
        assert is_kept_out(sandbox.run(program, QUICK, config)), line


def test_nothing_is_written_outside(config, tmp_path):
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
        assert is_kept_out(sandbox.run(f"import os\n{line}\n" + returns("1"), QUICK, config)), line
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


def test_no_connection_gets_through(config):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.2)
        port = listener.getsockname()[1]
        program = body(
            "import socket",
            f"socket.create_connection(('127.0.0.1', {port}), 2).sendall(b'42')",
            returns("1"),
        )
        assert is_kept_out(sandbox.run(program, QUICK, config))
        with pytest.raises(TimeoutError):
            listener.accept()


@needs("namespaces")
def test_namespaces_alone_hold_the_network():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.2)
        program = f"import socket\nsocket.create_connection(('127.0.0.1', {listener.getsockname()[1]}), 2)"
        assert "OSError" in sandbox.run(program, QUICK, only("namespaces")).detail
        with pytest.raises(TimeoutError):
            listener.accept()


@needs("landlock")
def test_landlock_alone_holds_files_and_connections(tmp_path):
    (tmp_path / "secret").write_text("42")
    outcome = sandbox.run(returns(f"open({str(tmp_path / 'secret')!r}).read()"), QUICK, only("landlock"))
    assert "PermissionError" in outcome.detail and outcome.in_force == ("landlock",)


@needs("seccomp")
def test_seccomp_alone_holds_processes_and_sockets():
    assert "PermissionError" in sandbox.run("import os; os.fork()", QUICK, only("seccomp")).detail
    assert "PermissionError" in sandbox.run("import socket; socket.socket()", QUICK, only("seccomp")).detail


def test_the_caller_is_not_killed(config):
    heard = []
    before = signal.signal(signal.SIGUSR1, lambda *_: heard.append(1))
    try:
        for line in (
            "os.kill(os.getppid(), signal.SIGUSR1)",
            f"os.kill({os.getpid()}, signal.SIGUSR1)",
            "os.kill(-1, 9)",
        ):
            assert is_kept_out(sandbox.run(f"import os, signal\n{line}\n" + returns("1"), QUICK, config))
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert heard == []


@pytest.fixture
def victim():
    """A process of the same user, which is as it was at the end."""
    process = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    affinity = os.sched_getaffinity(process.pid)
    yield process.pid
    assert process.poll() is None
    assert os.sched_getaffinity(process.pid) == affinity
    process.stdin.close()
    assert process.wait() == 0


@pytest.fixture
def outside(tmp_path):
    """A file that anybody who comes there may read and write, in a place where nobody else makes a folder."""
    tmp_path.chmod(0o777)
    file = tmp_path / "secret"
    file.write_text("42")
    file.chmod(0o666)
    return file


on_linux = pytest.mark.skipif(
    sys.platform != "linux" or os.uname().machine not in ("x86_64", "aarch64"), reason="calls of Linux by their numbers"
)


def through(config, *args, **kwargs):
    program = escapes.program(*args, os.uname().machine, **kwargs)
    outcome = sandbox.run(program, sandbox.Limits(seconds=20, cpu_seconds=10), config)
    assert outcome.status == "value", outcome
    return escapes.result(outcome.text)


@on_linux
@needs("seccomp")
@pytest.mark.parametrize("layers", escapes.SYSTEMS.values(), ids=escapes.SYSTEMS)
def test_no_attempt_to_leave_gets_through(layers, victim, outside):
    if confine.lacking(sandbox.in_force(layers)):
        pytest.skip(f"this system has only {', '.join(sandbox.in_force(layers))}")
    if "bubblewrap" not in layers and sandbox.bubblewrap_problem():
        pytest.skip(f"bubblewrap: {sandbox.bubblewrap_problem()}")
    priority = os.getpriority(os.PRIO_PROCESS, victim)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        tried, names = through(without(*layers), victim, str(outside), listener.getsockname()[1])
    assert names == []
    assert tried >= 180
    assert outside.read_text() == "42" and [file.name for file in outside.parent.iterdir()] == ["secret"]
    assert os.getpriority(os.PRIO_PROCESS, victim) == priority


@on_linux
def test_attempts_get_through_where_nothing_is_in_force(victim, outside):
    """They would show a hole: these are refused by the sandbox alone, on any system and for any user."""
    attempts = ("read a file", "read a file, C", "write a file", "a folder in the folder", "nicer")
    attempts += ("memory to run", "own affinity", "a link to a file", "found among subclasses", "the parent")
    calls = (
        "kill",
        "pipe2",
        "memfd_create",
        "fcntl, F_SETOWN",
        "openat2",
        "prctl, PR_SET_DUMPABLE",
        "chdir",
    )
    chosen = {name: escapes.ATTEMPTS[name] for name in attempts}
    _, names = through(
        only("limits"), victim, str(outside), 0, attempts=chosen, calls={name: escapes.CALLS[name] for name in calls}
    )
    assert set(names) == set(chosen) | set(calls)


@on_linux
@needs("mounts")
def test_no_code_comes_from_the_folder_of_a_root_of_its_own(victim, outside):
    attempts = {"attempts": escapes.CODE_IN_THE_FOLDER, "calls": {}}
    assert through(only("namespaces", "mounts"), victim, str(outside), 0, **attempts) == (1, [])
    assert through(only("limits"), victim, str(outside), 0, **attempts) == (1, ["a file to run"])


@pytest.mark.skipif(sys.platform != "linux" or os.uname().machine != "x86_64", reason="code for x86-64")
@needs("seccomp")
@pytest.mark.parametrize(("config", "ends"), [(only("limits"), "value"), (only("seccomp"), "crashed")])
def test_calls_by_32_bit_numbers_end_the_program(config, ends):
    """Code of the program's own: `mov eax, 20; int 0x80; ret`, getpid."""
    program = body(
        "import ctypes, os",
        "with open('code', 'wb') as file:",
        "    file.write(bytes.fromhex('b814000000cd80c3') + bytes(4088))",
        "mmap = ctypes.CDLL(None).mmap",
        "mmap.restype, mmap.argtypes = ctypes.c_void_p, [ctypes.c_void_p] + [ctypes.c_long] * 5",
        "address = mmap(None, 4096, 5, 2, os.open('code', os.O_RDONLY), 0)",
        returns("int(ctypes.CFUNCTYPE(ctypes.c_int)(address)() > 0)"),
    )
    assert sandbox.run(program, QUICK, config).status == ends


@needs("seccomp")
def test_the_callers_limits_are_not_lowered():
    program = f"import resource\nresource.prlimit({os.getpid()}, resource.RLIMIT_NOFILE, (4, 4))\n" + returns("1")
    assert "PermissionError" in sandbox.run(program, QUICK, MODES["kernel only"]).detail


NO_FILES = ("bubblewrap", "mounts", "landlock")


@pytest.mark.parametrize(("layers", "missing"), [(("seccomp",), "seccomp"), (NO_FILES, "landlock")])
def test_no_program_is_run_where_too_little_is_in_force(layers, missing, fresh, tmp_path):
    mark = tmp_path / "mark"
    tmp_path.chmod(0o777)
    with pytest.raises(sandbox.TooWeak, match=missing) as refused:
        sandbox.run(f"open({str(mark)!r}, 'w')", QUICK, sandbox.SandboxConfig(without=layers))
    assert "sandbox.weak=allow" in str(refused.value)
    assert not mark.exists()


@pytest.mark.parametrize("layers", [("seccomp",), NO_FILES])
def test_a_layer_that_fails_when_a_program_starts_stops_it(layers):
    """As where no more namespaces are to be had than those that were tried."""
    left = tuple(layer for layer in sandbox.layers_for(sandbox.SandboxConfig()) if layer not in layers)
    outcome = sandbox._run("print('ran')", QUICK, left, strong=True)
    assert (outcome.status, outcome.printed) == ("refused", "")


@needs("seccomp")
def test_no_program_can_say_that_it_was_refused():
    """It knows the token: it stands in a frame. That would end the caller's run."""
    program = body(
        "import os, sys",
        "frame = sys._getframe()",
        "while 'token' not in frame.f_locals:",
        "    frame = frame.f_back",
        "line = frame.f_locals['token'] + ' refused 41\\n' + frame.f_locals['token'] + ' in_force 41\\n'",
        "os.write(frame.f_locals['results'], line.encode())",
        "os._exit(0)",
    )
    outcome = sandbox.run(program, QUICK, MODES["own layers"])
    assert outcome.status == "crashed" and outcome.in_force == sandbox.in_force(("bubblewrap",))


def test_what_is_in_force_is_said_once(fresh, capfd):
    for _ in range(2):
        sandbox.run(returns("1"), QUICK, without("bubblewrap"))
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("sandbox: limits") and "bubblewrap (left out)" in lines[0]


def test_what_is_allowed_though_weak_is_said(fresh, capfd):
    assert sandbox.run(returns("1"), QUICK, without("seccomp", *NO_FILES)).text == "1"
    line = capfd.readouterr().err
    assert "TOO WEAK" in line and "sandbox.weak=allow" in line and "seccomp" in line and "any file" in line


@needs_bubblewrap
def test_bubblewrap_is_the_outer_layer_where_it_works(fresh):
    assert sandbox.in_force()[0] == "bubblewrap"
    seen = sandbox.run(
        returns("repr((sorted(os.listdir('/')), os.getuid(), os.path.exists('/proc')))"),
        QUICK,
        without("audit", "landlock"),
    )
    names, user, has_proc = eval(seen.text)
    assert not {"home", "root", "proc", "dev", "sys"} & set(names) - {sys.base_prefix.split("/")[1]}
    assert (user, has_proc) == (65534, False)


@needs("seccomp")
def test_a_bubblewrap_that_does_not_work_is_named_and_not_used(fresh, capfd, tmp_path, monkeypatch):
    broken = tmp_path / "bwrap"
    broken.write_text("#!/bin/sh\necho 'bwrap: No permissions to create new namespace'\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert sandbox.run(returns("1"), QUICK, without("landlock")).text == "1"
    assert "bubblewrap (installed, but: No permissions to create new namespace)" in capfd.readouterr().err
    assert "bubblewrap" not in sandbox.in_force()


@needs_bubblewrap
def test_where_bubblewrap_fails_once_a_program_runs_in_the_own_layers(fresh, tmp_path, monkeypatch):
    """As where no more namespaces are to be had than those of the programs that run."""
    assert sandbox.in_force()[0] == "bubblewrap"
    broken = tmp_path / "bwrap"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    outcome = sandbox.run(returns("1"), QUICK)
    assert outcome.text == "1" and "bubblewrap" not in outcome.in_force and not confine.lacking(outcome.in_force)


def test_threads_that_start_together_say_once_what_is_in_force(fresh, capfd):
    with futures.ThreadPoolExecutor(3) as pool:
        assert [outcome.text for outcome in pool.map(lambda _: sandbox.run(returns("1"), QUICK, without()), range(3))]
    assert capfd.readouterr().err.count("sandbox: ") == 1


def test_a_bubblewrap_that_is_not_there_is_named(fresh, capfd, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert sandbox.run(returns("1"), QUICK, without("landlock")).text == "1"
    assert "bubblewrap (not installed)" in capfd.readouterr().err


def test_what_led_below_python_is_gone():
    """A guard rail where the kernel does not help; where it does, `escapes` shows that it would not matter."""
    for line in ("sys.modules['confine']", "sys.modules['ctypes']", "sys.modules['__main__'].confine"):
        outcome = sandbox.run(returns(f"str({line})"), QUICK, MODES["no kernel help"])
        assert outcome.status == "crashed" and "Error" in outcome.detail, outcome


def test_the_setting_of_a_run_reaches_the_sandbox(fresh):
    cfg = composed("model.source=x", "sandbox.weak=allow", "sandbox.without=[landlock]", name="improve")
    assert cfg.sandbox == sandbox.SandboxConfig(weak="allow", without=("landlock",))
    sandbox.configure(cfg.sandbox)
    assert "landlock" not in sandbox.run(returns("1"), QUICK).in_force


@pytest.mark.parametrize(
    ("override", "field"),
    [("sandbox.weak=yes", "sandbox.weak"), ("sandbox.without=[bubblewrap,lock]", "sandbox.without")],
)
def test_wrong_settings_are_refused_by_name(override, field):
    with pytest.raises(ValueError, match=field):
        composed("model.source=x", override, name="improve")


@on_linux
@needs("seccomp")
def test_a_worker_reaches_no_process_and_writes_no_file(fresh, victim, outside, monkeypatch):
    sandbox.configure(without("landlock", "audit"))  # what is left to hold them is seccomp
    lines = {
        "signal": f"os.kill({victim}, 0)",
        "affinity": f"os.sched_setaffinity({victim}, [0])",
        "write": f"open({str(outside)!r}, 'a')",
        "remove": f"os.remove({str(outside)!r})",
        "make": f"open({str(outside)!r} + 'x', 'x')",
        "process": "os.fork()",
        "socket": "__import__('socket').socket()",
        "memory": "__import__('mmap').mmap(-1, 4096, prot=7)",
        "add": "6 * 7",
    }
    calls = worker.Worker("escapes:attempt")
    try:
        replies = json.loads(calls(json.dumps(lines)).text)
    finally:
        calls.close()
    assert replies.pop("add") == "42"
    assert set(replies.values()) == {"refused"}


@pytest.mark.parametrize("kind", [worker.Worker, worker.Lasting])
def test_the_reply_to_an_interrupted_call_is_not_that_to_the_next_one(kind, monkeypatch):
    def interrupted(seconds):
        raise KeyboardInterrupt

    calls = kind("escapes:attempt")
    try:
        assert calls('{"a": "1"}').text == '{"a": "1"}'
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(calls, "_read", interrupted)
            calls('{"a": "2"}')
        assert calls('{"a": "3"}').text == '{"a": "3"}'
    finally:
        calls.close()


def test_a_worker_that_is_too_weak_is_refused_or_said(fresh, capfd):
    calls = worker.Worker("escapes:attempt")
    try:
        sandbox.configure(sandbox.SandboxConfig(without=("seccomp",)))
        with pytest.raises(sandbox.TooWeak, match=r"sandbox\.weak=allow"):
            calls("{}")
        sandbox.configure(without("seccomp"))
        assert calls('{"add": "6 * 7"}').text == '{"add": "42"}'
        assert "TOO WEAK" in capfd.readouterr().err
    finally:
        calls.close()


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
