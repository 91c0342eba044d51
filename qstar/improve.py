"""`qstar-improve`: a language model teaches itself to reason: sample, grade, keep what is right, train, again.

Without arguments: the bundled model of sums, three iterations, in a few minutes.
"""

from omegaconf import DictConfig

from qstar import config as configs
from qstar.cli import entry, sweep_end

ALONE = ("experiments=star/sums",)  # what the command does without arguments


@entry.command("improve", ALONE, sweep_end.compare)
def main(node: DictConfig) -> None:
    # Here, so that --help and bad values are answered at once.
    from qstar.training import console

    with console.phase("loading libraries"):
        from qstar.reports import summaries
        from qstar.runs import improve, iterations
        from qstar.training.metrics import Sinks

    with entry.run(iterations.KIND, node) as (cfg, directory):
        with Sinks(directory, cfg.sinks, configs.flat(cfg)) as sinks:
            lines = improve.run(cfg, directory)
            iterations.show(sinks, directory, lines)
        console.console().print(summaries.progress(lines))
        console.say(f"Everything is in {directory}; summary.md has what it cost")
        if entry.in_a_sweep():
            sweep_end.jobs.append(directory)


if __name__ == "__main__":
    main()
