"""Where things are: the Hydra files, and what is kept between runs."""

import os
from pathlib import Path

from qstar import files

# Beside the package in a checkout, inside it when installed from a wheel.
PACKAGE = Path(__file__).resolve().parent
ROOT = PACKAGE / "_recipes" if (PACKAGE / "_recipes").is_dir() else PACKAGE.parent
CONFIGS = str(ROOT / "configs")


def cache_folder(given: str | os.PathLike | None = None) -> Path:
    """Of prepared data, compiled programs and measured peaks: `given`, else QSTAR_CACHE, else ~/.cache/qstar."""
    named = given or os.environ.get("QSTAR_CACHE")
    if not named:
        return files.expanded(Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "qstar")
    folder = files.expanded(named)
    check_folder("cache_dir" if given else "QSTAR_CACHE", folder)
    return folder


def check_folder(key: str, given: str | os.PathLike) -> None:
    """Raise ValueError, before anything is written, where this cannot be, or become, a folder that is written to.

    Args:
        key: the setting that names it.
    """
    if not str(given):
        raise ValueError(f"{key} = '': expected a folder, which need not be there yet")
    there = _nearest(key, Path(given))
    if not there.is_dir():
        kind = "a file" if there.exists() else "a link to a place that is not there"
        raise ValueError(f"{key} = {given}: {there} is {kind}: name a folder, which need not be there yet")
    if not os.access(there, os.W_OK | os.X_OK):
        raise ValueError(f"{key} = {given}: {there} cannot be written to: name a folder elsewhere")


def check_file(key: str, given: str | os.PathLike) -> None:
    """Raise ValueError, before anything is written, where this cannot be written as a file."""
    path = Path(given)
    if path.is_dir():
        raise ValueError(f"{key} = {given}: this is a folder: name a file")
    if not path.parent.is_dir():
        raise ValueError(f"{key} = {given}: there is no directory {path.parent}")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise ValueError(f"{key} = {given}: it cannot be written: name a file elsewhere")


def _nearest(key: str, path: Path) -> Path:
    """The path, or the closest one above it that is there."""
    for place in (path, *path.absolute().parents):
        try:
            str(place).encode()  # else nothing that is told of it could be written
            os.lstat(place)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except (OSError, ValueError) as error:  # a name too long, a zero byte, a folder that may not be entered
            raise ValueError(f"{key} = {str(path)!r}: {error}") from error
        return place
    raise ValueError(f"{key} = {str(path)!r}: there is no such place")
