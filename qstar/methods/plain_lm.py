"""Plain language-model training: the control that every gain is compared with."""

from dataclasses import dataclass
from typing import ClassVar

import jax

from qstar.methods.protocol import LossOfTerms, Models, Vocabulary
from qstar.models import lm as lm_model
from qstar.models.cost import Pass
from qstar.models.definition import Definition
from qstar.models.lm import LM, LMConfig
from qstar.structs import Batch, Loss, Metrics, Term
from qstar.thoughts.anchors import next_counts
from qstar.thoughts.talk import base_hidden
from qstar.typing import Array, Float, Int, Key, Params


@dataclass(frozen=True)
class PlainLM(LossOfTerms):
    """Next-token negative log-likelihood, the mean over the tokens that count."""

    headline: ClassVar[tuple[str, ...]] = ("loss",)

    def definition(self, lm: LMConfig, vocabulary: Vocabulary | None = None) -> Definition:
        return lm_model.definition(lm)

    def start_from(self, definition: Definition, lm: Params, key: Key) -> Params:
        definition.check(lm, "the language model's weights")
        return lm

    def loss_terms(self, models: Models, batch: Batch, key: Key) -> tuple[Loss, Metrics]:
        model = models.policy
        text = model.text(batch)
        logprobs = model.next_logprobs(text, batch.tokens)
        return Loss((Term.of(-logprobs, next_counts(batch)),)), {}

    def passes(self, length: int) -> tuple[Pass, ...]:
        return (Pass(length, length, length - 1),)

    def predict(self, model: LM, batch: Batch, anchors: Int[Array, "B A"]) -> Float[Array, "B A V"]:
        return jax.nn.log_softmax(model.logits(base_hidden(model.text(batch), anchors, 1)[:, :, 0]))
