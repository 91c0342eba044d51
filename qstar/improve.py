"""`qstar-improve`: a language model teaches itself to reason: sample, grade, keep what is right, train, again.

Without arguments: the bundled model of sums, three iterations, in a few minutes.
"""

import dataclasses
import os
import sys
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from qstar import config as configs
from qstar import overrides
from qstar.cli import entry, manual
from qstar.config import ImproveConfig
from qstar.paths import CONFIGS

configs.register()

ALONE = "experiments=star/sums"  # what the command does without arguments


@hydra.main(version_base="1.3", config_path=CONFIGS, config_name="improve")
def _main(node: DictConfig) -> None:
    # Here, so that --help and bad values are answered at once.
    from qstar.training import console

    with console.phase("loading libraries"):
        from qstar.reports import summaries
        from qstar.runs import improve, iterations

    with entry.errors() as ending:
        job = HydraConfig.get()
        if job.mode == RunMode.MULTIRUN:  # the jobs of a sweep share a second, so a directory by time would clash
            node.run_dir = os.path.relpath(job.runtime.output_dir)
        cfg, directory = chosen(node, list(job.overrides.task))
        entry.prepare_jax()
        with entry.own_folder(node, directory) as own:
            ending.go_on = lambda: entry.resume("qstar-improve", own) if (own / iterations.CONFIG).is_file() else ""
            lines = improve.run(cfg if own == directory else dataclasses.replace(cfg, run_dir=str(own)), own)
        console.console().print(summaries.progress(lines))
        console.say(f"Everything is in {own}; summary.md has what it cost")


def chosen(node: DictConfig, overrides: list[str]) -> tuple[ImproveConfig, Path]:
    """The configuration and directory of a new run, or of the one to go on with, with the values that were overridden.

    Raises FileNotFoundError where `resume` names no run of this kind.
    """
    from qstar.runs import iterations

    if not node.resume:
        cfg = configs.build(node)
        return cfg, Path(cfg.run_dir)
    directory = iterations.latest() if node.resume == "latest" else Path(node.resume)
    if not (directory / iterations.CONFIG).is_file():
        raise FileNotFoundError(
            f"resume={node.resume}: {directory} is no self-training run (no {iterations.CONFIG} in it)"
        )
    values = [override for override in overrides if not override.startswith(("resume=", "run_dir="))]
    return configs.load(directory / iterations.CONFIG, values, ImproveConfig), directory


def main() -> None:
    if manual.asked(sys.argv[1:]):
        manual.show("improve", sys.argv[1:])
    else:
        if not sys.argv[1:]:
            print(f"without arguments, the same as: qstar-improve {ALONE}", file=sys.stderr, flush=True)
            sys.argv.append(ALONE)
        overrides.run("improve", _main)


if __name__ == "__main__":
    main()
