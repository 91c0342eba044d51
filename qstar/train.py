"""`qstar-train`: train a model to think, beside its control. Without arguments: the bundled task, in a few minutes."""

import dataclasses
import os
import sys
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from qstar import config as configs
from qstar import overrides, runs
from qstar.cli import entry, manual
from qstar.config import TrainConfig
from qstar.paths import CONFIGS

configs.register()


@hydra.main(version_base="1.3", config_path=CONFIGS, config_name="train")
def _main(node: DictConfig) -> None:
    from qstar.training import console

    with console.phase("loading libraries"):
        from qstar import processes
        from qstar.runs import train  # here, so that --help and bad values are answered at once

    with entry.errors() as ending:
        job = HydraConfig.get()
        if job.mode == RunMode.MULTIRUN:  # the jobs of a sweep share a second, so a directory by time would clash
            node.run_dir = os.path.relpath(job.runtime.output_dir)
        processes.join()
        cfg, directory = chosen(configs.build(node), job.overrides.task)
        entry.prepare_jax()
        with entry.own_folder(node, directory) as own:
            ending.go_on = lambda: entry.resume("qstar-train", own) if (own / "config.yaml").is_file() else ""
            train.run(cfg if own == directory else dataclasses.replace(cfg, run_dir=str(own)), own)


def chosen(cfg: TrainConfig, overrides: list[str]) -> tuple[TrainConfig, Path]:
    """The configuration and directory of a new run, or of the one to resume, with the values that were overridden.

    Raises ValueError when a resumed run is asked to change what its checkpoint depends on.
    """
    if not cfg.resume:
        return cfg, Path(cfg.run_dir)
    directory = runs.latest_run(trained_alone=True) if cfg.resume == "latest" else Path(cfg.resume)
    if not (directory / "config.yaml").is_file():
        raise FileNotFoundError(f"resume={cfg.resume}: {directory} is no run directory (no config.yaml in it)")
    values = [override for override in overrides if not override.startswith(("resume=", "run_dir="))]
    groups = [
        override
        for override in values
        if override.partition("=")[0].lstrip("+~") in (*configs.SCHEMAS, "experiments")
        and not override.startswith("mesh=")
    ]
    if groups:
        raise ValueError(
            f"{', '.join(groups)} with resume: a run goes on with its own configuration; override single values "
            "(steps=200), or start a new run without resume"
        )
    resumed = configs.load(
        directory / "config.yaml", [override for override in values if not override.startswith("mesh=")]
    )
    mesh = cfg.mesh if any(override.startswith("mesh=") for override in values) else resumed.mesh
    return dataclasses.replace(resumed, mesh=mesh, resume=str(directory)), directory


def main() -> None:
    if manual.asked(sys.argv[1:]):
        manual.show("train", sys.argv[1:])
    else:
        overrides.run("train", _main)


if __name__ == "__main__":
    main()
