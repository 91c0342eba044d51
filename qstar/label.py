"""`qstar-label`: solutions in, labels of their steps out: what process reward models are trained on."""

from omegaconf import DictConfig

from qstar import config as configs
from qstar.cli import entry


@entry.command("label")
def main(node: DictConfig) -> None:
    # Here, so that --help and bad values are answered at once.
    from qstar.training import console

    with console.phase("loading libraries"):
        from qstar import processes
        from qstar.reports import summaries
        from qstar.runs import label
        from qstar.training.metrics import Sinks, numbers

    with entry.run(label.KIND, node) as (cfg, directory):
        with Sinks(directory, cfg.sinks, configs.flat(cfg)) as sinks:
            summary = label.run(cfg, directory)
            sinks.open(0)
            sinks.write(0, numbers(summary))
        if not processes.first():
            return
        console.console().print(summaries.labels(summary))
        console.say(f"Labels are in {directory / label.LABELS}")
        for what, file in label.beside(cfg).items():
            console.say(f"  {what}: {directory / file}")


if __name__ == "__main__":
    main()
