"""Flags of the commands and scripts that argparse reads, checked by the types of `settings`."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from qstar import settings


def parser(description: str | None) -> argparse.ArgumentParser:
    """Of a script whose docstring says what it does and how it is called."""
    return argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)


def parsed(parser: argparse.ArgumentParser, arguments: Sequence[str] | None) -> argparse.Namespace:
    """What the arguments say; a message spells out flags that were given as overrides."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    args, left = parser.parse_known_args(words)
    usage = parser.format_usage()
    pairs = [word.split("=", 1) for word in _loose(parser, args, left) if "=" in word and not Path(word).exists()]
    meant = [f"{name}={value} is given as --{name} {value}" for name, value in pairs if f"[--{name} " in usage]
    if left:
        parser.error("; ".join([f"unrecognized arguments: {' '.join(left)}", *meant]))
    if meant:
        parser.error("; ".join(meant))
    return args


def _loose(parser: argparse.ArgumentParser, args: argparse.Namespace, left: Sequence[str]) -> list[str]:
    """Arguments that belong to no flag: those with a place, and those without."""
    placed = (getattr(args, action.dest) for action in parser._get_positional_actions())
    return [str(word) for value in placed for word in (value if isinstance(value, list) else [value])] + list(left)


def overriding(parser: argparse.ArgumentParser, flag: str, what: str) -> None:
    """A flag that takes overrides as a command does."""
    parser.add_argument(flag, nargs="+", default=[], metavar="KEY=VALUE", help=what)


def named(text: str) -> tuple[str, Path]:
    """NAME=PATH, with `type=flags.named`."""
    name, separator, path = text.partition("=")
    if not (name and separator and path):
        raise argparse.ArgumentTypeError(f"expected NAME=PATH, got {text!r}")
    return name, Path(path)


def labelled(text: str) -> tuple[int, str]:
    """Number and model or folder of `LABEL=WHERE`, with `type=flags.labelled`; WHERE alone is 0."""
    label, _, where = text.partition("=")
    return (int(label), where) if where and label.isdecimal() else (0, text)


def number(hint: object) -> Callable[[str], float]:
    """What argparse makes of a number: `type=number(Count)`. One that is not legal is refused with its flag."""
    rule = settings.rule(hint)

    def parse(text: str) -> float:
        try:
            value = rule.kind(text)
        except ValueError:
            value = text
        refusal = rule.refusal(value)
        if refusal:
            raise argparse.ArgumentTypeError(f"{text}{refusal}")
        return value

    return parse


def check(parser: argparse.ArgumentParser, rule: Callable[..., None], *arguments: object) -> None:
    """Exit with the parser's message where `rule` raises ValueError for these arguments."""
    try:
        rule(*arguments)
    except ValueError as error:
        parser.error(str(error))


def replaced(file: Path) -> str:
    """To end the line that names a file which is about to be written: whether it takes the place of another one."""
    return " (the earlier one is overwritten)" if file.exists() else ""
