"""`qstar-solve`: held-out questions, solved by search with scorers; and tables of a search at smaller budgets."""

import sys

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from qstar.cli import entry


@entry.command("solve")
def main(node: DictConfig) -> None:
    # Here, so that --help and bad values are answered at once.
    from qstar.training import console

    with console.phase("loading libraries"):
        from qstar.reports import searches
        from qstar.runs import solve

    if node.tables or node.tree:
        with entry.errors():
            show(node)
        return
    with entry.run(solve.KIND, node) as (cfg, directory):
        console.console().print(searches.table(solve.run(cfg, directory)))
        console.say(f"Every candidate is in {directory}")


def show(node: DictConfig) -> None:
    """Print the table or a tree of a search that is stored; no model is loaded."""
    from qstar.reports import searches
    from qstar.runs import solve
    from qstar.training import console

    if not node.tables:
        raise ValueError(f"tree = {node.tree!r} shows a search that is stored: give tables=DIRECTORY as well")
    cfg, directory = entry.chosen(solve.KIND, node, HydraConfig.get().overrides.task, "tables")
    if cfg.tree:
        console.say(solve.tree(directory, cfg.tree))
    else:
        console.console().print(searches.table(solve.tabulated(cfg, directory)))


if __name__ == "__main__":
    sys.exit(main())
