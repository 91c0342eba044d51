"""What `--help` of a command with a Hydra configuration prints: its text, its groups, and the composed configuration.

Hydra's own `--help` copies all schemas for every group that it lists: seconds, for what takes a quarter of one here.
"""

import string
import sys
from collections.abc import Sequence
from pathlib import Path

import hydra
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from qstar.paths import CONFIGS


def asked(arguments: Sequence[str]) -> bool:
    return not {"-h", "--help"}.isdisjoint(arguments)


def show(name: str, arguments: Sequence[str]) -> None:
    """Print the help of the command whose configuration is `configs/NAME.yaml`, with these overrides.

    Leaves with status 1 where they do not compose.
    """
    try:
        print(text(name, [one for one in arguments if not one.startswith("-")]))
    except (HydraException, OmegaConfBaseException) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        raise SystemExit(1) from None


def text(name: str, overrides: Sequence[str]) -> str:
    """Raises hydra's and OmegaConf's errors where the overrides do not compose."""
    with hydra.initialize_config_dir(CONFIGS, version_base="1.3"):
        cfg = hydra.compose(name, list(overrides), return_hydra_config=True)
    template = string.Template(cfg.hydra.help.template)
    picked = [group for group in cfg.hydra.runtime.choices if (Path(CONFIGS) / group).is_dir()]
    groups = [
        f"{group}: {', '.join(sorted(one.stem for one in (Path(CONFIGS) / group).glob('*.yaml')))}"
        for group in sorted(picked)
    ]
    OmegaConf.set_struct(cfg, False)
    del cfg.hydra
    return template.substitute(APP_CONFIG_GROUPS="\n".join(groups) + "\n", CONFIG=OmegaConf.to_yaml(cfg))
