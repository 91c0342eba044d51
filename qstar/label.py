"""`qstar-label`: solutions in, labels of their steps out: what process reward models are trained on."""

from omegaconf import DictConfig

from qstar.cli import entry


@entry.command("label")
def main(node: DictConfig) -> None:
    # Here, so that --help and bad values are answered at once.
    from qstar.training import console

    with console.phase("loading libraries"):
        from qstar.reports import summaries
        from qstar.runs import label

    with entry.run(label.KIND, node) as (cfg, directory):
        summary = label.run(cfg, directory)
        console.console().print(summaries.labels(summary), markup=False, highlight=False)
        console.say(f"Labels are in {directory / label.LABELS}")


if __name__ == "__main__":
    main()
