"""`qstar-train`: train a model to think, beside its control. Without arguments: the bundled task, in a few minutes."""

from omegaconf import DictConfig

from qstar.cli import entry, sweep_end


@entry.command("train", after=sweep_end.compare)
def main(node: DictConfig) -> None:
    # Here, so that --help and bad values are answered at once.
    from qstar.training import console

    with console.phase("loading libraries"):
        from qstar.runs import stored, train

    with entry.run(stored.TRAINING, node) as (cfg, directory):
        train.run(cfg, directory)
        if entry.in_a_sweep():
            sweep_end.jobs.append(directory)


if __name__ == "__main__":
    main()
