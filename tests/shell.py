"""Command lines that are pasted into a shell, with the console scripts called in this process."""

import importlib
import subprocess
import sys

from hydra.core.global_hydra import GlobalHydra


def arguments(command: str) -> list[str]:
    """What a program is given when its command line is pasted into a shell, its name first."""
    program = command.split()[0]
    define = f'{program}() {{ printf "%s\\0" {program} "$@"; }}\n'
    out = subprocess.run(["bash", "-c", define + command], capture_output=True, check=True).stdout
    return out.decode().split("\0")[:-1]


def paste(command: str, monkeypatch) -> int:
    """Run a command line as a shell does; the exit status."""
    program = command.split()[0]
    if not program.startswith("qstar-"):
        return subprocess.run(["sh", "-c", command], check=False).returncode
    GlobalHydra.instance().clear()
    monkeypatch.setattr(sys, "argv", arguments(command))
    try:
        name = program.removeprefix("qstar-")
        # `qstar.compare` is a function of the library.
        importlib.import_module("qstar.cli.compare" if name == "compare" else f"qstar.{name}").main()
    except SystemExit as end:
        return end.code or 0
    finally:
        GlobalHydra.instance().clear()
    return 0
