"""`qstar-improve`: a language model teaches itself to reason: sample, grade, keep what is right, train, again."""

import sys

from omegaconf import DictConfig

from qstar.cli import entry


@entry.command("improve")
def main(node: DictConfig) -> None:
    # Here, so that --help and bad values are answered at once.
    from qstar.training import console

    with console.phase("loading libraries"):
        from qstar.reports import summaries
        from qstar.runs import improve, iterations

    with entry.run(iterations.KIND, node) as (cfg, directory):
        lines = improve.run(cfg, directory)
        console.console().print(summaries.iterations(lines), markup=False)
        console.say(f"Everything is in {directory}")


if __name__ == "__main__":
    sys.exit(main())
