"""Adaptive thinking: Quiet-STaR with a gate that learns where a thought pays, and closes before one is generated.

    gate    g(h) = sigmoid(perceptron(h)) on the hidden state h that the prediction without a thought is made from
    target  1[gain > threshold], gain = log p_talk - log p_init of the true tokens: what Quiet-STaR computes as reward
    loss    Quiet-STaR's + cross-entropy of g against the target; h is a constant of it
    use     where g < gate_at no thought is generated and the prediction is the one without

Every position thinks while training, so the gain is known whether or not the gate is open: the target is a label, and
a policy gradient with a price on thoughts would estimate from samples what is known. The threshold is that price.
"""

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp

from qstar.methods.protocol import Vocabulary
from qstar.methods.quiet_star import QuietStar
from qstar.models.lm import LMConfig
from qstar.models.thinker import Thinker, ThinkerConfig
from qstar.settings import Real, Share
from qstar.structs import Context, Loss, Mean, Metrics, Talk, Term
from qstar.thoughts.fill import Inner
from qstar.thoughts.predict import Prediction
from qstar.thoughts.talk import base_hidden
from qstar.thoughts.thinking import Thinking
from qstar.typing import Array, Bool, Float, Key, typed


@dataclass(frozen=True)
class LearnsGain(QuietStar):
    """Quiet-STaR with a head that learns which thoughts gain more than a threshold: its loss and metrics are added."""

    threshold: Real = 0.0  # gain in log-likelihood of the judged tokens, in nats, above which a thought helps

    def judged(self, model: Thinker, context: Context, talk: Talk) -> tuple[Loss, Metrics]:
        terms = self.terms(talk, context.batch)
        helps = terms.credit.reward > self.threshold
        logit = jnp.broadcast_to(self.log_odds(model, context, talk), helps.shape)
        counts = jnp.broadcast_to(self.counted(talk, context.batch)[2].any(-1)[:, None], helps.shape)
        loss = Loss((*terms.parts.terms, Term.of(cross_entropy(logit, helps), counts)))
        logged = self.metrics(talk, context.batch, terms)
        return loss, logged | self.head_metrics(jax.nn.sigmoid(logit), helps, counts)

    def log_odds(self, model: Thinker, context: Context, talk: Talk) -> Float[Array, "B _ A"]:
        """That a thought helps: of each one, or the same of all at an anchor."""
        raise NotImplementedError

    def head_metrics(
        self, chance: Float[Array, "B R A"], helps: Bool[Array, "B R A"], counts: Bool[Array, "B R A"]
    ) -> Metrics:
        """Of the head's probabilities, where they count."""
        raise NotImplementedError


@dataclass(frozen=True)
class Adaptive(LearnsGain):
    """Quiet-STaR's hyper-parameters, and the gate's."""

    headline: ClassVar[tuple[str, ...]] = ("nll", "nll_mixed", "reward", "gate_open")

    gate_at: Share = 0.5  # think where the gate's probability that a thought helps is at least this

    @property
    def thinking(self) -> Thinking:
        return dataclasses.replace(super().thinking, gate=True)

    def thinker(self, lm: LMConfig, vocabulary: Vocabulary | None = None) -> ThinkerConfig:
        return dataclasses.replace(super().thinker(lm, vocabulary), gate=True)

    def log_odds(self, model: Thinker, context: Context, talk: Talk) -> Float[Array, "B _ A"]:
        return gate(model, context)[:, None]

    def head_metrics(
        self, chance: Float[Array, "B R A"], helps: Bool[Array, "B R A"], counts: Bool[Array, "B R A"]
    ) -> Metrics:
        """How many thoughts the gate lets through, how many of these help, how many that help it lets through, and the
        mean squared error of its probability."""
        opens = chance >= self.gate_at
        as_float = lambda x: x.astype(chance.dtype)  # noqa: E731
        return {
            "gate_open": Mean.of(as_float(opens), counts),
            "gate_precision": Mean.of(as_float(helps), counts & opens),
            "gate_recall": Mean.of(as_float(opens), counts & helps),
            "gate_brier": Mean.of((chance - as_float(helps)) ** 2, counts),
        }

    def opens(self, model: Thinker, context: Context) -> Bool[Array, "B A"]:
        """Where the model thinks."""
        return jax.nn.sigmoid(gate(model, context)) >= self.gate_at

    def think(
        self, model: Thinker, context: Context, key: Key, greedy: bool, num_thoughts: int = 1
    ) -> tuple[Inner, Prediction]:
        """Thoughts where the gate is open; elsewhere tokens -1, weight 0 and the prediction without a thought.

        Where it is open nowhere no thought is generated; where it is for some of the anchors all of them are, in one
        program, and the others' are dropped. Slices of few anchors are where time is saved: a token at a time, in
        generation.
        """
        opens = self.opens(model, context)
        # As bits: under vmap a cond selects among its inputs, and JAX's check for reuse of keys takes that for a use.
        bits, impl = jax.random.key_data(key), jax.random.key_impl(key)

        def thinking() -> tuple[Inner, Prediction]:
            own = jax.random.wrap_key_data(bits, impl=impl)
            return self.thinking.think(model, context, own, greedy, num_thoughts)

        def silent() -> tuple[Inner, Prediction]:
            nothing = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(thinking))
            hidden = base_hidden(context.text, context.anchors, 1)[:, :, 0]
            return nothing[0], nothing[1].replace(base=jax.nn.log_softmax(model.lm.logits(hidden)))

        inner, prediction = jax.lax.cond(opens.any(), thinking, silent)
        kept = opens[:, None]
        tokens = None if inner.tokens is None else jnp.where(kept[..., None], inner.tokens, -1)
        mixed = jnp.where(kept[..., None], prediction.mixed, prediction.base[:, None])
        return inner.replace(tokens=tokens), Prediction(prediction.base, mixed, jnp.where(kept, prediction.weight, 0))


@typed
def gate(model: Thinker, context: Context) -> Float[Array, "B A"]:
    """The gate's log-odds that a thought pays. No gradient reaches the model through the hidden states."""
    return model.gate(jax.lax.stop_gradient(base_hidden(context.text, context.anchors, 1)[:, :, 0]))


@typed
def cross_entropy(logit: Float[Array, "*shape"], label: Bool[Array, "*shape"]) -> Float[Array, "*shape"]:
    """- log of the probability that log-odds give to a label."""
    return -jax.nn.log_sigmoid(jnp.where(label, logit, -logit))
