"""Paired tests between two evaluations on the same items, or within one: with thoughts against without."""

import argparse
import textwrap
from pathlib import Path

from qstar.cli import flags

EXAMPLES = """\
examples
  qstar-evaluate run=runs/mine eval=questions out=evaluations/mine
  qstar-evaluate run=runs/mine/control eval=questions out=evaluations/control
  qstar-compare evaluations/mine                            with thoughts against without
  qstar-compare evaluations/control evaluations/mine        the second against the first
  qstar-compare evaluations/mine/step_0 evaluations/mine/step_100

Items that both have answered are paired by their ids. Right and wrong answers are compared by
McNemar's exact test, numbers by a permutation test that flips the signs of the differences. Of two
evaluations each way of answering is compared with the same way of the other, or with no thoughts
where the first was not evaluated in that way.
"""


def parser() -> argparse.ArgumentParser:
    out = argparse.ArgumentParser(
        prog="qstar-compare",
        description=textwrap.fill(__doc__, 100),
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    out.add_argument("first", metavar="FIRST", type=Path, help="folder that qstar-evaluate out=FOLDER wrote")
    out.add_argument("second", metavar="SECOND", type=Path, nargs="?", help="another; without it FIRST with itself")
    return out


def main(arguments: list[str] | None = None) -> None:
    args = flags.parsed(parser(), arguments)
    from qstar.training import console  # here, so that --help answers at once

    try:
        with console.phase("comparing", aside=True):
            from qstar.reports import compared

            comparisons = compared.paired_tests(args.first, args.second)
    except (ValueError, OSError) as error:
        raise SystemExit(f"qstar-compare: {error}") from error
    from qstar.reports import summaries

    names = f"{args.second} against {args.first}" if args.second else f"{args.first}, thoughts against none"
    console.console().print(summaries.comparisons(comparisons, f"{names}, on the same items"))


if __name__ == "__main__":
    main()
