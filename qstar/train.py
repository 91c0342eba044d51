"""`qstar-train`: train a model to think, beside its control. Without arguments: the bundled task, in a few minutes."""

from omegaconf import DictConfig

from qstar.cli import entry


@entry.command("train")
def main(node: DictConfig) -> None:
    # Here, so that --help and bad values are answered at once.
    from qstar.training import console

    with console.phase("loading libraries"):
        from qstar import processes
        from qstar.runs import stored, train

    with entry.errors():
        processes.join()
    with entry.run(stored.TRAINING, node) as (cfg, directory):
        train.run(cfg, directory)


if __name__ == "__main__":
    main()
