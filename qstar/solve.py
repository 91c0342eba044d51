"""`qstar-solve`: held-out questions, solved by search with scorers; and tables of a search at smaller budgets.

Without arguments: three strategies with the bundled model and its bundled reward model, in a table.
"""

import dataclasses
import os
import shlex
import sys
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from qstar import advice, overrides
from qstar import config as configs
from qstar.cli import entry, manual
from qstar.config import SolveConfig
from qstar.paths import CONFIGS

configs.register()

ALONE = (  # what the command does without arguments
    "-m", "search=majority,best_of_n,beam", "search.n=16", "scorer=bundled:cups_prm", "aggregate=min"
)  # fmt: skip
GROUPS = ("model", "task", "search")  # a choice among these replaces what a stored configuration has


@hydra.main(version_base="1.3", config_path=CONFIGS, config_name="solve")
def _main(node: DictConfig) -> None:
    # Here, so that --help and bad values are answered at once.
    from qstar.training import console

    with console.phase("loading libraries"):
        from qstar.reports import searches
        from qstar.runs import solve

    with entry.errors() as ending:
        job = HydraConfig.get()
        if job.mode == RunMode.MULTIRUN:  # the jobs of a sweep share a second, so a directory by time would clash
            node.run_dir = os.path.relpath(job.runtime.output_dir)
        cfg, directory = chosen(node, list(job.overrides.task))
        if cfg.tables:
            if cfg.tree:
                console.say(solve.tree(directory, cfg.tree))
            else:
                console.console().print(searches.table(solve.tabulated(cfg, directory)))
            return
        if cfg.tree:
            raise ValueError(f"tree = {cfg.tree!r} shows a search that is stored: give tables=DIRECTORY as well")
        entry.prepare_jax()
        with entry.own_folder(node, directory) as own:
            ending.go_on = lambda: entry.resume("qstar-solve", own) if (own / solve.CONFIG).is_file() else ""
            lines = solve.run(cfg if own == directory else dataclasses.replace(cfg, run_dir=str(own)), own)
        if job.mode == RunMode.MULTIRUN:  # its table stands in that of the sweep
            _swept.append(own)
        else:
            console.console().print(searches.table(lines))
        console.say(f"Every candidate is in {own}")


_swept: list[Path] = []  # directories of the jobs of a sweep that are done


def _compared(directories: list[Path]) -> None:
    """The jobs of a sweep in one table, and how to look further."""
    from qstar.reports import searches
    from qstar.runs import solve
    from qstar.training import console

    runs = [(configs.load(path / solve.CONFIG, schema=SolveConfig), path) for path in directories]
    lines = [line for cfg, path in runs for line in solve.tabulated(cfg, path)]
    console.console().print(searches.table(lines))
    last = directories[-1]
    shown = (advice.override("tables", str(last)), advice.override("tree", solve.questions(last)[0]))
    console.say(f"All that was proposed for a question:  {advice.command('qstar-solve', *shown)}")


def chosen(node: DictConfig, overrides: list[str]) -> tuple[SolveConfig, Path]:
    """The configuration and directory of a new run, or of the one to go on with or to look at.

    Raises FileNotFoundError where `resume` or `tables` names no run of this kind.
    """
    from qstar.runs import solve

    key = "tables" if node.tables else "resume"
    if not node[key]:
        cfg = configs.build(node)
        return cfg, Path(cfg.run_dir)
    directory = solve.latest() if node[key] == "latest" else Path(node[key])
    if not (directory / solve.CONFIG).is_file():
        raise FileNotFoundError(f"{key}={node[key]}: {directory} is no search (no {solve.CONFIG} in it)")
    picked = [group for group in GROUPS if any(override.startswith(f"{group}=") for override in overrides)]
    own = ("resume=", "tables=", "run_dir=", *(f"{group}{after}" for group in picked for after in "=."))
    values = [override for override in overrides if not override.startswith(own)]
    cfg = configs.load(directory / solve.CONFIG, values, SolveConfig)
    changes = {group: getattr(configs.build(node), group) for group in picked}
    return dataclasses.replace(cfg, tables=node.tables, **changes), directory


def main() -> None:
    if manual.asked(sys.argv[1:]):
        manual.show("solve", sys.argv[1:])
    else:
        if not sys.argv[1:]:
            print(f"without arguments, the same as: qstar-solve {shlex.join(ALONE)}", file=sys.stderr, flush=True)
            sys.argv += ALONE
        overrides.run("solve", _main)
        if len(_swept) > 1:
            _compared(_swept)


if __name__ == "__main__":
    main()
