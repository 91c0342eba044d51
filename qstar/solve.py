"""`qstar-solve`: held-out questions, solved by search with scorers; and tables of a search at smaller budgets.

Without arguments: three strategies with the bundled model and its bundled reward model, in a table.
"""

import dataclasses
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from qstar import advice
from qstar import config as configs
from qstar.cli import entry
from qstar.config import SolveConfig

ALONE = (  # what the command does without arguments
    "-m", "search=majority_of_16,best_of_n,beam_of_10", "scorer=bundled:cups_prm", "aggregate=min"
)  # fmt: skip

_swept: list[Path] = []  # directories of the jobs of a sweep that are done


@entry.command("solve", ALONE, lambda: compare(_swept))
def main(node: DictConfig) -> None:
    # Here, so that --help and bad values are answered at once.
    from qstar.training import console

    with console.phase("loading libraries"):
        from qstar import processes
        from qstar.reports import searches
        from qstar.runs import solve
        from qstar.training.metrics import Sinks, numbers

    if node.tables or node.tree:
        with entry.errors():
            show(node)
        return
    with entry.run(solve.KIND, node) as (cfg, directory):
        with Sinks(directory, cfg.sinks, configs.flat(cfg)) as sinks:
            lines = solve.run(cfg, directory)
            sinks.open(0)
            for step, line in enumerate(lines):  # one for every budget
                sinks.write(step, numbers(dataclasses.asdict(line)))
        if not processes.first():
            return
        if entry.in_a_sweep():  # its table is part of that of the sweep
            _swept.append(directory)
        else:
            console.console().print(searches.table(lines))
        console.say(f"Every candidate is in {directory}")


def compare(directories: list[Path]) -> None:
    """The jobs of a sweep in one table, and the command that shows a tree."""
    if len(directories) < 2:
        return
    from qstar.reports import searches
    from qstar.runs import solve
    from qstar.training import console

    runs = [(configs.load(path / solve.KIND.file, schema=SolveConfig), path) for path in directories]
    lines = [line for cfg, path in runs for line in solve.tabulated(cfg, path)]
    console.console().print(searches.table(lines))
    last = directories[-1]
    shown = (advice.override("tables", str(last)), advice.override("tree", solve.questions(last)[0]))
    console.say(f"All candidates of a question:  {advice.command('qstar-solve', *shown)}")


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
    main()
