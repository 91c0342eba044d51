"""What flows through a training step. Letters of the shapes: `qstar.typing`."""

import jax
import jax.numpy as jnp
from flax import struct

from qstar.typing import Array, Bool, Float, Int, Key, Params


@struct.dataclass
class Batch:
    """Windows of text. Padding has segment 0; documents packed into one row are numbered from 1."""

    tokens: Int[Array, "B S"]  # token ids
    mask: Bool[Array, "B S"]  # True: this token counts as a target of the loss
    segment: Int[Array, "B S"]  # document number within the row; tokens only see their own document
    position: Int[Array, "B S"]  # position within the document, for rotary embeddings


@struct.dataclass
class Examples(Batch):
    """Windows of prompts with completions, each with its weight in the loss."""

    weight: Float[Array, "B S"]  # of the token as a target; may be negative


@struct.dataclass
class Text:
    """One pass over the text: what thoughts attend to and what the mixing head blends with."""

    hidden: Float[Array, "B S D"]  # after the final norm
    key: Float[Array, "L B S G K"]  # rotated keys of every layer
    value: Float[Array, "L B S G K"]
    position: Int[Array, "B S"]  # of the keys within their document: sliding windows are counted in positions


@struct.dataclass
class Thoughts:
    """Phase 1: one thought per anchor and sample. No gradient flows through it."""

    tokens: Int[Array, "B R A T"]
    logprobs: Float[Array, "B R A T"]  # under the distribution it was sampled from (the behaviour policy)


@struct.dataclass
class Talk:
    """Phase 2: what the thoughts did to the likelihood of the text. Differentiable."""

    text: Float[Array, "B J"]  # base log-prob of every next token
    base: Float[Array, "B A N"]  # base log-prob of the N tokens after each anchor
    mixed: Float[Array, "B R A N"]  # the same after thinking, mixed with the base
    thought: Float[Array, "B R A T"]  # log-prob of the thought's tokens at the REINFORCE temperature
    weight: Float[Array, "B R A N"]  # share of the prediction after the thought, on whichever side the mixing head is
    counts: Bool[Array, "B A N"]  # True where the target exists, counts and lies in the anchor's document
    behaviour: Float[Array, "B R A T"] | None = None  # log-prob of the thought's tokens where they were sampled


@struct.dataclass
class Credit:
    """What each thought earned. Constants of the step: gradients stop here."""

    reward: Float[Array, "B R A"]  # gain in log-likelihood of the tokens that follow, in nats
    advantage: Float[Array, "B R A"]  # reward against its baseline, clamped where the method says so


@struct.dataclass
class Mean:
    """A sum and its count: adds over micro-batches, steps and hosts; divided once, when printed."""

    sum: Float[Array, ""]
    count: Float[Array, ""]

    @classmethod
    def of(cls, values: Array, where: Array | None = None) -> "Mean":
        where = jnp.ones_like(values) if where is None else jnp.broadcast_to(where, values.shape)
        where = where.astype(values.dtype)
        return cls(jnp.sum(jax.lax.stop_gradient(values) * where), jnp.sum(where))

    def __add__(self, other: "Mean") -> "Mean":
        return Mean(self.sum + other.sum, self.count + other.count)

    def value(self) -> float:
        return float(self.sum) / max(float(self.count), 1e-30)


Metrics = dict[str, Mean]


@struct.dataclass
class TrainState:
    step: Int[Array, ""]
    params: Params  # those that train
    opt_state: tuple
    key: Key  # of the run; the key of a step is fold_in(key, step)
    ema: Params | None = None  # exponential moving average of params, where asked
    frozen: Params | None = None  # the weights that never change, where there are any; no checkpoint holds them
    reference: Params | None = None  # weights that the loss compares with, where the method asks for them
