"""Texts of different lengths as one batch, in few shapes so that few programs are compiled."""

from collections.abc import Sequence

import numpy as np

from qstar.structs import Batch

SMALLEST = 32


def bucket(length: int) -> int:
    """The smallest power of two that holds `length`, and no less than 32."""
    return max(SMALLEST, 1 << (length - 1).bit_length())


def padded(rows: Sequence[Sequence[int]], width: int) -> Batch:
    """Rows padded at their right to `width` tokens; padding has segment 0 and token 0."""
    length = np.array([[len(row)] for row in rows])
    real = np.arange(width)[None] < length
    tokens = np.zeros((len(rows), width), np.int32)
    tokens[real] = np.concatenate([np.asarray(row, np.int32) for row in rows])
    position = np.where(real, np.arange(width)[None], 0).astype(np.int32)
    return Batch(tokens, real, real.astype(np.int32), position)


def check(rows: Sequence[Sequence[int]], vocab: int, max_len: int, more: int = 0) -> None:
    """Raise ValueError for texts that a model of this vocabulary and length cannot read and continue by `more`."""
    if not rows:
        raise ValueError("no text: expected at least one")
    for number, row in enumerate(rows):
        if not row:
            raise ValueError(f"text {number} has no tokens: expected at least one")
        if len(row) + more > max_len:
            needed = f"{len(row)} tokens" + (f" and {more} to write" if more else "")
            raise ValueError(f"text {number} has {needed}, the model was built for {max_len}: shorten it")
        outside = next((token for token in row if not 0 <= token < vocab), None)
        if outside is not None:
            raise ValueError(
                f"text {number} has token id {outside}, the model knows 0 to {vocab - 1}: is the tokenizer another's?"
            )
