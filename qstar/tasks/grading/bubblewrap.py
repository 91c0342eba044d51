"""`bwrap` (bubblewrap, the sandbox of Flatpak) as the outer layer: a root with the interpreter and one folder, no more.

A namespace of its own for users, processes, network, System V memory, host name and control groups; no /proc, no /dev.
"""

import os
import shutil
import sys
from collections.abc import Sequence


def program() -> str:
    """Where `bwrap` is; "" where it is not installed."""
    return shutil.which("bwrap") or ""


def interpreter() -> str:
    """The interpreter itself: inside there is no virtual environment whose link leads to it."""
    return os.path.realpath(sys._base_executable)


def around(command: Sequence[str], folder: str, readable: Sequence[str]) -> list[str]:
    """A command with `bwrap` around it. `readable` may name what is not there; `folder` alone can be written to."""
    options = ["--unshare-user", "--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts"]
    options += ["--unshare-cgroup-try", "--uid", "65534", "--gid", "65534", "--cap-drop", "ALL", "--die-with-parent"]
    for path in readable:
        options += ["--ro-bind-try", path, path]
    options += ["--bind", folder, folder, "--remount-ro", "/", "--chdir", folder]
    return [program(), *options, "--", *command]
