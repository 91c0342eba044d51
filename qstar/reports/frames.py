"""What runs recorded, as arrays and as records: metrics, evaluations, and the costs of self-training."""

import operator
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from qstar import files
from qstar.files import JsonObject

TRAINED = ("sample", "hint", "train")  # phases of self-training's ledger
MEASURED = ("wrong_hint", "dev", "test")  # phases that it does without

T = TypeVar("T")
K = TypeVar("K", bound=Hashable)


def lines(file: Path) -> list[JsonObject]:
    """The records of a file of JSON lines; none where there is no such file."""
    return files.records(file, "a record")


def columns(records: Sequence[JsonObject], *names: str) -> dict[str, np.ndarray]:
    """Numbers of records by name, each [N]; nan where a record lacks it. Without names: all that are numbers."""
    chosen = names or tuple(
        dict.fromkeys(name for record in records for name, value in record.items() if isinstance(value, int | float))
    )
    return {name: np.array([record.get(name, np.nan) for record in records], float) for name in chosen}


def metrics(run: Path, *names: str) -> dict[str, np.ndarray]:
    """The columns of a run's metrics.jsonl, `step` among them.

    Raises FileNotFoundError where the directory has none.
    """
    return columns(_there(run / "metrics.jsonl", "a run directory"), *(("step", *names) if names else ()))


def evaluations(folder: Path) -> list[JsonObject]:
    """The lines of evals.jsonl by step, of a run or of what qstar-evaluate wrote with out=FOLDER.

    Raises FileNotFoundError where there is none.
    """
    evaluated = _there(folder / "evals.jsonl", "a folder that qstar-evaluate wrote with out=FOLDER")
    return sorted(evaluated, key=lambda line: line["step"])


def _there(file: Path, expected: str) -> list[JsonObject]:
    if not file.is_file():
        raise FileNotFoundError(f"{file} is not there: expected {expected}")
    return lines(file)


def grouped(items: Iterable[T], key: Callable[[T], K]) -> dict[K, list[T]]:
    """Items by their key, keys in the order in which they first come."""
    groups: dict[K, list[T]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups


def by(records: Iterable[Mapping], *fields: str) -> dict[Any, list[Mapping]]:
    """Records by the value of a field, or by the values of several as a tuple."""
    return grouped(records, operator.itemgetter(*fields))


def first(items: Iterable[JsonObject], **fields: object) -> JsonObject | None:
    """The first record with these values; None where there is none."""
    return next((record for record in items if all(record[name] == value for name, value in fields.items())), None)


def spent(lines: Iterable[JsonObject], name: str, phases: Sequence[str] = TRAINED) -> float:
    """Tokens or FLOPs of these phases of self-training, over all its iterations."""
    return sum(line["ledger"].get(phase, {}).get(name, 0) for line in lines for phase in phases)
