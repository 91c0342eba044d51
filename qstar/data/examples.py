"""Prompts with completions as rows of training text: several in a row, each seeing only itself.

What is learnt of an example is its completion, with a weight: rationales that were sampled, graded and kept, human
ones, bare answers. Rows are filled once, first fit over the examples in the order of a seed; which rows make a batch
is `data/pipeline.py`'s matter.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np

from qstar import settings
from qstar.data.generated import pack_row
from qstar.data.pipeline import Encoder
from qstar.settings import Range
from qstar.structs import Examples
from qstar.tasks import lines

OPEN_ROWS = 64  # that an example is tried in, the newest ones; looking through all would take quadratic time


@dataclass(frozen=True)
class ExamplesText:
    """A file of examples: JSON lines with `prompt` and `completion`, and `weight` where it is not 1. Those that name
    the same `group` stand in one row."""

    path: str  # of the file
    length: Annotated[int, Range(2)] = 256  # tokens in a row, which holds as many whole examples as fit
    prompts_count: bool = False  # the tokens of prompts are learnt as well

    def __post_init__(self):
        settings.check(self, "data")


@dataclass(frozen=True)
class Example:
    """What the model is given, and what it should write behind it."""

    prompt: tuple[int, ...]
    completion: tuple[int, ...]
    weight: float = 1.0
    group: str | None = None

    def __len__(self) -> int:
        return len(self.prompt) + len(self.completion)


def write(path: str | Path, examples: Sequence[dict]) -> None:
    """The file of these examples, {prompt, completion, weight} each; renamed into place, so that it is whole or not."""
    fresh = Path(path).with_name(Path(path).name + ".new")
    fresh.write_text("".join(json.dumps(one) + "\n" for one in examples), encoding="utf-8")
    fresh.replace(path)


def read(path: str | Path, tokenizer: Encoder) -> list[Example]:
    """The examples of a file. A completion is tokenised behind its prompt, not together with it, as it is sampled.

    Raises FileNotFoundError; ValueError for a line that is no example.
    """
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(
            f"data.path = {str(path)!r} is no file: JSON lines with prompt and completion are wanted"
        )
    return [_example(record, where, tokenizer) for where, record in lines.json_lines(file)]


def _example(record: dict, where: str, tokenizer: Encoder) -> Example:
    lacking = [name for name in ("prompt", "completion") if not isinstance(record.get(name), str)]
    if lacking:
        raise ValueError(f"{where} lacks the text of {' and '.join(lacking)}; it has {', '.join(record) or 'nothing'}")
    weight = lines.optional(record, "weight", where, 1.0, float)
    prompt, completion = (tuple(tokenizer.encode(record[name])) for name in ("prompt", "completion"))
    group = record.get("group")
    if group is not None and not isinstance(group, str):
        raise ValueError(f"{where}: group is {group!r}, expected a text")
    return Example(prompt, completion, weight, group)


def rows(examples: Sequence[Example], length: int, seed: int, prompts_count: bool = False) -> list[Examples]:
    """Rows [S = length] of numpy leaves that hold every example once, and all examples of a group in one row.

    `prompts_count` makes the tokens of prompts targets as well, as plain language modelling has it.

    Raises ValueError for no examples, for one without a completion, and for examples that are longer than a row.
    """
    units = _units(examples)
    _check(examples, units, length)
    order = np.random.default_rng(seed).permutation(len(units))
    filled: list[list[Example]] = []
    room: list[int] = []
    for number in order:
        size = sum(map(len, units[number]))
        first = max(len(filled) - OPEN_ROWS, 0)
        fitting = (row for row in range(first, len(filled)) if room[row] >= size)
        row = next(fitting, len(filled))
        if row == len(filled):
            filled.append([])
            room.append(length)
        filled[row] += units[number]
        room[row] -= size
    return [_row(row, length, prompts_count) for row in filled]


def _units(examples: Sequence[Example]) -> list[list[Example]]:
    """Groups, and examples without one by themselves, in the order in which they come."""
    found: dict[str | int, list[Example]] = {}
    for number, example in enumerate(examples):
        found.setdefault(number if example.group is None else example.group, []).append(example)
    return list(found.values())


def _row(examples: Sequence[Example], length: int, prompts_count: bool) -> Examples:
    batch = pack_row([[*one.prompt, *one.completion] for one in examples], length)
    sizes = [len(one) for one in examples]
    weight = np.zeros(length, np.float32)
    weight[: sum(sizes)] = np.repeat([one.weight for one in examples], sizes)
    mask = batch.mask
    if not prompts_count:
        learnt = [np.arange(len(one)) >= len(one.prompt) for one in examples]
        mask = mask & np.concatenate([*learnt, np.zeros(length - sum(sizes), bool)])
    begins = None
    if any(one.group is not None for one in examples):
        new = [i == 0 or one.group is None or one.group != examples[i - 1].group for i, one in enumerate(examples)]
        begins = np.zeros(length, bool)
        begins[np.cumsum([0, *sizes[:-1]])] = new
    return Examples(batch.tokens, mask, batch.segment, batch.position, weight, begins)


def _check(examples: Sequence[Example], units: Sequence[Sequence[Example]], length: int) -> None:
    if not examples:
        raise ValueError("there is no example to train on")
    empty = sum(not one.completion for one in examples)
    if empty:
        raise ValueError(f"{empty} of {len(examples)} examples have no completion: there is nothing to learn in them")
    grouped = {one.group is not None for one in examples}
    if len(grouped) > 1:
        raise ValueError("some examples name a group and some do not: name one for all of them, or for none")
    sizes = [sum(map(len, unit)) for unit in units]
    longest = max(sizes)
    if longest > length:
        over, what = sum(size > length for size in sizes), "groups of examples" if grouped == {True} else "examples"
        raise ValueError(
            f"{over} of {len(units)} {what} are longer than a row of {length} tokens, the longest has {longest}: "
            f"give length={longest} or more, or leave them out"
        )
