"""A language model with a head: a number at every token, read off the hidden state there.

The head is an affine map of the final hidden state and starts at zero: as log-odds, every first score is 1/2.
"""

import functools

import jax.numpy as jnp
from flax import nnx

from qstar.models.definition import Definition, param
from qstar.models.lm import LM, LMConfig
from qstar.structs import Batch
from qstar.typing import Array, Float, Params, typed


class ScoreHead(nnx.Module):
    """Linear(D, 1)."""

    def __init__(self, width: int, rngs: nnx.Rngs):
        zeros = nnx.initializers.zeros
        self.weight = param(rngs, zeros, (width,), ("embed",))
        self.bias = param(rngs, zeros, (), ())

    def __call__(self, hidden: Array) -> Array:
        """Hidden states [*rows D] -> [*rows], float32 or better."""
        wide = jnp.promote_types(hidden.dtype, jnp.float32)
        return jnp.einsum("...d,d->...", hidden.astype(wide), self.weight[...].astype(wide)) + self.bias[...].astype(
            wide
        )


class Scorer(nnx.Module):
    """A language model that gives every token a number, and still predicts the next one."""

    def __init__(self, cfg: LMConfig, rngs: nnx.Rngs):
        self.cfg = cfg
        self.lm = LM(cfg, rngs)
        self.score = ScoreHead(cfg.width, rngs)

    @property
    def forbidden(self) -> tuple[int, ...]:
        """Ids that the model does not generate."""
        return ()

    @typed
    def scores(self, batch: Batch) -> Float[Array, "B S"]:
        """The head's output at every token, from the tokens up to it."""
        return self.score(self.lm.text(batch).hidden)


@functools.cache
def definition(cfg: LMConfig) -> Definition:
    return Definition(lambda rngs: Scorer(cfg, rngs))


class ActorCritic(nnx.Module):
    """A language model that acts, and a scorer with a language model of its own that judges what it does."""

    def __init__(self, cfg: LMConfig, rngs: nnx.Rngs):
        self.cfg = cfg
        self.lm = LM(cfg, rngs)
        self.critic = Scorer(cfg, rngs)

    @property
    def forbidden(self) -> tuple[int, ...]:
        """Ids that the model does not generate."""
        return ()


@functools.cache
def actor_critic(cfg: LMConfig) -> Definition:
    return Definition(lambda rngs: ActorCritic(cfg, rngs))


def from_lm(cfg: LMConfig, lm: Params) -> Params:
    """Scorer weights around those of a pretrained language model."""
    head = definition(cfg).abstract["score"]
    return {"lm": lm, "score": {name: jnp.zeros(leaf.shape, leaf.dtype) for name, leaf in head.items()}}
