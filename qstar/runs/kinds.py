"""The kinds of run directories: which file marks each, which command resumes it, and which is the newest."""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic

from qstar import config as configs
from qstar import files
from qstar.config import C

LISTED = 6  # runs that a message names
DEEP = 3  # folders below one in which its runs are looked for: another folder than meant may be a whole disk


@dataclass(frozen=True)
class Kind(Generic[C]):
    """The runs of one command. A directory that holds `file` is one of them."""

    command: str  # qstar-COMMAND
    noun: str  # what a message calls it
    schema: type[C]
    file: str  # the configuration, in the run directory
    groups: tuple[str, ...] = ()  # configuration groups from which a resumed run may choose again
    part_of: tuple[str, ...] = ()  # files of the parent directory that make a directory a part of another run
    free: tuple[str, ...] = ()  # settings that may change when a run is resumed
    is_meant: Callable[[Path], bool] = lambda directory: True  # which of the directories that hold `file`
    has_results: Callable[[Path], bool] = lambda directory: True  # whether there is something to resume or evaluate

    def is_at(self, directory: Path) -> bool:
        return (directory / self.file).is_file()

    def check(self, directory: Path, given: str) -> None:
        """Raise FileNotFoundError, naming the override `given`, where the directory holds no run of this kind."""
        if not self.is_at(directory):
            raise FileNotFoundError(
                f"{given}: expected the directory of a {self.noun}, but {directory} has no {self.file}"
                + held(directory, self.file)
            )

    def latest(self, root: str | Path = "runs") -> Path:
        """The run under `root` that was started or resumed last, of those with results.

        Raises FileNotFoundError where there is none.
        """
        started = [
            file
            for file in Path(root).glob(f"**/{self.file}")
            if not any((file.parent.parent / name).is_file() for name in self.part_of)
        ]
        for file in sorted(started, key=_age, reverse=True):
            if self.has_results(file.parent) and self.is_meant(file.parent):
                return file.parent
        started = [file for file in started if self.is_meant(file.parent)]
        under = Path(root).absolute()
        if started:
            raise FileNotFoundError(
                f"no {self.noun} under {under} has results yet, of {len(started)} that were started, the last one in "
                f"{newest(started).parent}: resume that one by its name, or start one with qstar-{self.command}"
            )
        raise FileNotFoundError(
            f"no {self.noun} under {under}: start one with qstar-{self.command}, or name a directory"
        )

    def claim(self, cfg: C, directory: Path, comparable: Callable[[C], C] = lambda cfg: cfg) -> None:
        """Write the configuration into the directory, or check that the directory holds this very run.

        Args:
            comparable: a configuration without what may change besides the settings in `free`.

        Raises ValueError where the directory holds a run of another configuration.
        """
        file = directory / self.file
        if file.is_file():
            free = {name: getattr(cfg, name) for name in self.free}
            known = dataclasses.replace(configs.load(file, schema=self.schema), **free)
            changed = configs.changes(comparable(known), comparable(cfg))
            if changed:
                changes = "\n  ".join(changed)
                raise ValueError(
                    f"{directory} holds a {self.noun} with another configuration:\n  {changes}\nchoose another run_dir"
                )
        files.make(directory)
        configs.save(dataclasses.replace(cfg, resume=""), file)


def held(folder: Path, file: str) -> str:
    """Of a folder that holds run directories, as that of a sweep does: which, to end a message with; else empty.

    Of a file, that it is one.
    """
    if folder.is_file():
        return "; it is a file"
    started = {found.parent for depth in range(1, DEEP + 1) for found in folder.glob("*/" * depth + file)}
    runs = sorted(path for path in started if not started & set(path.parents))
    if not runs:
        return ""
    last = newest([path / file for path in runs]).parent
    names = ", ".join(str(path.relative_to(folder)) for path in runs[:LISTED]) + (", ..." if len(runs) > LISTED else "")
    return f"; it holds at least {len(runs)} of them ({names}): name one, such as {last}, the newest"


def newest(of: Sequence[Path]) -> Path:
    return max(of, key=_age)


def _age(file: Path) -> tuple[float, str]:
    return file.stat().st_mtime, str(file)
