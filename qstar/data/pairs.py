"""Two completions of a prompt, the better and the worse one, as rows: what preference optimisation is trained on.

A file (`data/record_files.py`) holds {"prompt": ..., "chosen": ..., "rejected": ...}, as TRL names them, in texts or
conversations; without `prompt`, it is what both completions begin with (`data/trl.py`). The tokenizer's end-of-text
token, where it has one, follows both completions. A pair takes two rows of one length.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from qstar.data import examples, overlong, trl
from qstar.data.examples import Completing, Example
from qstar.data.from_file import FileData
from qstar.data.generated import pack_row
from qstar.structs import Batch, Pairs


@dataclass(frozen=True)
class PairsText(FileData):
    """A file of pairs, with prompt, chosen and rejected."""

    rows: ClassVar[tuple[type, ...]] = (Pairs,)
    holds: ClassVar[str] = "pairs of completions"
    example: ClassVar[str] = '{"prompt": "3aegbdh=", "chosen": "4;", "rejected": "2;"}'
    expected: ClassVar[str] = "prompt, chosen and rejected"
    records: ClassVar[str] = "pairs"

    def parsed(self, line: dict, where: str, tokenizer: Completing) -> Iterable["Pair"]:
        yield _pair(line, where, tokenizer)

    def packed(self, records: Sequence["Pair"], seed: int) -> list[Pairs]:
        return rows(records, self.length)


@dataclass(frozen=True)
class Pair:
    chosen: Example
    rejected: Example

    def __len__(self) -> int:
        """Tokens of the longer one."""
        return max(len(self.chosen), len(self.rejected))

    @property
    def where(self) -> str:
        return self.chosen.where


def _pair(record: dict, where: str, tokenizer: Completing) -> Pair:
    record = trl.texts(record, where)
    lacking = [name for name in ("prompt", "chosen", "rejected") if not isinstance(record.get(name), str)]
    if lacking:
        raise ValueError(f"{where} lacks the text of {' and '.join(lacking)}; it has {', '.join(record) or 'nothing'}")
    pair = encoded(record, tokenizer, where)
    for name, side in (("chosen", pair.chosen), ("rejected", pair.rejected)):
        if not side.completion:
            raise ValueError(f"{where}: {name} is empty")
    if pair.chosen.completion == pair.rejected.completion:
        raise ValueError(f"{where}: chosen and rejected are the same: there is nothing to prefer")
    return pair


def encoded(record: dict, tokenizer: Completing, where: str = "") -> Pair:
    """A pair as token ids, as `examples.encoded` has them."""
    sides = {}
    for name in ("chosen", "rejected"):
        side = {"prompt": record["prompt"], "completion": record[name]}
        if f"{name}_ids" in record:
            side["completion_ids"] = record[f"{name}_ids"]
        sides[name] = examples.encoded(side, tokenizer, where)
    return Pair(**sides)


def rows(pairs: Sequence[Pair], length: int) -> list[Pairs]:
    """One pair each: two rows [S = length] of numpy leaves, whose masks mark the completions.

    Raises ValueError for no pairs, and for one that is longer than a row.
    """
    if not pairs:
        raise ValueError("there is no pair to train on")
    overlong.check(pairs, length, "pairs")
    return [Pairs(_row(pair.chosen, length), _row(pair.rejected, length)) for pair in pairs]


def _row(example: Example, length: int) -> Batch:
    batch = pack_row([[*example.prompt, *example.completion]], length)
    return batch.replace(mask=batch.mask & (np.arange(length) >= len(example.prompt)))
