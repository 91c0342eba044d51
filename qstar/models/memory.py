"""How much memory a training step takes besides its state, by formula: what to expect before anything is compiled.

A step is at its fullest while it goes back through a layer (its recomputed activations and their gradients), while it
goes back through a slice of the logits, or while it samples (the thoughts' own keys and values). What the layers hand
on, gradients and the text's keys are there throughout the backward pass. How often each size counts was read off XLA's
own analysis of compiled steps on CPU; experiments/benchmarks/memory.py holds the formula against it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from qstar.models.cost import SIZES, Pass
from qstar.models.lm import LMConfig
from qstar.ops import chunk

# How many arrays of a size are alive at once at the fullest moment.
OF_WIDTH, OF_FF, OF_SCORES = 13, 6, 3  # in the backward pass of one layer, per column
OF_SLICE = 3  # logits, their softmax, their gradient
OF_CACHE = 2.2  # of the thoughts' own keys and values: what a pass over the layers reads, and what it writes
# Kept of every layer, per column, where nothing of it is recomputed: arrays of the width, of the feed-forward width and
# of scores. Layers that are written out need fewer, because theirs are not copied into stacks.
KEPT, KEPT_UNROLLED = (12, 5, 3), (8, 4, 2)


@dataclass(frozen=True)
class Temporaries:
    """Bytes of what a step holds besides its state."""

    gradients: int
    kept: int  # from the forward for the backward pass
    layer: int  # the backward pass of a layer
    vocabulary: int  # that of a slice of the logits
    sampling: int  # the thoughts' own keys and values

    @property
    def peak(self) -> int:
        # Not sampling alone: the memory it frees is not where the layers' results are put.
        return self.gradients + self.kept + max(self.layer, self.vocabulary, self.sampling)


def temporaries(
    lm: LMConfig, passes: Sequence[Pass], rows: int, trained: int, micro_batches: int = 1, wide: bool = False
) -> Temporaries:
    """What a step on `rows` windows holds.

    Args:
        rows: of all micro-batches together, on one device.
        trained: bytes of the weights that have a gradient.
        wide: bfloat16 is computed in float32, as XLA does on CPU.
    """
    size = max(4, SIZES[lm.dtype]) if wide else SIZES[lm.dtype]
    rows = -(-rows // micro_batches)
    backward = [pass_ for pass_ in passes if pass_.gradient]
    largest = max(backward, key=lambda pass_: pass_.columns)
    table = lm.vocab * lm.width * 4
    # Of the text's pass and of the columns', before they are added; the table's come from look-ups and logits too.
    gradients = trained * (2 if len(backward) > 1 else 1) + (2 * table if trained > table else 0)
    if micro_batches > 1:
        gradients += 2 * trained  # the sum so far, and the next
    kept = sum(_kept(lm, pass_, size, rows) for pass_ in backward)
    logits = max(pass_.logits for pass_ in backward) * rows * lm.vocab * 4
    sampled = sum(pass_.columns for pass_ in passes if pass_.phase == "sampling")
    layer = largest.columns * (OF_WIDTH * lm.width + OF_FF * lm.ff)
    return Temporaries(
        gradients=gradients,
        kept=kept,
        layer=rows * layer * size + OF_SCORES * min(_scores(lm, largest, size, rows), _slice(largest)),
        vocabulary=OF_SLICE * min(logits, chunk.budget()),
        sampling=int(OF_CACHE * rows * sampled * 2 * lm.layers * lm.kv_heads * lm.head_size * size),
    )


def _scores(lm: LMConfig, pass_: Pass, size: int, rows: int) -> int:
    """Bytes of the scores of a layer; float32 or better."""
    return rows * pass_.columns * lm.heads * pass_.keys * max(4, size)


def _slice(pass_: Pass) -> float:
    """Of scores that are there at a time: thoughts attend slice by slice."""
    return chunk.budget() if pass_.thoughts else math.inf


def _kept(lm: LMConfig, pass_: Pass, size: int, rows: int) -> int:
    """Of a pass: what layers hand on, the text's keys and values, and all that is not recomputed."""
    layer = pass_.columns * lm.width
    if pass_.phase == "text":
        layer += 4 * pass_.columns * lm.kv_heads * lm.head_size  # and their gradients
    if lm.remat == "full":
        return rows * lm.layers * layer * size
    if lm.remat == "minimal":  # what its products with weights make, but for the last one
        made = lm.width + (lm.heads + 2 * lm.kv_heads) * lm.head_size + 2 * lm.ff
        return rows * lm.layers * (layer + pass_.columns * made) * size
    of_width, of_ff, of_scores = KEPT_UNROLLED if lm.unrolled else KEPT
    layer += pass_.columns * (of_width * lm.width + of_ff * lm.ff)
    scores = _scores(lm, pass_, size, rows)
    return lm.layers * (rows * layer * size + (of_scores * scores if scores <= _slice(pass_) else 0))
