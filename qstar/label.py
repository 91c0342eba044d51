"""`qstar-label`: solutions in, labels of their steps out: what process reward models are trained on."""

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
from qstar.config import LabelConfig
from qstar.paths import CONFIGS

configs.register()


@hydra.main(version_base="1.3", config_path=CONFIGS, config_name="label")
def _main(node: DictConfig) -> None:
    # Here, so that --help and bad values are answered at once.
    from qstar.training import console

    with console.phase("loading libraries"):
        from qstar.reports import summaries
        from qstar.runs import label

    with entry.errors() as ending:
        job = HydraConfig.get()
        if job.mode == RunMode.MULTIRUN:  # the jobs of a sweep share a second, so a directory by time would clash
            node.run_dir = os.path.relpath(job.runtime.output_dir)
        cfg, directory = chosen(node, list(job.overrides.task))
        entry.prepare_jax()
        with entry.own_folder(node, directory) as own:
            ending.go_on = lambda: entry.resume("qstar-label", own) if (own / label.CONFIG).is_file() else ""
            summary = label.run(cfg if own == directory else dataclasses.replace(cfg, run_dir=str(own)), own)
        console.console().print(summaries.labels(summary), markup=False, highlight=False)
        console.say(f"Labels are in {own / label.LABELS}")


def chosen(node: DictConfig, given: list[str]) -> tuple[LabelConfig, Path]:
    """The configuration and directory of a new run, or of the one to go on with, with the values that were overridden.

    Raises FileNotFoundError where `resume` names no run of this kind.
    """
    from qstar.runs import label

    if not node.resume:
        cfg = configs.build(node)
        return cfg, Path(cfg.run_dir)
    directory = Path(node.resume)
    if not (directory / label.CONFIG).is_file():
        raise FileNotFoundError(f"resume={node.resume}: {directory} is no run of qstar-label (no {label.CONFIG} in it)")
    values = [override for override in given if not override.startswith(("resume=", "run_dir="))]
    return configs.load(directory / label.CONFIG, values, LabelConfig), directory


def main() -> None:
    if manual.asked(sys.argv[1:]):
        manual.show("label", sys.argv[1:])
    else:
        overrides.run("label", _main)


if __name__ == "__main__":
    main()
