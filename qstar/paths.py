"""Where things are: the Hydra files, and what is kept between runs."""

import os
from pathlib import Path

# Beside the package in a checkout, inside it when installed from a wheel.
_HERE = Path(__file__).resolve().parent
ROOT = _HERE / "_recipes" if (_HERE / "_recipes").is_dir() else _HERE.parent
CONFIGS = str(ROOT / "configs")


def cache_folder(given: str | os.PathLike | None = None) -> Path:
    """Of prepared data, compiled programs and measured peaks: `given`, else QSTAR_CACHE, else ~/.cache/qstar."""
    usual = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "qstar"
    return Path(given or os.environ.get("QSTAR_CACHE") or usual).expanduser()
