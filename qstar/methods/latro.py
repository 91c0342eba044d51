"""LaTRO: rationales as a latent variable, rewarded by the likelihood of what they lead to.

Maximises E_{z ~ pi(.|x)} [log p(y | x, z)] - beta KL(pi(z|x) || pi_0(z|x)), pi_0 the model before training. With R
rationales z_k of each x and r_k = log p(y | x, z_k) - beta log(pi(z_k|x) / pi_0(z_k|x)), the gradient is

    mean over k of  grad log pi(z_k|x) (r_k - mean over j != k of r_j)  +  grad log p(y | x, z_k)

"Language Models are Hidden Reasoners", Chen et al. 2024 (arXiv 2411.04282). Here x is the text up to a position and y
the next N tokens, so that text without questions will do. On one position it is Quiet-STaR without mixing head, clamp
and base loss, its baseline leave-one-out.

Differs from the paper: a rationale has a fixed length (`methods/straight.py`), so none is penalised for being cut off.
"""

import dataclasses
from dataclasses import dataclass
from typing import Annotated

import jax
import jax.numpy as jnp

from qstar.methods.protocol import Models, Reference
from qstar.methods.straight import Straight
from qstar.models.cost import Pass
from qstar.models.thinker import Thinker
from qstar.ops import masked
from qstar.settings import Count, NonNegative, Range
from qstar.structs import Context, Loss, Mean, Metrics, Term
from qstar.thoughts import anchors as where
from qstar.thoughts.fill import Inner
from qstar.typing import Array, Float, typed


@dataclass(frozen=True)
class LaTRO(Straight):
    """Hyper-parameters of LaTRO. Defaults: the paper's for GSM8K, but for rationales of 500 tokens."""

    num_thoughts: Annotated[int, Range(2)] = 16  # K: rationales at each position, compared with one another
    lookahead: Count = 4  # N: true tokens that judge a rationale
    beta: NonNegative = 0.05  # weight of the divergence from the model before training

    @property
    def reference(self) -> Reference:
        return Reference()

    def judged(self, models: Models, context: Context, inner: Inner) -> tuple[Loss, Metrics]:
        talk = self.thinking.talk(models.policy, context, inner)
        before = self.rationale_logprobs(models.reference, context, inner)
        targets = jnp.broadcast_to(talk.counts[:, None], talk.mixed.shape)
        answer, rationale = masked.total(talk.mixed, targets), talk.thought.sum(-1)
        ratio = jax.lax.stop_gradient(rationale - before.sum(-1))
        reward = jax.lax.stop_gradient(answer) - self.beta * ratio
        judged = jnp.broadcast_to(talk.counts.any(-1)[:, None], reward.shape)
        loss = Loss((Term.of(-(rationale * leave_one_out(reward) + answer), judged),))
        gain = jax.lax.stop_gradient(answer) - masked.total(talk.base, talk.counts)[:, None]
        return loss, {
            "nll": Mean.of(-talk.text, where.next_counts(context.batch)),
            "nll_mixed": Mean.of(-talk.mixed, targets),
            "reward": Mean.of(gain, judged),
            "helped": Mean.of((gain > 0).astype(gain.dtype), judged),
            "kl": Mean.of(ratio, judged),
            "thought_nll": Mean.of(-talk.thought.mean(-1), judged),
        }

    def rationale_logprobs(self, thinker: Thinker, context: Context, inner: Inner) -> Array:
        """Log-probs [B R A T] that another model gives to rationales."""
        alone = dataclasses.replace(self.thinking, lookahead=1)
        same = Inner(thinker.lm.embed(inner.tokens), inner.tokens)
        return alone.talk(thinker, context.replace(text=thinker.lm.text(context.batch)), same).thought

    def passes(self, length: int) -> tuple[Pass, ...]:
        thoughts, own = self.thinking_positions(length) * self.num_thoughts, self.thought_len + 2
        read = Pass(length, length, 0, gradient=False)
        scored = thoughts * self.thought_len
        before = Pass(thoughts * own, length + own, scored, gradient=False, phase="columns", thoughts=thoughts)
        return (*super().passes(length), read, before)


@typed
def leave_one_out(reward: Float[Array, "B R A"]) -> Float[Array, "B R A"]:
    """A_k = r_k - mean over j != k of r_j, over the R rationales of a position."""
    others = (reward.sum(axis=1, keepdims=True) - reward) / (reward.shape[1] - 1)
    return reward - others
