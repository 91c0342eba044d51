"""RLP: a thought before one next token is rewarded by what it tells about that token.

The reward of a thought c_i is an information gain, log p(x | context, c_i) - log p_ref(x | context), against the same
model without a thought, some steps ago: the reference is a moving average of the weights. Only the policy learns: the
loss is a clipped surrogate over the thought's tokens, no gradient flows through the reward, and there is no NLL.
"Reinforcement as a Pretraining Objective", Hatamizadeh et al. 2025 (arXiv 2510.01265).

Differs from the paper: a thought has a fixed length and learned start and end (`methods/straight.py`). The start
learns, for the policy begins there; the end is read by the reward alone, so no gradient reaches it.
"""

from dataclasses import dataclass
from typing import Annotated

import jax
import jax.numpy as jnp

from qstar.methods.protocol import Models, Reference
from qstar.methods.straight import Straight
from qstar.models.cost import Pass
from qstar.models.thinker import Thinker
from qstar.ops import vocabulary
from qstar.settings import NonNegative, Positive, Range, Share, Whole
from qstar.structs import Batch, Context, Loss, Mean, Metrics, Term
from qstar.thoughts import anchors as where
from qstar.thoughts.fill import Inner
from qstar.thoughts.talk import base_hidden
from qstar.typing import Array, Float, Int, typed


@dataclass(frozen=True)
class RLP(Straight):
    """Hyper-parameters of RLP. Defaults: the paper's, but for the thought, whose 2048 tokens few windows hold."""

    num_thoughts: Annotated[int, Range(2)] = 16  # G: thoughts at each position, compared with one another
    temperature: Positive = 0.7  # of sampling, and of the policy's log-probs
    positions: Whole = 1  # the paper thinks at one random position of every document
    # The paper's values of these two are not in its text, they are PPO's.
    clip_low: Share = 0.2  # ratios below 1 - clip_low get no gradient
    clip_high: NonNegative = 0.2  # ratios above 1 + clip_high get no gradient
    reference_decay: Share = 0.999  # of the moving average that rewards are measured against

    def __post_init__(self):
        super().__post_init__()
        if self.lookahead != 1:
            raise ValueError(f"method.lookahead = {self.lookahead}: RLP judges a thought by one token, lookahead=1")

    @property
    def reference(self) -> Reference:
        return Reference(decay=self.reference_decay)

    def judged(self, models: Models, context: Context, inner: Inner) -> tuple[Loss, Metrics]:
        talk = self.thinking.talk(models.policy, context, inner)
        baseline = no_thought(models.reference, context.batch, context.anchors)
        reward = talk.mixed[..., 0] - baseline[:, None]
        per_token = surrogate(talk.thought, inner.logprobs, advantages(reward), self.clip_low, self.clip_high)
        judged = jnp.broadcast_to(talk.counts.any(-1)[:, None], reward.shape)
        loss = Loss((Term.of(-per_token.mean(-1), judged),))
        return loss, {
            "nll": Mean.of(-talk.text, where.next_counts(context.batch)),
            "nll_mixed": Mean.of(-talk.mixed[..., 0], judged),
            "reward": Mean.of(reward, judged),
            "helped": Mean.of((reward > 0).astype(reward.dtype), judged),
            "thought_nll": Mean.of(-talk.thought.mean(-1), judged),
        }

    def passes(self, length: int) -> tuple[Pass, ...]:
        before = Pass(length, length, self.thinking_positions(length), gradient=False)
        return (*super().passes(length), before)


@typed
def no_thought(thinker: Thinker, batch: Batch, anchors: Int[Array, "B A"]) -> Float[Array, "B A"]:
    """Log-prob of the token after each anchor, without a thought."""
    lm = thinker.lm
    hidden = base_hidden(lm.text(batch), anchors, 1)[:, :, 0]
    tokens = where.gather(batch.tokens, where.target_index(batch, anchors, 1))[:, :, 0]
    return vocabulary.logprobs(lm.logits, hidden, tokens, 1, lm.cfg.vocab)


@typed
def advantages(reward: Float[Array, "B R A"]) -> Float[Array, "B R A"]:
    """A_i = G / (G - 1) (r_i - mean r), over the G = R thoughts of a position: unbiased, and not clamped."""
    count = reward.shape[1]
    return count / (count - 1) * (reward - reward.mean(axis=1, keepdims=True))


@typed
def surrogate(
    logprobs: Float[Array, "B R A T"],
    sampled: Float[Array, "B R A T"],
    advantage: Float[Array, "B R A"],
    clip_low: float,
    clip_high: float,
) -> Float[Array, "B R A T"]:
    """min(rho A, clip(rho, 1 - clip_low, 1 + clip_high) A) of every token, rho its probability over that when sampled.

    With one step a batch the thoughts are the policy's own and rho is 1, up to what sampling and scoring round
    differently (in bfloat16 by several per cent): the gradient is A grad log p, and the clip bounds what rounding does.
    """
    ratio = jnp.exp(logprobs - jax.lax.stop_gradient(sampled))
    advantage = jax.lax.stop_gradient(advantage)[..., None]
    return jnp.minimum(ratio * advantage, jnp.clip(ratio, 1 - clip_low, 1 + clip_high) * advantage)
