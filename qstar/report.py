"""`qstar-report`: a run, a sweep or a comparison as one self-contained HTML page."""

import argparse
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

from qstar import paths
from qstar.cli import flags
from qstar.settings import Whole

if TYPE_CHECKING:
    from qstar.reports.compared import Compared
    from qstar.reports.directories import RunDirectory
    from qstar.reports.faithfulness import Held
    from qstar.reports.sweeps import Sweep

EXAMPLES = """\
examples
  qstar-report                                  the newest run under runs/
  qstar-report runs/mine --out mine.html
  qstar-report runs/tiny/sweep-20250101-120000  all runs below a folder, with
                                                means over seeds
  qstar-report runs/a runs/b                    two runs, or evaluations, beside
                                                each other
  qstar-report runs/a runs/b runs/c             several runs as a sweep
  qstar-report runs/mine --read 0               without reading texts with the
                                                model
  qstar-report experiments/quiet_star/faithfulness
                                                what thoughts hold, of the runs
                                                of a study

A run is what qstar-train, qstar-improve, qstar-solve or qstar-label left, or
qstar-evaluate with out=FOLDER. The page has curves, tables with intervals,
thoughts or samples, search trees, tokens and FLOPs, settings and the machine,
as far as the run has them, and what thoughts hold where
experiments/quiet_star/faithfulness/faithfulness.py RUN measured it. It loads
nothing, and takes the place of the page that an earlier call wrote there.
"""


def parser() -> argparse.ArgumentParser:
    out = argparse.ArgumentParser(
        prog="qstar-report",
        description=textwrap.fill(__doc__, 80),
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    out.add_argument("runs", metavar="RUN", nargs="*", default=["latest"], help="run directories, or a folder of runs")
    out.add_argument("--out", type=Path, default=Path("report.html"), metavar="FILE", help="page (report.html)")
    out.add_argument(
        "--read",
        type=flags.number(Whole),
        default=32,
        metavar="N",
        help="held-out texts that a model that thinks reads (32)",
    )
    return out


def opened(runs: list[str]) -> "RunDirectory | Sweep | Compared | Held":
    """What these arguments name. Raises FileNotFoundError and ValueError as `qstar.open` and its like."""
    from qstar.reports import compared, directories, faithfulness, sweeps

    if len(runs) == 2:
        return compared.compare(*runs)
    if len(runs) > 2:
        return sweeps.of_runs([directories.open(run) for run in runs])
    (run,) = runs
    folder = Path(run)
    if folder.is_dir() and directories.kind_of(folder) is None:
        if directories.run_folders(folder):
            return sweeps.sweep(folder)
        if (folder / faithfulness.STUDY).is_file():
            return faithfulness.of_study(folder)
    return directories.open(run)


def main(arguments: list[str] | None = None) -> None:
    out = parser()
    args = flags.parsed(out, arguments)
    flags.check(out, paths.check_file, "--out", args.out)
    from qstar.cli import entry

    with entry.errors():
        entry.prepare_jax()
        from qstar.reports import document
        from qstar.training import console

        with console.phase("making the report", aside=True):
            page = document.page(opened(args.runs), read=args.read)
            replaced = flags.replaced(args.out)
            args.out.write_text(page, encoding="utf-8")
        console.say(f"The report is {args.out}{replaced}")


if __name__ == "__main__":
    main()
