"""Where the Hydra files are: beside the package in a checkout, inside it when installed from a wheel."""

from pathlib import Path

_HERE = Path(__file__).resolve().parent
ROOT = _HERE / "_recipes" if (_HERE / "_recipes").is_dir() else _HERE.parent
CONFIGS = str(ROOT / "configs")
