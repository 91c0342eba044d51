"""`qstar-solve`: held-out questions, solved by search with scorers; and tables of a search at smaller budgets."""

import dataclasses
import sys
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from qstar import config as configs
from qstar import overrides
from qstar.cli import entry, manual
from qstar.config import SolveConfig
from qstar.paths import CONFIGS

configs.register()

GROUPS = ("model", "task", "search")  # a choice among these replaces what a stored configuration has


@hydra.main(version_base="1.3", config_path=CONFIGS, config_name="solve")
def _main(node: DictConfig) -> None:
    # Here, so that --help and bad values are answered at once.
    from qstar.training import console

    with console.phase("loading libraries"):
        from qstar.reports import searches
        from qstar.runs import solve

    with entry.errors() as ending:
        cfg, directory = chosen(node, list(HydraConfig.get().overrides.task))
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
        console.console().print(searches.table(lines))
        console.say(f"Every candidate is in {own}")


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
        overrides.run("solve", _main)


if __name__ == "__main__":
    sys.exit(main())
