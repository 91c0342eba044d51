"""How many wrong answers does each grader accept, and how many programs leave the sandbox? Two tables.

    python experiments/checks/adversarial.py [name ...]

All attacks of `tests/tasks/grading/adversarial.py` on every grader (`name`: those whose name begins so), then all
attempts of `tests/tasks/grading/escapes.py` on the sandbox as systems of several kinds have it, with the time that a
program takes (`name`: sandbox). Right answers in several spellings are the control: a grader that refuses everything
would show there. The longest verdict includes processes that are killed at their limits. Needs the extras `math` and
`gym` for their graders.
"""

import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests" / "tasks" / "grading"))
import adversarial
import escapes

from qstar.reports import tables
from qstar.tasks.grading import confine, sandbox

NAMES = ("grader", "kind", "tried", "accepted", "longest, s")
NAMES_SANDBOX = ("in force, besides limits and identity", "tried", "succeeded", "a program, ms")
PROGRAMS = 50  # that are timed


def main(names: list[str]) -> int:
    """Print the tables; the exit status counts what was wrongly taken or refused, and what got through."""
    print(sandbox.statement(sandbox.in_force()), end="\n\n")
    sandbox.configure(sandbox.SandboxConfig(weak="allow"))
    mistakes = 0 if names == ["sandbox"] else graders(names)
    if not names or "sandbox" in names:
        mistakes += programs()
    return min(mistakes, 100)


def graders(names: list[str]) -> int:
    """Print a table; wrong answers taken and right ones refused."""
    print(tables.head(NAMES))
    wrongly = refused = tried = controls = 0
    for subject in adversarial.subjects():
        if names and not any(subject.name.startswith(name) for name in names):
            continue
        table = adversarial.counts(adversarial.judge(subject, adversarial.cases(subject)))
        for kind, row in table.items():
            cells = (subject.name, kind, row["tried"], row["accepted"], f"{row['longest']:.1f}")
            print(tables.row(cells), flush=True)
        right = table.pop("right")
        wrongly += sum(row["accepted"] for row in table.values())
        tried += sum(row["tried"] for row in table.values())
        refused += right["tried"] - right["accepted"]
        controls += right["tried"]
    print(f"\nwrong answers tried: {tried}, accepted wrongly: {wrongly}")
    print(f"right answers tried: {controls}, refused: {refused}\n")
    return wrongly + refused


def programs() -> int:
    """Print a table; attempts that got through where the sandbox is strong enough to be used."""
    print(tables.head(NAMES_SANDBOX))
    through = 0
    victim = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    with tempfile.TemporaryDirectory() as folder, socket.create_server(("127.0.0.1", 0)) as listener, victim:
        os.chmod(folder, 0o777)
        outside = Path(folder, "secret")
        outside.write_text("42")
        outside.chmod(0o666)
        port = listener.getsockname()[1]
        program = escapes.program(victim.pid, str(outside), port, os.uname().machine)
        for layers in escapes.SYSTEMS.values():
            held = sandbox.in_force(layers)
            if confine.lacking(held) or ("bubblewrap" not in layers and "bubblewrap" not in held):
                continue
            config = sandbox.SandboxConfig(without=layers)
            tried, names = escapes.result(sandbox.run(program, sandbox.Limits(seconds=60), config).text)
            through += len(names)
            layer_names = ", ".join(name for name in held if name not in ("limits", "identity"))
            print(tables.row([layer_names, tried, ", ".join(names) or 0, f"{median_ms(config):.0f}"]), flush=True)
        victim.stdin.close()
    return through


def median_ms(config: sandbox.SandboxConfig) -> float:
    times = []
    for _ in range(PROGRAMS):
        start = time.perf_counter()
        sandbox.run(sandbox.TRIAL, config=config)
        times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
