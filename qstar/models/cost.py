"""What a training step computes and moves, counted by formula, phase by phase: an account of FLOPs and bytes.

A step is a few passes of columns through the model. A multiplication and an addition are two FLOPs; a backward pass is
twice its forward pass; norms, softmax and look-ups are not counted. Attention is counted over all keys that stand in
the product, masked or not, as it is computed. `flops` is what the method asks for: what is recomputed to save memory is
no part of it, and model-FLOP utilisation is relative to it. `phases` has what is recomputed as well, and the bytes
that are read and written by every product and by the fused loops between products (norms, rotations, softmax, gates).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from qstar.models.lm import LMConfig

SIZES = {"float32": 4, "bfloat16": 2, "float64": 8}  # bytes
PHASES = ("text", "sampling", "columns", "vocabulary", "heads", "backward", "recomputation")


@dataclass(frozen=True)
class Cost:
    """The account of everything that is computed with a model: sampling, hints, asking, training. Adds up."""

    prompt_tokens: int = 0  # read; once for all samples of a prompt
    padding_tokens: int = 0  # read to fill rows and batches
    generated_tokens: int = 0  # written and returned
    discarded_tokens: int = 0  # computed for rows that had ended, or to fill a batch
    graded_tokens: int = 0  # of what was written: those that a grader read
    trained_tokens: int = 0  # of rows of training, what fills them up included
    target_tokens: int = 0  # of these: those that counted in the loss
    flops: int = 0  # of all of these

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(*(mine + others for mine, others in zip(vars(self).values(), vars(other).values(), strict=True)))

    def ledger(self, *names: str) -> dict[str, int]:
        """These entries by name, as a run's ledger keeps them, and the FLOPs."""
        return {name: getattr(self, name) for name in (*names, "flops")}


@dataclass(frozen=True)
class Pass:
    """Columns of one window of text that go through the model together, or one after another with a cache."""

    columns: int
    keys: int  # that each column attends to
    logits: int  # columns whose logits are computed
    mixing: int = 0  # columns that go through the mixing head
    gate: int = 0  # columns that go through the gate
    gradient: bool = True  # False: forward only
    phase: str = "text"  # that its forward pass through the layers belongs to: text, sampling or columns
    thoughts: int = 0  # whose columns these are
    runs: int = 1  # times that the weights are read: columns one after another


@dataclass(frozen=True)
class Work:
    """FLOPs, and bytes read and written by them."""

    flops: int = 0
    bytes: int = 0

    def __add__(self, other: "Work") -> "Work":
        return Work(self.flops + other.flops, self.bytes + other.bytes)

    def __mul__(self, times: int) -> "Work":
        return Work(self.flops * times, self.bytes * times)


@dataclass(frozen=True)
class Answer:
    """What it takes to write answers to one prompt, token by token with a cache of keys; nothing is filled up."""

    products: int  # FLOPs of products with weights, which grow as the tokens do
    attention: int  # FLOPs of scores and of sums of values, which grow as the square of the length does
    cache: int  # bytes of keys and values at the end
    read: int  # bytes of keys and values that were read, by every token those before it

    @property
    def flops(self) -> int:
        return self.products + self.attention


def answer(lm: LMConfig, prompt: int, tokens: int, samples: int = 1) -> Answer:
    """The account of `samples` answers of so many tokens to a prompt, whose keys are computed and stored once.

    The newest token is read by the column that predicts the next one; layers with a window keep all keys, as
    `decoding/cache.py` does. Raises ValueError where there is no prompt or no token.
    """
    if min(prompt, tokens, samples) < 1:
        raise ValueError(f"prompt = {prompt}, tokens = {tokens}, samples = {samples}: expected 1 or more of each")
    columns = prompt - 1 + samples * tokens
    seen = samples * sum(range(prompt, prompt + tokens))  # keys that columns of answers attend to
    return Answer(
        products=forward_flops(lm, Pass(columns, 0, samples * tokens)),
        attention=4 * lm.layers * lm.heads * lm.head_size * ((prompt - 1) ** 2 + seen),
        cache=cache_bytes(lm, columns),
        read=cache_bytes(lm, seen),
    )


def cache_bytes(lm: LMConfig, tokens: int) -> int:
    """Of the keys and values of so many tokens, in all layers."""
    return 2 * lm.layers * lm.kv_heads * lm.head_size * tokens * SIZES[lm.dtype]


def forward_flops(lm: LMConfig, pass_: Pass) -> int:
    """FLOPs of one forward pass."""
    return sum(part.flops for part in _forward(lm, pass_, 1))


def flops(lm: LMConfig, passes: Sequence[Pass], frozen: bool = False) -> int:
    """FLOPs of a training step on one window: three forward passes where there is a gradient, else one.

    Where the language model is `frozen` under adapters, no gradient of its weights is computed, which leaves two of
    every product with a weight; the adapters' own products are left out.
    """
    return sum(_least(lm, pass_, frozen) for pass_ in passes)


def _least(lm: LMConfig, pass_: Pass, frozen: bool) -> int:
    trunk, logits, heads = _forward(lm, pass_, 1)
    forward = trunk.flops + logits.flops + heads.flops
    if not pass_.gradient:
        return forward
    weights = 2 * pass_.columns * lm.layers * _layer_weights(lm) + logits.flops
    return 3 * forward - (weights if frozen else 0)


def phases(lm: LMConfig, passes: Sequence[Pass], rows: int = 1) -> dict[str, Work]:
    """What each of `PHASES` computes and moves in a step on `rows` windows.

    Layers run twice more than forward for a gradient, and what `lm.remat` recomputes runs once more again. Logits are
    recomputed always (`ops.chunk`). The update of the weights is not counted.
    """
    work = dict.fromkeys(PHASES, Work())
    for pass_ in passes:
        trunk, logits, heads = _forward(lm, pass_, rows)
        work[pass_.phase] += trunk
        work["vocabulary"] += logits
        work["heads"] += heads
        if pass_.gradient:
            work["backward"] += (trunk + logits + heads) * 2
            work["recomputation"] += logits + _recomputed(lm, pass_, trunk, rows)
    return work


def _recomputed(lm: LMConfig, pass_: Pass, trunk: Work, rows: int) -> Work:
    """The layers again, but for products that are kept and the last of each layer: no gradient asks for its result."""
    size, columns = SIZES[lm.dtype], rows * pass_.columns
    if lm.remat == "none":
        return Work()
    if lm.remat == "minimal":
        products = 2 * columns * _layer_weights(lm)
        return trunk + Work(products, _products_bytes(lm, pass_, columns)) * -lm.layers
    moved = lm.width * lm.ff + columns * (lm.width + lm.ff)
    return trunk + Work(2 * columns * lm.width * lm.ff, moved * size) * -lm.layers


def _forward(lm: LMConfig, pass_: Pass, rows: int) -> tuple[Work, Work, Work]:
    """Layers, logits and small heads of a forward pass over `rows` windows."""
    size, columns, logits = SIZES[lm.dtype], rows * pass_.columns, rows * pass_.logits
    attention = lm.heads * lm.head_size
    per_column = 2 * _layer_weights(lm) + 4 * attention * pass_.keys
    trunk = Work(columns * lm.layers * per_column, lm.layers * _layer_bytes(lm, pass_, columns))
    table = lm.vocab * lm.width
    read = pass_.runs * table * bool(logits) + logits * (lm.width + 4 * lm.vocab)  # written, and read for the softmax
    vocabulary = Work(2 * logits * table, size * read)
    perceptron = lm.width**2 + lm.width  # the last two layers of a small head
    small = pass_.mixing * (2 * lm.width**2 + perceptron) + pass_.gate * perceptron
    heads = Work(2 * rows * small, size * rows * (5 * pass_.mixing + 3 * pass_.gate) * lm.width)
    return trunk, vocabulary, heads


def _layer_weights(lm: LMConfig) -> int:
    """Weights of one layer that are used in matrix products."""
    return 2 * lm.width * (lm.heads + lm.kv_heads) * lm.head_size + 3 * lm.width * lm.ff


def _layer_bytes(lm: LMConfig, pass_: Pass, columns: int) -> int:
    """What one layer reads and writes.

    In units of a column, besides the operands and results of its products: six times the width for a norm with its
    residual sum; queries, keys and values twice more to rotate and once more to lay out; scores eight times more for
    mask, maximum, exponential, sum and quotient; gate, its partner and their product.
    """
    size, wide = SIZES[lm.dtype], max(4, SIZES[lm.dtype])  # scores are float32 or better
    heads = (lm.heads + lm.kv_heads) * lm.head_size
    attended = 2 * (lm.heads + pass_.runs * lm.kv_heads) * lm.head_size  # a column's own keys are read in every run
    between = 12 * lm.width + 8 * heads + 3 * lm.ff
    scores = lm.heads * pass_.keys * (9 * wide + size)
    return _products_bytes(lm, pass_, columns) + columns * ((attended + between) * size + scores)


def _products_bytes(lm: LMConfig, pass_: Pass, columns: int) -> int:
    """What the products of one layer with its weights read and write."""
    operands = 7 * lm.width + 2 * (lm.heads + lm.kv_heads) * lm.head_size + 3 * lm.ff
    return SIZES[lm.dtype] * (pass_.runs * _layer_weights(lm) + columns * operands)
