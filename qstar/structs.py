"""What flows through a training step. Letters of the shapes: `qstar.typing`."""

import functools
import operator
from collections.abc import Sequence

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
    begins: Bool[Array, "B S"] | None = None  # True at the first token of a group; None where examples have no groups


@struct.dataclass
class Labelled(Batch):
    """Windows of solutions, some of whose tokens are judged; `mask` marks the tokens of the solutions."""

    label: Float[Array, "B S"]  # from 0, wrong, to 1, right; 0 where nothing is judged
    judged: Bool[Array, "B S"]  # True: the score at this token is compared with the label


@struct.dataclass
class Pairs:
    """Two completions of the same prompts, row by row; their masks mark the completions."""

    chosen: Batch
    rejected: Batch


@struct.dataclass
class Rollouts:
    """Texts that the model generated, `samples` of each question one after another: B rows of R, after a prompt each.

    All texts of a row continue its prompt, which is read once for all of them. How many stand in a row is only a matter
    of what that costs. The token ids are those that were sampled: no text was encoded again.
    """

    prompt: Batch  # of every row [B P], one document, padded at the right
    tokens: Int[Array, "B R T"]  # that were sampled, padded at the right
    mask: Bool[Array, "B R T"]  # True: sampled; False: padding
    behaviour: Float[Array, "B R T"]  # log-prob under the distribution that the token was drawn from, nats
    reward: Float[Array, "B R T"]  # earned with a token; what was said of a whole text stands at its last one
    rewards: dict[str, Float[Array, "B R"]]  # what the reward of a text is the sum of, by name
    right: Bool[Array, "B R"]  # its answer is; only shown, where it is not what earns
    live: Bool[Array, "B R"]  # True: the text is trained on
    past: Float[Array, "B R"]  # moving average of the rewards of earlier steps, the same for all
    samples: int = struct.field(pytree_node=False)  # texts of a question


@struct.dataclass
class Judged:
    """What models say of every sampled token, by the trainer's pass. Constants of the step."""

    old: Float[Array, "B R T"] | None = None  # log-probs under the weights that sampled; None: not asked yet
    reference: Float[Array, "B R T"] | None = None  # under the reference weights
    value: Float[Array, "B R T"] | None = None  # expected return from here on


@struct.dataclass
class Credited(Rollouts):
    """Rollouts with what a policy gradient needs of every sampled token."""

    judged: Judged
    advantage: Float[Array, "B R T"]
    returns: Float[Array, "B R T"] | None = None  # what the value is trained towards


@struct.dataclass
class Text:
    """One pass over the text: what thoughts attend to and what the mixing head blends with."""

    hidden: Float[Array, "B S D"]  # after the final norm
    key: Float[Array, "L B S G K"]  # rotated keys of every layer
    value: Float[Array, "L B S G K"]
    position: Int[Array, "B S"]  # of the keys within their document: sliding windows are counted in positions


@struct.dataclass
class Context:
    """What thoughts see: a text that was read, and the positions in it where the model thinks."""

    text: Text
    batch: Batch
    anchors: Int[Array, "B A"]


ROWS = Context(Text(hidden=0, key=1, value=1, position=0), Batch(tokens=0, mask=0, segment=0, position=0), anchors=0)
"""The axis of each leaf that counts the rows."""


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
    # True where what is mixed is to the last bit what the base prediction is made from; None where nothing is compared.
    unchanged: Bool[Array, "B R A N"] | None = None
    helpful: Float[Array, "B R A"] | None = None  # log-odds that the thought helps; None without such a head


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
class Term:
    """A part of a loss, `weight` times a mean: the sum and the count that the mean is made of.

    Both add over micro-batches, which rarely have equally many entries; the division comes once, by the count of the
    whole batch. `sum` and `count` may hold several means, which then weigh the same.
    """

    sum: Float[Array, "*means"]  # differentiable
    count: Int[Array, "*means"]  # entries that were summed
    weight: float = struct.field(pytree_node=False, default=1.0)
    name: str = struct.field(pytree_node=False, default="")  # that its mean is logged as; "": it is not

    @classmethod
    def of(cls, values: Array, where: Array, weight: float = 1.0, name: str = "") -> "Term":
        """The mean of the marked entries; 0, with zero gradient, where none is marked."""
        return cls(jnp.sum(jnp.where(where, values, 0)), jnp.sum(where), weight, name)

    @classmethod
    def stack(cls, terms: "Sequence[Term]", weight: float) -> "Term":
        """Several means as one term."""
        return cls(jnp.stack([term.sum for term in terms]), jnp.stack([term.count for term in terms]), weight)

    @property
    def means(self) -> Float[Array, "*means"]:
        return self.sum / jnp.maximum(self.count, 1).astype(self.sum.dtype)

    @property
    def mean(self) -> Float[Array, ""]:
        """Of the means, not weighted."""
        return self.means.mean() if self.means.ndim else self.means


@struct.dataclass
class Loss:
    """What a method minimises: the sum of its terms."""

    terms: tuple[Term, ...]
    counted: dict[str, Int[Array, ""]] = struct.field(default_factory=dict)  # numbers of a batch that are logged

    @property
    def value(self) -> Float[Array, ""]:
        return functools.reduce(operator.add, [term.weight * term.mean for term in self.terms])

    @property
    def counts(self) -> tuple[Int[Array, "*means"], ...]:
        return tuple(term.count for term in self.terms)

    def out_of(self, counts: Sequence[Int[Array, "*means"]]) -> "Loss":
        """This loss's share of the loss of a larger batch, whose counts are given: shares add up to that loss."""
        return self.replace(
            terms=tuple(term.replace(count=count) for term, count in zip(self.terms, counts, strict=True))
        )

    @property
    def logged(self) -> Metrics:
        """Its value, and those of its terms that have a name. A single mean keeps its count over steps as well."""
        metrics = {term.name: Mean.of(term.mean) for term in self.terms if term.name}
        metrics |= {name: Mean.of(count.astype(jnp.float32)) for name, count in self.counted.items()}
        if len(self.terms) == 1 and self.terms[0].weight == 1 and not self.terms[0].sum.ndim:
            (term,) = self.terms
            return metrics | {"loss": Mean(jax.lax.stop_gradient(term.sum), term.count.astype(term.sum.dtype))}
        return metrics | {"loss": Mean.of(self.value)}


@struct.dataclass
class TrainState:
    step: Int[Array, ""]
    params: Params  # those that train
    opt_state: tuple
    key: Key  # of the run; the key of a step is fold_in(key, step)
    ema: Params | None = None  # exponential moving average of params, where asked
    frozen: Params | None = None  # the weights that never change, where there are any; no checkpoint holds them
    reference: Params | None = None  # weights that the loss compares with, where the method asks for them
