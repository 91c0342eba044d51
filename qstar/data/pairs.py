"""Two completions of a prompt, the better and the worse one, as rows: what preference optimisation is trained on.

A file (`data/record_files.py`) holds {"prompt": ..., "chosen": ..., "rejected": ...}, as TRL names them, in texts or
conversations; without `prompt`, it is what both completions begin with (`data/trl.py`). The tokenizer's end-of-text
token, where it has one, follows both completions. A pair takes two rows of one length.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np

from qstar import settings
from qstar.data import examples, overlong, pipeline, record_files, trl
from qstar.data.dataset import Data, RandomAccess
from qstar.data.examples import Completing, Example
from qstar.data.generated import pack_row
from qstar.data.overlong import OVERLONG
from qstar.settings import OneOf, Range
from qstar.structs import Batch, Pairs


@dataclass(frozen=True)
class PairsText(Data):
    """A file of pairs."""

    rows: ClassVar[tuple[type, ...]] = (Pairs,)
    holds: ClassVar[str] = "pairs of completions"
    example: ClassVar[str] = '{"prompt": "3aegbdh=", "chosen": "4;", "rejected": "2;"}'

    path: str  # of the file, with prompt, chosen and rejected: JSON lines, Parquet, or a folder of Dataset.save_to_disk
    length: Annotated[int, Range(2)] = 256  # tokens in a row: a prompt and one of its completions
    # pairs one of which is longer than a row: error, or skip (left out and counted)
    overlong: Annotated[str, OneOf(OVERLONG)] = "error"

    def __post_init__(self):
        settings.check(self, "data")

    def build(
        self, tokenizer: Completing, batch_size: int, seed: int, say: Callable[[str], None] = print
    ) -> RandomAccess:
        pairs = read(self, tokenizer)
        if self.overlong == "skip":
            pairs = overlong.fitting(pairs, self.length, "pairs", say)
        return pipeline.source_dataset(rows(pairs, self.length), batch_size, seed)


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


def read(cfg: PairsText, tokenizer: Completing) -> list[Pair]:
    """The pairs of a file, as token ids.

    Raises FileNotFoundError; ValueError for a line that is no pair, and for one whose completions are the same.
    """
    expected = "prompt, chosen and rejected"
    return [_pair(record, where, tokenizer) for where, record in record_files.read(cfg.path, expected)]


def _pair(record: dict, where: str, tokenizer: Completing) -> Pair:
    record = trl.texts(record, where)
    lacking = [name for name in ("prompt", "chosen", "rejected") if not isinstance(record.get(name), str)]
    if lacking:
        raise ValueError(f"{where} lacks the text of {' and '.join(lacking)}; it has {', '.join(record) or 'nothing'}")
    sides = {}
    for name in ("chosen", "rejected"):
        side = {"prompt": record["prompt"], "completion": record[name]}
        if f"{name}_ids" in record:
            side["completion_ids"] = record[f"{name}_ids"]
        sides[name] = examples.encoded(side, tokenizer, where)
        if not sides[name].completion:
            raise ValueError(f"{where}: {name} is empty")
    if sides["chosen"].completion == sides["rejected"].completion:
        raise ValueError(f"{where}: chosen and rejected are the same: there is nothing to prefer")
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
