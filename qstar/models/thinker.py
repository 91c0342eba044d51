"""The thinker: a language model with what Quiet-STaR adds to it.

Start and end embeddings around a thought, one learned pause embedding where thoughts are pauses, and the mixing head:
a three-layer perceptron on (base hidden, thought hidden) whose last layer starts at zero, so that at step 0 the mixing
weight is 0, the mixed prediction is the base prediction and every thought earns exactly nothing.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx

from qstar.models.definition import Definition, fan_in, param
from qstar.models.lm import LM, LMConfig
from qstar.typing import Array, Float, Key, Params, typed


@dataclass(frozen=True)
class ThinkerConfig:
    """What is added to the language model.

    `delimiter_scale` s stores the start and end embeddings divided by s and uses them times s, as the official code
    does with s = 100: under Adam that multiplies their learning rate by s, and the gradients that the global clip sees.
    """

    lm: LMConfig
    delimiter_scale: float = 1.0
    pause: bool = False

    def __post_init__(self):
        if self.delimiter_scale <= 0:
            raise ValueError(f"delimiter_scale = {self.delimiter_scale}: a positive number is wanted")


class MixingHead(nnx.Module):
    """w = Linear(2D, D) ReLU Linear(D, D) ReLU Linear(D, 1, no bias); the last layer starts at zero."""

    def __init__(self, width: int, rngs: nnx.Rngs):
        zeros = nnx.initializers.zeros
        self.first = param(rngs, fan_in(2 * width), (2 * width, width), ("embed", None))
        self.first_bias = param(rngs, zeros, (width,), (None,))
        self.second = param(rngs, fan_in(width), (width, width), ("embed", None))
        self.second_bias = param(rngs, zeros, (width,), (None,))
        self.last = param(rngs, zeros, (width, 1), ("embed", None))

    def __call__(self, base: Array, thought: Array) -> Array:
        """Hidden states [*rows D] twice -> weights [*rows], float32 or better."""
        x = jnp.concatenate(jnp.broadcast_arrays(base, thought), axis=-1)
        x = jax.nn.relu(_affine(x, self.first, self.first_bias))
        x = jax.nn.relu(_affine(x, self.second, self.second_bias))
        wide = jnp.promote_types(x.dtype, jnp.float32)
        return jnp.einsum("...d,do->...o", x.astype(wide), self.last[...].astype(wide))[..., 0]


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
        self.mixing = MixingHead(width, rngs)

    @property
    def start_embedding(self) -> Float[Array, "D"]:
        return self.lm.scaled((self.start[...] * self.cfg.delimiter_scale).astype(self.lm.dtype))

    @property
    def end_embedding(self) -> Float[Array, "D"]:
        return self.lm.scaled((self.end[...] * self.cfg.delimiter_scale).astype(self.lm.dtype))

    @typed
    def columns_input(
        self, inner: Float[Array, "B R A T D"], true: Float[Array, "B R A M D"]
    ) -> Float[Array, "B R A C D"]:
        """Embeddings of all columns: start, the thought, end, and the M = N - 1 true tokens behind it."""
        edge = (*inner.shape[:3], 1, inner.shape[-1])
        start, end = (
            jnp.broadcast_to(e[None, None, None, None], edge) for e in (self.start_embedding, self.end_embedding)
        )
        return jnp.concatenate([start, inner, end, true], axis=3)


def definition(cfg: ThinkerConfig) -> Definition:
    return Definition(lambda rngs: Thinker(cfg, rngs))


def from_lm(cfg: ThinkerConfig, lm: Params, delimiter_id: int, key: Key) -> Params:
    """Thinker weights around pretrained ones; start, end and pause begin as the embedding of one chosen token.

    The source says so: "both initialised to the embedding of '---', which denotes a pause or thought" (Quiet-STaR).
    """
    model = definition(cfg)
    params = {**model.init(key), "lm": lm}
    token = jnp.asarray(lm["embedding"])[delimiter_id]
    params |= {"start": token / cfg.delimiter_scale, "end": token / cfg.delimiter_scale}
    if cfg.pause:
        params["pause"] = token
    model.check(params, "the language model's weights")
    return params
