"""Prompts with completions as rows of training text: several in a row, each seeing only itself.

The model is trained on the completion of an example, with a weight: rationales that were sampled, graded and kept,
human ones, bare answers. The tokenizer's end-of-text token, where it has one, comes after every completion and is
trained on: without it a model would not learn to stop. Rows are filled once, first fit over the examples in the order
of a seed; which rows make a batch is `data/pipeline.py`'s matter.
"""

import bisect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Protocol

import numpy as np

from qstar import files
from qstar.data import overlong, trl
from qstar.data.from_file import FileData
from qstar.data.generated import pack_row
from qstar.settings import shown
from qstar.structs import Batch, Examples
from qstar.tasks import lines

OPEN_ROWS = 64  # that an example is tried in, the newest ones; looking through all would take quadratic time


class Completing(Protocol):
    """The part of a tokenizer that is needed here (`data/tokenizer.py`)."""

    @property
    def ends(self) -> tuple[int, ...]: ...

    @property
    def size(self) -> int: ...

    @property
    def spells_characters(self) -> bool: ...

    def encode(self, text: str) -> list[int]: ...

    def encode_prompt(self, prompt: str) -> list[int]: ...

    def reply_end(self, prompt: str) -> list[int]: ...

    def encode_pair(self, prompt: str, completion: str) -> tuple[list[int], list[int]]: ...

    def encode_after(self, text: str) -> list[int]: ...

    def decode(self, ids: Sequence[int]) -> str: ...

    def lengths(self, ids: Sequence[int]) -> list[int]: ...


@dataclass(frozen=True)
class ExamplesText(FileData):
    """A file of examples (`data/record_files.py`): `prompt` and `completion`, and `weight` where it is not 1. Those
    that name the same `group` stand in one row.

    Both may be conversations as TRL has them (`data/trl.py`), or be within one, `messages`.

    Prompt and completion are encoded together, as one text. `completion_ids` are the tokens of a completion that a
    model wrote: they are trained on as they are, after the tokens of the prompt alone.
    """

    rows: ClassVar[tuple[type, ...]] = (Examples, Batch)  # methods on plain text ignore the weights
    holds: ClassVar[str] = "prompts with completions"
    example: ClassVar[str] = '{"prompt": "3aegbdh=", "completion": "4;"}'
    expected: ClassVar[str] = "prompt and completion"
    records: ClassVar[str] = "examples"

    prompts_count: bool = False  # also train on the tokens of prompts

    def parsed(self, line: dict, where: str, tokenizer: Completing) -> Iterable["Example"]:
        yield _example(line, where, tokenizer)

    def fitting(self, records: Sequence["Example"], say: Callable[[str], None]) -> list["Example"]:
        units = overlong.fitting(_units(records), self.length, self.records, say)
        return [example for unit in units for example in unit.examples]

    def packed(self, records: Sequence["Example"], seed: int) -> list[Examples]:
        return rows(records, self.length, seed, self.prompts_count)


@dataclass(frozen=True)
class Example:
    """What the model is given, and what it should write after it."""

    prompt: tuple[int, ...]
    completion: tuple[int, ...]
    weight: float = 1.0
    group: str | None = None
    where: str = field(default="", compare=False)  # it comes from: file and line

    def __len__(self) -> int:
        return len(self.prompt) + len(self.completion)


@dataclass(frozen=True)
class _Unit:
    """Examples that stand in one row: those of a group, or a single one."""

    examples: tuple[Example, ...]

    def __len__(self) -> int:
        return sum(map(len, self.examples))

    @property
    def where(self) -> str:
        return self.examples[0].where


def write(path: str | Path, examples: Sequence[dict]) -> None:
    """The file of these examples, {prompt, completion, weight} each; renamed into place, so that it is whole or not."""
    files.write_records(path, examples)


def ids_of(record: dict, tokenizer: Completing, where: str) -> tuple[Sequence[int], Sequence[int]]:
    """Prompt and completion as token ids: encoded as one text, or the ids that a model wrote after the prompt.

    Raises ValueError for ids that the tokenizer does not have.
    """
    if "completion_ids" not in record:
        return tokenizer.encode_pair(record["prompt"], record["completion"])
    ids = record["completion_ids"]
    if not isinstance(ids, list) or not all(type(id) is int and 0 <= id < tokenizer.size for id in ids):
        raise ValueError(f"{where}: completion_ids is {str(ids)[:60]}, expected token ids below {tokenizer.size}")
    return tokenizer.encode_prompt(record["prompt"]), ids


def encoded(record: dict, tokenizer: Completing, where: str = "") -> Example:
    """An example as token ids, an end-of-text token after the completion where the tokenizer has one."""
    prompt, completion = ids_of(record, tokenizer, where)
    if completion and completion[-1] not in tokenizer.ends:
        completion = [*completion, *tokenizer.reply_end(record["prompt"])]
    return Example(tuple(prompt), tuple(completion), float(record.get("weight", 1.0)), record.get("group"), where)


def _example(record: dict, where: str, tokenizer: Completing) -> Example:
    record = trl.texts(record, where)
    lacking = [name for name in ("prompt", "completion") if not isinstance(record.get(name), str)]
    if lacking:
        message = f"{where} lacks the text of {' and '.join(lacking)}; it has {', '.join(record) or 'nothing'}"
        raise ValueError(message + ("; documents are read with data=text" if "text" in record else ""))
    record = record | {"weight": lines.optional(record, "weight", where, 1.0, float)}
    group = record.get("group")
    if group is not None and not isinstance(group, str):
        raise ValueError(f"{where}: group is {shown(group)}, expected a text")
    return encoded(record, tokenizer, where)


def as_sampled(tokens: Sequence[int], stored: str, tokenizer: Completing, stop: Sequence[str] = ()) -> list[int] | None:
    """The token ids of a completion that was stored of sampled `tokens`: those tokens, as they were sampled.

    Where less was stored than was sampled (all after a declared answer is left out, another stop than the stored one)
    these are the tokens up to there, and the stop. An end-of-text token takes the place of the stop. Of tokenizers of
    characters the text is what counts, spaces at its ends included, as it was stored.

    Args:
        stop: texts that end a completion.

    None where what was stored does not begin what was sampled.
    """
    body = stored.strip()
    body = next((body.removesuffix(ending).rstrip() for ending in stop if body.endswith(ending)), body)
    at = stored.find(body)
    lead, tail = stored[:at], stored[at + len(body) :]
    ids = list(tokens)
    ended = bool(ids) and ids[-1] in tokenizer.ends
    written = ids[:-1] if ended else ids
    text = tokenizer.decode(written)
    start = text.find(body)
    if not body or start < 0 or text[:start].strip():
        return None
    upto = start + len(body)
    rest = text[upto:]
    whole = tokenizer.lengths(written)
    last = bisect.bisect_left(whole, upto)
    if tokenizer.spells_characters:
        first = bisect.bisect_right(whole, start, hi=last) - 1
        if tokenizer.decode(written[first:last]) != body:
            return None
        return [*tokenizer.encode(lead), *written[first:last], *tokenizer.encode(tail)]
    if (ended and not rest.strip()) or (tail in rest and rest.strip() == tail.strip()):
        return ids
    # A token that goes on beyond what was stored is written again, with the tokens before it of the same character.
    kept = last if whole[last] == upto else bisect.bisect_left(whole, whole[last - 1])
    return [*written[:kept], *tokenizer.encode_after(text[whole[kept] : upto] + tail)]


def rows(examples: Sequence[Example], length: int, seed: int, prompts_count: bool = False) -> list[Examples]:
    """Rows [S = length] of numpy leaves that hold every example once, and all examples of a group in one row.

    `prompts_count` makes the tokens of prompts targets as well, as plain language modelling has it.

    Raises ValueError for no examples, for one without a completion, and for examples that are longer than a row.
    """
    units = _units(examples)
    _check(examples, units, length)
    bins = filled([len(unit) for unit in units], length, seed)
    packed = ([example for number in numbers for example in units[number].examples] for numbers in bins)
    return [_row(examples, length, prompts_count) for examples in packed]


def filled(sizes: Sequence[int], length: int, seed: int) -> list[list[int]]:
    """Which of these many tokens each stand in one row of `length`: first fit in the order of a seed."""
    bins: list[list[int]] = []
    room: list[int] = []
    for number in np.random.default_rng(seed).permutation(len(sizes)).tolist():
        first = max(len(bins) - OPEN_ROWS, 0)
        row = next((row for row in range(first, len(bins)) if room[row] >= sizes[number]), len(bins))
        if row == len(bins):
            bins.append([])
            room.append(length)
        bins[row].append(number)
        room[row] -= sizes[number]
    return bins


def _units(examples: Sequence[Example]) -> list[_Unit]:
    """Groups, and examples without one by themselves, in the order in which they come."""
    units: dict[str | int, list[Example]] = {}
    for number, example in enumerate(examples):
        units.setdefault(number if example.group is None else example.group, []).append(example)
    return [_Unit(tuple(unit)) for unit in units.values()]


def _row(examples: Sequence[Example], length: int, prompts_count: bool) -> Examples:
    batch = pack_row([[*example.prompt, *example.completion] for example in examples], length)
    sizes = [len(example) for example in examples]
    weight = np.zeros(length, np.float32)
    weight[: sum(sizes)] = np.repeat([example.weight for example in examples], sizes)
    mask = batch.mask
    if not prompts_count:
        counted = [np.arange(len(example)) >= len(example.prompt) for example in examples]
        mask = mask & np.concatenate([*counted, np.zeros(length - sum(sizes), bool)])
    begins, groups = None, [example.group for example in examples]
    if any(group is not None for group in groups):
        new = [i == 0 or group is None or group != groups[i - 1] for i, group in enumerate(groups)]
        begins = np.zeros(length, bool)
        begins[np.cumsum([0, *sizes[:-1]])] = new
    return Examples(batch.tokens, mask, batch.segment, batch.position, weight, begins)


def _check(examples: Sequence[Example], units: Sequence[_Unit], length: int) -> None:
    if not examples:
        raise ValueError("there is no example to train on")
    empty = sum(not example.completion for example in examples)
    if empty:
        raise ValueError(f"{empty} of {len(examples)} examples have no completion to train on")
    grouped = {example.group is not None for example in examples}
    if len(grouped) > 1:
        raise ValueError("some examples name a group and some do not: name one for all of them, or for none")
    overlong.check(units, length, "groups of examples" if grouped == {True} else "examples")
