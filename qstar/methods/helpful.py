"""Several thoughts where one is used: Quiet-STaR with a head that learns which of them help, and a choice by it.

    head    h(b, t) = sigmoid(perceptron(b, t)) on the hidden states without a thought and after it
    target  1[gain > threshold], gain = log p_talk - log p_init of the true tokens: what Quiet-STaR computes as reward
    loss    Quiet-STaR's + cross-entropy of h against the target; b and t are constants of it
    use     `candidates` thoughts are sampled where one is used, and `choose` makes one prediction of theirs

`helpful` takes the thought with the highest h, `confident` the one after which the prediction has the least entropy,
`likely` the one with the highest log-prob of its own tokens: two choices that need no head. `blend` takes none: the
mean of the predicted probabilities, and `weighted` the same with weights proportional to h. All look at what the model
knows before the next token is seen. Likeliest thoughts (`greedy`) are one, and there is nothing to choose.
"""

import dataclasses
from dataclasses import dataclass
from typing import Annotated, ClassVar

import jax
import jax.numpy as jnp

from qstar.methods.adaptive import LearnsGain
from qstar.methods.protocol import Vocabulary
from qstar.models.lm import LMConfig
from qstar.models.thinker import Thinker, ThinkerConfig
from qstar.settings import Count, OneOf
from qstar.structs import Context, Mean, Metrics, Talk
from qstar.thoughts.fill import Inner
from qstar.thoughts.predict import Prediction
from qstar.thoughts.thinking import Thinking
from qstar.typing import Array, Bool, Float, Key, typed

BLENDS = ("weighted", "blend")
CHOICES = ("helpful", "confident", "likely", *BLENDS)


@dataclass(frozen=True)
class Helpful(LearnsGain):
    """Quiet-STaR's hyper-parameters, those of the head and of the choice."""

    headline: ClassVar[tuple[str, ...]] = ("nll", "nll_mixed", "reward", "helpful_brier")

    candidates: Count = 8  # sampled thoughts of which one prediction is made, outside of training
    choose: Annotated[str, OneOf(CHOICES)] = "helpful"  # how, see methods/helpful.py

    def __post_init__(self):
        super().__post_init__()
        if self.fill != "sampled":
            raise ValueError(
                f"method.fill = {self.fill!r}: there is nothing to choose among; expected method.fill=sampled, or a "
                "method that does not choose, such as quiet_star"
            )

    @property
    def thinking(self) -> Thinking:
        return dataclasses.replace(super().thinking, candidates=self.candidates, helpfulness=True)

    def thinker(self, lm: LMConfig, vocabulary: Vocabulary | None = None) -> ThinkerConfig:
        return dataclasses.replace(super().thinker(lm, vocabulary), helpfulness=True)

    def log_odds(self, model: Thinker, context: Context, talk: Talk) -> Float[Array, "B _ A"]:
        return talk.helpful

    def head_metrics(
        self, chance: Float[Array, "B R A"], helps: Bool[Array, "B R A"], counts: Bool[Array, "B R A"]
    ) -> Metrics:
        error = (chance - helps.astype(chance.dtype)) ** 2
        return {"helpful": Mean.of(chance, counts), "helpful_brier": Mean.of(error, counts)}

    def think(
        self, model: Thinker, context: Context, key: Key, greedy: bool, num_thoughts: int = 1
    ) -> tuple[Inner, Prediction]:
        """What is made of `candidates` sampled thoughts, `num_thoughts` times; the likeliest thought if `greedy`.

        Of a blend, tokens and weight are those of the thought that has the largest part in it.
        """
        if greedy or self.candidates == 1:
            return super().think(model, context, key, greedy, num_thoughts)
        sampled = super().think(model, context, key, False, num_thoughts * self.candidates)
        base = sampled[1].base
        inner, after = jax.tree.map(
            lambda leaf: leaf.reshape(leaf.shape[0], num_thoughts, self.candidates, *leaf.shape[2:]),
            (sampled[0], sampled[1].replace(base=None)),
        )
        scores = preference(self.choose, inner, after)
        best = scores.argmax(2, keepdims=True)

        def taken(leaf: Array) -> Array:
            index = best.reshape(*best.shape, *(1,) * (leaf.ndim - best.ndim))
            return jnp.take_along_axis(leaf, index, 2)[:, :, 0]

        inner, chosen = jax.tree.map(taken, (inner, after))
        if self.choose in BLENDS:
            parts = jax.nn.log_softmax(scores, 2)[..., None]
            chosen = chosen.replace(mixed=jax.nn.logsumexp(after.mixed + parts, 2))
        return inner, chosen.replace(base=base)


@typed
def preference(choose: str, inner: Inner, after: Prediction) -> Float[Array, "B R E A"]:
    """A score of each of E candidates, the higher the better; of a blend, the log of its part, up to a constant.

    Leaves of both arguments have the axis E after R; `after.base` is not looked at.
    """
    if choose == "helpful":
        return after.helpful
    if choose == "confident":
        return (jnp.exp(after.mixed) * after.mixed).sum(-1)
    if choose == "likely":
        return inner.logprobs.sum(-1)
    return jax.nn.log_sigmoid(after.helpful) if choose == "weighted" else jnp.zeros_like(after.helpful)
