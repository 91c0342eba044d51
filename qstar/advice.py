"""Commands that are advised: what is printed works when it is pasted into a shell, whatever the paths in it.

Two languages are spoken on a command line: the shell's, and Hydra's in the values of `key=value`.
"""

import re
import shlex
from pathlib import Path

from hydra.core.override_parser.types import Quote, QuotedString

# What Hydra reads without quotes. A number, a truth value or null would become one.
_PLAIN = re.compile(
    r"[a-z0-9_./-]*/[a-z0-9_./-]*|(?!(true|false|yes|no|on|off|null|none|inf|nan)$)[a-z_][a-z0-9_.-]*", re.IGNORECASE
)


def command(program: str, *arguments: str) -> str:
    """A command line, in the quotes that a shell needs."""
    return shlex.join([program, *arguments])


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
