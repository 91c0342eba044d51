"""Commands that are advised: what is printed works when it is pasted into a shell, whatever the paths in it.

Two languages are spoken on a command line: the shell's, and Hydra's in the values of `key=value`.
"""

import os
import re
import shlex
import shutil
import sys
from pathlib import Path

from hydra.core.override_parser.types import Quote, QuotedString

# What Hydra reads without quotes. A number, a truth value or null would become one.
_PLAIN = re.compile(
    r"[a-z0-9_./-]*/[a-z0-9_./-]*|(?!(true|false|yes|no|on|off|null|none|inf|nan)$)[a-z_][a-z0-9_.-]*", re.IGNORECASE
)


def command(name: str, *arguments: str) -> str:
    """A command line, in the quotes that a shell needs."""
    return shlex.join([program(name), *arguments])


def program(name: str) -> str:
    """A console script as a shell finds it: its name, or its path where the environment of this Python is not active.

    The path is relative where the environment lies below the working directory: `.venv/bin/qstar-train`.
    """
    here = Path(sys.executable).parent / name
    on_path = shutil.which(name)
    if not here.is_file() or (on_path and os.path.samefile(on_path, here)):
        return name
    return str(here.relative_to(Path.cwd()) if here.is_relative_to(Path.cwd()) else here)


def override(key: str, value: object) -> str:
    """`key=value` as Hydra reads it, in quotes of its own where it needs them."""
    return f"{key}={_value(value)}"


def _value(value: object) -> str:
    match value:
        case None | bool():
            return {None: "null", True: "true", False: "false"}[value]
        case int() | float():
            return repr(value)
        case list() | tuple():
            return "[" + ",".join(_value(item) for item in value) + "]"
        case dict():
            return "{" + ",".join(f"{_text(str(key))}:{_value(item)}" for key, item in value.items()) + "}"
    return _text(str(value))


def _text(text: str) -> str:
    if _PLAIN.fullmatch(text):
        return text
    looked_up = re.compile(r"(\\*)\$\{")  # ${...}, unless a backslash precedes it
    escaped = looked_up.sub(lambda match: 2 * match[1] + r"\${", text)
    return QuotedString(escaped, Quote.double).with_quotes()


def path(value: str | Path) -> str:
    """A path as an argument that is not taken for an option."""
    return f"./{value}" if str(value).startswith("-") else str(value)


def resume(program: str, directory: str | Path) -> str:
    """The command that resumes a run."""
    return command(program, override("resume", directory))
