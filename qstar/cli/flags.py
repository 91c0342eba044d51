"""Flags of the commands and scripts that argparse reads, checked by the types of `settings`."""

import argparse
from collections.abc import Callable

from qstar import settings


def parser(description: str | None) -> argparse.ArgumentParser:
    """Of a script whose docstring says what it does and how it is called."""
    return argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)


def overriding(parser: argparse.ArgumentParser, flag: str, what: str) -> None:
    """A flag that takes overrides as a command does."""
    parser.add_argument(flag, nargs="+", default=[], metavar="KEY=VALUE", help=what)


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
