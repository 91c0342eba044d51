"""Labels of steps that cost no tokens: exact ones of a task, and those on which two labellers agree."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from qstar import files, settings
from qstar.files import Json
from qstar.settings import OneOf, shown
from qstar.tasks.problem import Problem, Task

TRUTHS = ("right", "reachable")
LABELS = "labels.jsonl"  # of a run of qstar-label


@dataclass(frozen=True)
class Truth:
    """What the task knows exactly of every step."""

    kind: ClassVar[str] = "truth"

    what: Annotated[str, OneOf(TRUTHS)] = "right"  # it follows from earlier steps, or the answer can be reached

    def __post_init__(self):
        settings.check(self, "label")

    def of(self, task: Task, problem: Problem, steps: Sequence[str]) -> tuple[bool, ...]:
        """Raises ValueError for a task that does not know."""
        truth = task.truth(problem, steps)
        if truth is None:
            raise ValueError(
                f"label=truth: {task.name} does not know which step is right; arithmetic, countdown and cups do. "
                "Elsewhere: label=monte_carlo or label=omega"
            )
        return truth.right if self.what == "right" else truth.reachable


@dataclass(frozen=True)
class Consensus:
    """Solutions of which two labellers say the same first wrong step (Zhang et al. 2025), with the labels of the first.

    Both have labelled the same solutions. In the paper they are Monte-Carlo labels and a language model as judge; here
    any two labellings.
    """

    kind: ClassVar[str] = "consensus"

    first: str = ""  # labels.jsonl of a run of qstar-label, or its directory
    second: str = ""  # of another

    def __post_init__(self):
        settings.check(self, "label")

    def agreed(self) -> Iterator[dict | None]:
        """The solutions, with None for those that are not kept.

        Raises FileNotFoundError; ValueError where these are not the same solutions, or are no labelled solutions.
        """
        mine, theirs = (_read(name, getattr(self, name)) for name in ("first", "second"))
        if len(mine) != len(theirs):
            raise ValueError(f"label.first has {len(mine)} solutions, label.second {len(theirs)}: expected the same")
        for own, other in zip(mine, theirs, strict=True):
            if any(own[name] != other[name] for name in ("prompt", "completions")):
                raise ValueError(
                    f"label.first and label.second are labels of different solutions, the first of which is of "
                    f"{own['prompt'][:60]!r}: label the same file twice (source=FILE)"
                )
            agree = first_wrong(own["labels"]) == first_wrong(other["labels"])
            yield own | {"kind": self.kind, "agreed": [own.get("kind", ""), other.get("kind", "")]} if agree else None


def is_label(value: Json) -> bool:
    """Whether this says how right a step is."""
    return isinstance(value, bool | int | float) and 0 <= value <= 1


def first_wrong(labels: Sequence[bool | float | None]) -> int | None:
    """The first step whose label says that it is wrong: false, or a share of 0."""
    return next((i for i, label in enumerate(labels) if label is not None and not label), None)


def _read(name: str, given: str) -> list[dict]:
    path = Path(given) / LABELS if Path(given).is_dir() else Path(given)
    if not given or not path.is_file():
        raise FileNotFoundError(f"label.{name} = {given!r}: expected a run of qstar-label, or its labels.jsonl")
    if not path.read_bytes().endswith(b"\n"):  # such a line would be taken for a torn one, and left out
        raise ValueError(f"{path} does not end with a line break: is it being written? If it is whole, put one there")
    kind, records = "a labelled solution", []
    for line in files.lines(path, kind, prompt=str, completions=list, labels=list, correct=bool):
        steps, labels = line.record["completions"], line.record["labels"]
        if not all(isinstance(step, str) for step in steps) or len(steps) != len(labels):
            raise ValueError(
                f"{line.where}: {len(labels)} labels of {len(steps)} steps {shown(steps)}, expected as many labels as "
                f"steps, which are texts; {files.WAY_OUT}"
            )
        wrong = [label for label in labels if label is not None and not is_label(label)]
        if wrong:
            raise ValueError(
                f"{line.where}: label {shown(wrong[0])}, expected true, false, null or a number from 0 to 1; "
                f"{files.WAY_OUT}"
            )
        records.append(line.record)
    return records
