"""Paired tests between two evaluations on the same items, or within one: with thoughts against without."""

import argparse
import textwrap
from pathlib import Path

from qstar.cli import flags

EXAMPLES = """\
examples, after qstar-train steps=40 save_every=20 run_dir=runs/mine
  qstar-evaluate run=runs/mine step=all out=evaluations/mine
  qstar-compare evaluations/mine/step_20 evaluations/mine/step_40
                                         the second against the first
  qstar-compare evaluations/mine/step_40
                                         with thoughts against without
  qstar-evaluate run=runs/mine/control out=evaluations/control
  qstar-compare evaluations/control evaluations/mine/step_40
  qstar-compare runs/solve/SWEEP/0 runs/solve/SWEEP/1
                                         two searches of the same questions

Items that both have answered are paired by their ids. Right and wrong answers
are compared by McNemar's exact test, numbers by a permutation test that flips
the signs of the differences. Of two evaluations each way of answering is
compared with the same way of the other, or with no thoughts where the first
was not evaluated in that way.
"""


def parser() -> argparse.ArgumentParser:
    out = argparse.ArgumentParser(
        prog="qstar-compare",
        description=textwrap.fill(__doc__, 80),
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    out.add_argument(
        "first", metavar="FIRST", type=Path, help="folder of qstar-evaluate out=FOLDER, or a run of qstar-solve"
    )
    out.add_argument("second", metavar="SECOND", type=Path, nargs="?", help="another; without it FIRST with itself")
    return out


def main(arguments: list[str] | None = None) -> None:
    args = flags.parsed(parser(), arguments)
    from qstar.training import console  # here, so that --help answers at once

    try:
        with console.phase("comparing", aside=True):
            from qstar.reports import compared

            if args.second and args.first.resolve() == args.second.resolve():
                raise ValueError(f"{args.first} is given twice: name another one, or none, for thoughts against none")
            comparisons = compared.paired_tests(args.first, args.second)
            left_out = compared.unpaired(args.first, args.second)
    except (ValueError, OSError) as error:
        raise SystemExit(f"qstar-compare: {error}") from error
    from qstar.reports import summaries

    title = f"{args.second} against {args.first}" if args.second else f"{args.first}, thoughts against none"
    names = compared.names(args.first, args.second) if args.second else summaries.OWN
    console.console().print(summaries.comparisons(comparisons, f"{title}, on the same items", names, left_out))


if __name__ == "__main__":
    main()
