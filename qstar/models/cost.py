"""What a training step computes, counted by formula: matrix products of the trunk, attention, logits and small heads.

A step is a few passes of columns through the model. A multiplication and an addition are two FLOPs; a backward pass is
twice its forward pass; what is recomputed to save memory is not counted again, and neither are norms, softmax and
look-ups. Attention is counted over all keys that stand in the product, masked or not, as it is computed.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from qstar.models.lm import LMConfig


@dataclass(frozen=True)
class Pass:
    """Columns of one window of text that go through the model together, or one after another with a cache."""

    columns: int
    keys: int  # that each column attends to
    logits: int  # columns whose logits are computed
    mixing: int = 0  # columns that go through the mixing head
    gate: int = 0  # columns that go through the gate
    gradient: bool = True  # False: forward only


def forward_flops(lm: LMConfig, one: Pass) -> int:
    """FLOPs of one forward pass."""
    attention = lm.heads * lm.head_size
    weights = 2 * lm.width * (attention + lm.kv_heads * lm.head_size) + 3 * lm.width * lm.ff
    per_column = lm.layers * (2 * weights + 4 * attention * one.keys)
    perceptron = lm.width**2 + lm.width  # the last two layers of a small head
    small = one.mixing * (2 * lm.width**2 + perceptron) + one.gate * perceptron
    return one.columns * per_column + 2 * one.logits * lm.vocab * lm.width + 2 * small


def flops(lm: LMConfig, passes: Sequence[Pass]) -> int:
    """FLOPs of a training step on one window: three forward passes where there is a gradient, else one."""
    return sum(forward_flops(lm, one) * (3 if one.gradient else 1) for one in passes)
