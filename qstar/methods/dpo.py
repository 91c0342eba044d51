"""Direct preference optimisation: the better of two completions of a prompt becomes likelier, relative to a reference.

    r(y) = log pi(y|x) - log pi_ref(y|x)        the implicit reward, up to beta, of a whole completion
    loss = mean over pairs of f(beta (r(chosen) - r(rejected))) + nll_weight x NLL of chosen a token

Rafailov et al. 2023, equation 7, with f = -log sigmoid; the hinge of RSO (Liu et al. 2023) and the squared distance of
IPO (Azar et al. 2024, equation 17) beside it. With `nll_weight` it is IRPO's loss (Pang et al. 2024, equation 1). The
reference is the model that training starts from. r is also a score; V-STaR's verifier (Hosseini et al. 2024) scores by
log pi(y|x) alone.

Differs from the papers: IPO's r is here a mean over tokens, as in trl; SLiC (Zhao et al. 2023), where RSO's hinge comes
from, has no reference. IRPO is a loop, whose reference is the model of the round before: `recipes/irpo.py`.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import jax
import jax.numpy as jnp

from qstar import settings
from qstar.methods.plain_lm import PlainLM
from qstar.methods.protocol import Models, Reference
from qstar.models.cost import Pass
from qstar.models.lm import LM
from qstar.ops import masked
from qstar.settings import NonNegative, OneOf, Positive, Range
from qstar.structs import Batch, Loss, Mean, Metrics, Pairs, Term
from qstar.thoughts.anchors import next_counts
from qstar.typing import Array, Float, Key, typed

LOSSES = ("sigmoid", "hinge", "ipo")


@dataclass(frozen=True)
class DPO(PlainLM):
    """Hyper-parameters; the defaults are the paper's."""

    headline: ClassVar[tuple[str, ...]] = ("loss", "accuracy", "margin")

    beta: Positive = 0.1  # strength of the pull towards the reference
    loss_type: Annotated[str, OneOf(LOSSES)] = "sigmoid"  # sigmoid, hinge, or ipo (on log-probs per token)
    label_smoothing: Annotated[float, Range(0, 0.5)] = 0.0  # probability that a pair is swapped (sigmoid)
    nll_weight: NonNegative = 0.0  # weight of the chosen completion's NLL per token; IRPO: 1

    def __post_init__(self):
        settings.check(self, "method")
        if self.label_smoothing and self.loss_type != "sigmoid":
            raise ValueError(
                f"method.label_smoothing = {self.label_smoothing} with method.loss_type = {self.loss_type!r}: expected "
                "method.loss_type=sigmoid, the only one that has it"
            )

    @property
    def reference(self) -> Reference:
        return Reference()

    def loss_terms(self, models: Models, batch: Pairs, key: Key) -> tuple[Loss, Metrics]:
        chosen, rejected = (self.log_ratio(models, side) for side in (batch.chosen, batch.rejected))
        counts = _lengths(batch.chosen) > 0
        margin = chosen - rejected
        terms = [Term.of(self.error(margin), counts, name="preference")]
        if self.nll_weight:
            logprobs = sequence_logprobs(models.policy, batch.chosen) / jnp.maximum(_lengths(batch.chosen), 1)
            terms.append(Term.of(-logprobs, counts, self.nll_weight, "nll"))
        return Loss(tuple(terms)), {
            "accuracy": Mean.of((margin > 0).astype(margin.dtype), counts),
            "margin": Mean.of(self.beta * margin, counts),
            "reward_chosen": Mean.of(self.beta * chosen, counts),
            "reward_rejected": Mean.of(self.beta * rejected, counts),
        }

    def log_ratio(self, models: Models, side: Batch) -> Float[Array, "B"]:
        """r of each completion; for IPO its mean over the tokens."""
        ratio = sequence_logprobs(models.policy, side) - jax.lax.stop_gradient(
            sequence_logprobs(models.reference, side)
        )
        return ratio / jnp.maximum(_lengths(side), 1) if self.loss_type == "ipo" else ratio

    @typed
    def error(self, margin: Float[Array, "B"]) -> Float[Array, "B"]:
        """f of r(chosen) - r(rejected)."""
        if self.loss_type == "ipo":
            return (margin - 1 / (2 * self.beta)) ** 2
        if self.loss_type == "hinge":
            return jax.nn.relu(1 - self.beta * margin)
        right, swapped = jax.nn.log_sigmoid(self.beta * margin), jax.nn.log_sigmoid(-self.beta * margin)
        return -(1 - self.label_smoothing) * right - self.label_smoothing * swapped

    def passes(self, length: int) -> tuple[Pass, ...]:
        """Of a pair: both completions, read by the model and by the reference."""
        read = Pass(length, length, length - 1)
        before = Pass(length, length, length - 1, gradient=False)
        return (read, read, before, before)


@typed
def sequence_logprobs(model: LM, batch: Batch) -> Float[Array, "B"]:
    """Log-prob of the tokens that count in each row, nats."""
    return masked.total(model.next_logprobs(model.text(batch), batch.tokens), next_counts(batch))


def _lengths(batch: Batch) -> Array:
    return next_counts(batch).sum(-1)
