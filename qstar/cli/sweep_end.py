"""What a sweep of trainings ends with: one table of its jobs, on the terminal and in the folder of the sweep."""

from collections.abc import Sequence
from pathlib import Path

from qstar import files

TABLE = "sweep.md"
SHOWN = 8  # results in which runs differ, on the terminal; the file has all of them

jobs: list[Path] = []
"""Directories of the jobs of this process that are done; a command adds its own in a sweep."""


def compare(directories: Sequence[Path] | None = None) -> None:
    """Print the jobs' differing settings and last results as one table, and write it beside them."""
    from qstar.reports import directories as kinds
    from qstar.reports import html, sweeps, tables
    from qstar.training import console

    done = jobs if directories is None else directories
    runs = [path for path in done if kinds.kind_of(path) is not None]
    if len(runs) < 2:
        return
    folder = runs[0].parent
    sweep = sweeps.of_runs([kinds.open(path) for path in runs], folder)
    records = sweep.shown().records()

    def lines(names: Sequence[str]) -> list[list[str]]:
        return [[html.written(record[name]) for name in names] for record in records]

    whole = ["run", *sweep.overrides, *sweep.results]
    files.write(folder / TABLE, tables.markdown([sweeps.title(name) for name in whole], lines(whole)))
    same, differ = sweep.folded()
    results = [name for name in differ if name in sweep.results]
    shown = [name for name in differ if name not in results[SHOWN:]]
    screen = console.console()
    if same:
        facts = ", ".join(f"{sweeps.title(name)} {html.written(value)}" for name, value in same)
        screen.print(f"All runs: {facts}", markup=False, emoji=False)
    titles = tables.short_names([sweeps.title(name) for name in shown])
    for table in tables.fitting(titles, lines(shown), screen.width, text=len(shown) - len(results)):
        screen.print(table)
    console.say(f"The whole table is in {folder / TABLE}")
