"""Flags of the commands that argparse reads, held to the types of `settings`."""

import argparse
from collections.abc import Callable
from typing import Any

from qstar import settings


def number(hint: Any) -> Callable[[str], float]:
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


def check(parser: argparse.ArgumentParser, rule: Callable[..., None], *arguments: Any) -> None:
    """Leave with the parser's message where `rule` raises ValueError for these arguments."""
    try:
        rule(*arguments)
    except ValueError as error:
        parser.error(str(error))
