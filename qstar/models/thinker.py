"""The thinker: a language model with what Quiet-STaR adds to it.

Start and end embeddings around a thought, one learned pause embedding where thoughts are pauses, and the mixing head:
a three-layer perceptron on (base hidden, thought hidden) whose last layer starts at zero. So the share of the thought
starts as configured; where it starts at 0, as usual, the first mixed prediction is the base prediction and every
thought earns exactly nothing.
"""

import functools
import math
from dataclasses import dataclass
from typing import Annotated

import jax
import jax.numpy as jnp
from flax import nnx

from qstar import settings
from qstar.models.definition import Definition, fan_in, param
from qstar.models.lm import LM, LMConfig
from qstar.settings import OneOf, Positive, Share
from qstar.typing import Array, Float, Key, Params, typed

MIXINGS = ("raw", "sigmoid", "none")
SIDES = ("thought", "base")
INITS = ("token", "random", "mean")


def check_start(mixing: str, start: float | None) -> None:
    """Raise ValueError for a start that this kind of mixing cannot have."""
    if mixing == "sigmoid" and start is not None and not 0 < start < 1:
        raise ValueError(
            f"method.mixing_start = {start} with method.mixing = 'sigmoid': expected a share between 0 and 1, or "
            "method.mixing_start=null for 1/2"
        )


@dataclass(frozen=True)
class Tokens:
    """Ids of the tokens that thoughts are made with, in the model's vocabulary."""

    delimiter: int | None = None  # whose embedding start and end begin as, where they begin as one
    dot: int | None = None  # that fills thoughts of dots
    forbidden: tuple[int, ...] = ()  # never sampled in a thought


@dataclass(frozen=True)
class ThinkerConfig:
    """What is added to the language model.

    `mixing` makes a weight w of the head's output: `raw` as it is, `sigmoid` squashed into [0, 1]; `none` has no head
    and predicts from the thought alone. `mixing_side` is the prediction that w multiplies, the other gets 1 - w.
    `mixing_start` is the share of the thought before the first step; None is where an output of zero puts it: 0 for
    `raw` on the thought's side, 1 for `raw` on the base's, 1/2 for `sigmoid`.

    `gate` adds a head that says where thoughts pay, for methods that think in some places only; `helpfulness` one that
    says of a thought whether it helps, for methods that choose among several.

    `delimiter_scale` s stores the start and end embeddings divided by s and uses them times s, as the official code
    does with s = 100: under Adam that multiplies their learning rate by s, and the gradients that the global clip sees.
    """

    lm: LMConfig
    delimiter_scale: Positive = 1.0
    pause: bool = False
    mixing: Annotated[str, OneOf(MIXINGS)] = "raw"
    mixing_side: Annotated[str, OneOf(SIDES)] = "thought"
    mixing_start: Share | None = None
    gate: bool = False
    helpfulness: bool = False
    tokens: Tokens = Tokens()

    def __post_init__(self):
        settings.check(self, "method")
        check_start(self.mixing, self.mixing_start)

    @property
    def start_share(self) -> float:
        """Share of the thought before the first step."""
        if self.mixing == "none":
            return 1.0
        if self.mixing_start is not None:
            return self.mixing_start
        return {"sigmoid": 0.5, "raw": 0.0 if self.mixing_side == "thought" else 1.0}[self.mixing]


class MixingHead(nnx.Module):
    """Linear(2D, D) ReLU Linear(D, D) ReLU Linear(D, 1, no bias); the last layer starts at zero.

    The head that says whether a thought helps has the same layers.
    """

    def __init__(self, width: int, rngs: nnx.Rngs):
        zeros = nnx.initializers.zeros
        self.first = param(rngs, fan_in(2 * width), (2 * width, width), ("embed", None))
        self.first_bias = param(rngs, zeros, (width,), (None,))
        self.second = param(rngs, fan_in(width), (width, width), ("embed", None))
        self.second_bias = param(rngs, zeros, (width,), (None,))
        self.last = param(rngs, zeros, (width, 1), ("embed", None))

    def __call__(self, base: Array, thought: Array) -> Array:
        """Hidden states [*rows D] twice -> [*rows], float32 or better."""
        x = jnp.concatenate(jnp.broadcast_arrays(base, thought), axis=-1)
        x = jax.nn.relu(_affine(x, self.first, self.first_bias))
        x = jax.nn.relu(_affine(x, self.second, self.second_bias))
        wide = jnp.promote_types(x.dtype, jnp.float32)
        return jnp.einsum("...d,do->...o", x.astype(wide), self.last[...].astype(wide))[..., 0]


class Gate(nnx.Module):
    """Linear(D, D) ReLU Linear(D, 1): log-odds, which start at zero."""

    def __init__(self, width: int, rngs: nnx.Rngs):
        zeros = nnx.initializers.zeros
        self.first = param(rngs, fan_in(width), (width, width), ("embed", None))
        self.first_bias = param(rngs, zeros, (width,), (None,))
        self.last = param(rngs, zeros, (width, 1), ("embed", None))
        self.last_bias = param(rngs, zeros, (1,), (None,))

    def __call__(self, hidden: Array) -> Array:
        """Hidden states [*rows D] -> [*rows], float32 or better."""
        x = jax.nn.relu(_affine(hidden, self.first, self.first_bias))
        return _affine(x.astype(jnp.promote_types(x.dtype, jnp.float32)), self.last, self.last_bias)[..., 0]


def _affine(x: Array, weight: nnx.Param, bias: nnx.Param) -> Array:
    x = jnp.einsum("...i,io->...o", x, weight[...].astype(x.dtype))
    return x + bias[...].astype(x.dtype).reshape((1,) * (x.ndim - 1) + (-1,))


class Thinker(nnx.Module):
    def __init__(self, cfg: ThinkerConfig, rngs: nnx.Rngs):
        self.cfg = cfg
        self.lm = LM(cfg.lm, rngs)
        width = cfg.lm.width
        self.start = param(rngs, fan_in(width), (width,), ("embed",))
        self.end = param(rngs, fan_in(width), (width,), ("embed",))
        if cfg.pause:
            self.pause = param(rngs, fan_in(width), (width,), ("embed",))
        if cfg.mixing != "none":
            self.mixing = MixingHead(width, rngs)
        if cfg.gate:
            self.gate = Gate(width, rngs)
        if cfg.helpfulness:
            self.helpfulness = MixingHead(width, rngs)

    @property
    def forbidden(self) -> tuple[int, ...]:
        """Ids that the model does not generate."""
        return self.cfg.tokens.forbidden

    @property
    def start_embedding(self) -> Float[Array, "D"]:
        return self.lm.scaled((self.start[...] * self.cfg.delimiter_scale).astype(self.lm.dtype))

    @property
    def end_embedding(self) -> Float[Array, "D"]:
        return self.lm.scaled((self.end[...] * self.cfg.delimiter_scale).astype(self.lm.dtype))

    def share(self, base: Array, thought: Array) -> Array:
        """Share of the thought in the mixed prediction, from hidden states [*rows D] twice: [*rows].

        On the base's side the head's w counts the other way, share = 1 - w. It is computed from the share it starts at,
        not as 1 - w: near w = 1 the difference would lose the digits that the first steps learn by.
        """
        cfg = self.cfg
        if cfg.mixing == "none":
            wide = jnp.promote_types(thought.dtype, jnp.float32)
            return jnp.ones(jnp.broadcast_shapes(base.shape, thought.shape)[:-1], wide)
        out = self.mixing(base, thought)
        out = out if cfg.mixing_side == "thought" else -out
        if cfg.mixing == "raw":
            return cfg.start_share + out
        return jax.nn.sigmoid(math.log(cfg.start_share / (1 - cfg.start_share)) + out)

    def helpful(self, base: Array, thought: Array) -> Array | None:
        """Log-odds that a thought helps, from hidden states [*rows D] twice: [*rows]. None where there is no such head.

        No gradient reaches the model through the hidden states.
        """
        return self.helpfulness(*map(jax.lax.stop_gradient, (base, thought))) if self.cfg.helpfulness else None

    @typed
    def columns_input(
        self, inner: Float[Array, "B R A T D"], true: Float[Array, "B R A M D"]
    ) -> Float[Array, "B R A C D"]:
        """Embeddings of all columns: start, the thought, end, and the M = N - 1 true tokens after it."""
        edge = (*inner.shape[:3], 1, inner.shape[-1])
        start, end = (
            jnp.broadcast_to(e[None, None, None, None], edge) for e in (self.start_embedding, self.end_embedding)
        )
        return jnp.concatenate([start, inner, end, true], axis=3)


@functools.cache
def definition(cfg: ThinkerConfig) -> Definition:
    return Definition(lambda rngs: Thinker(cfg, rngs))


def from_lm(cfg: ThinkerConfig, lm: Params, key: Key, init: str = "token") -> Params:
    """Thinker weights around pretrained ones.

    `init` is what start, end and pause begin as: `token`, the embedding of the delimiter ("both initialised to the
    embedding of '---'", Quiet-STaR); `random`, independent normal numbers of the size of the table's; `mean`, the mean
    of the table's rows.
    """
    if init == "token" and cfg.tokens.delimiter is None:
        raise ValueError(
            "cfg.tokens.delimiter = None with init = 'token': expected the id of the token whose embedding start and "
            "end begin as; define the model with its tokenizer, or choose init='random' or init='mean'"
        )
    definition(cfg).check({**definition(cfg).abstract, "lm": lm}, "the language model's weights")
    return {**_added(cfg, lm["embedding"], key, init), "lm": lm}


# Jitted, so that the language model, which is there already, is not drawn as well: dozens of programs to compile.
@functools.partial(jax.jit, static_argnames=("cfg", "init"))
def _added(cfg: ThinkerConfig, table: Float[Array, "V D"], key: Key, init: str) -> Params:
    """What is added to a language model with this embedding table."""
    params = {name: part for name, part in definition(cfg).init(key).items() if name != "lm"}
    for name in ("start", "end", "pause") if cfg.pause else ("start", "end"):
        if init == "token":
            begin = table[cfg.tokens.delimiter]
        elif init == "random":
            # Drawn with variance 1 / width; see `Thinker`.
            begin = params[name] * (cfg.lm.width**0.5 * jnp.std(table))
        else:
            begin = table.mean(axis=0)
        params[name] = begin if name == "pause" else begin / cfg.delimiter_scale
    return params
