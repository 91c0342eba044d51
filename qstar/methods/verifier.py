"""Reward models: a score at tokens of a solution, trained on labels of the solution or of its steps.

    loss = mean over judged tokens of the error of the score + lm_weight x mean NLL of the solution's tokens

What is judged is the data's matter (`data/labelled.py`): of a solution with one label every token, of one whose steps
are labelled the last token of each step. Labels are 0 and 1, or shares in between (Monte Carlo estimates).
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import jax
import jax.numpy as jnp
import optax

from qstar import settings
from qstar.methods.protocol import LossOfTerms, Models, Vocabulary
from qstar.models import heads
from qstar.models.cost import Pass
from qstar.models.definition import Definition
from qstar.models.heads import Scorer
from qstar.models.lm import LMConfig
from qstar.settings import NonNegative, OneOf
from qstar.structs import Batch, Labelled, Loss, Mean, Metrics, Term
from qstar.thoughts.anchors import next_counts
from qstar.thoughts.talk import base_hidden
from qstar.typing import Array, Float, Int, Key, Params, typed

ERRORS = ("cross_entropy", "mse")


@dataclass(frozen=True)
class Verifier(LossOfTerms):
    """What outcome and process reward models share."""

    headline: ClassVar[tuple[str, ...]] = ("loss", "accuracy", "score_right", "score_wrong")

    error: Annotated[str, OneOf(ERRORS)] = "cross_entropy"  # of a score as log-odds, or squared error
    lm_weight: NonNegative = 0.0  # weight of the language-model term

    def __post_init__(self):
        settings.check(self, "method")

    def definition(self, lm: LMConfig, vocabulary: Vocabulary | None = None) -> Definition:
        return heads.definition(lm)

    def start_from(self, definition: Definition, lm: Params, key: Key) -> Params:
        params = heads.from_lm(definition.abstract_model.cfg, lm)
        definition.check(params, "the language model's weights")
        return params

    def loss_terms(self, models: Models, batch: Labelled, key: Key) -> tuple[Loss, Metrics]:
        model = models.policy
        text = model.lm.text(batch)
        output = model.score(text.hidden)
        terms = [Term.of(self.errors(output, batch.label), batch.judged, name="error")]
        if self.lm_weight:
            logprobs = model.lm.next_logprobs(text, batch.tokens)
            terms.append(Term.of(-logprobs, next_counts(batch), self.lm_weight, "nll"))
        score, right = self.score(output), batch.label > 0.5
        return Loss(tuple(terms)), {
            "accuracy": Mean.of(((score > 0.5) == right).astype(score.dtype), batch.judged),
            "score_right": Mean.of(score, batch.judged & right),
            "score_wrong": Mean.of(score, batch.judged & ~right),
            "brier": Mean.of((score - batch.label) ** 2, batch.judged),
        }

    @typed
    def errors(self, output: Float[Array, "B S"], label: Float[Array, "B S"]) -> Float[Array, "B S"]:
        """Of the head's output at every token."""
        if self.error == "mse":
            return (output - label) ** 2
        return optax.sigmoid_binary_cross_entropy(output, label)

    @typed
    def score(self, output: Float[Array, "*rows"]) -> Float[Array, "*rows"]:
        """The head's output as a score: a probability, or, trained by squared differences, the output in [0, 1]."""
        return jnp.clip(output, 0, 1) if self.error == "mse" else jax.nn.sigmoid(output)

    def scores(self, model: Scorer, batch: Batch) -> Float[Array, "B S"]:
        """The score at every token, of the text up to it."""
        return self.score(model.scores(batch))

    def passes(self, length: int) -> tuple[Pass, ...]:
        return (Pass(length, length, length - 1 if self.lm_weight else 0),)

    def predict(self, model: Scorer, batch: Batch, anchors: Int[Array, "B A"]) -> Float[Array, "B A V"]:
        return jax.nn.log_softmax(model.lm.logits(base_hidden(model.lm.text(batch), anchors, 1)[:, :, 0]))


@dataclass(frozen=True)
class ORM(Verifier):
    """Outcome reward model as first published (Cobbe et al. 2021, section 4.2): squared error at every token of the
    solution, and the language-model term with the same weight. The score of a solution is that of its last token.

    Differs from the paper: the head is an affine map of the hidden state, not a gain and a bias on the logit of a
    reserved token.
    """

    error: Annotated[str, OneOf(ERRORS)] = "mse"
    lm_weight: NonNegative = 1.0


@dataclass(frozen=True)
class PRM(Verifier):
    """Process reward model (Lightman et al. 2023; Wang et al. 2024): cross-entropy at the last token of each step.

    Hard labels or shares; `data.until_first_wrong` supervises up to the first wrong step, as Lightman et al. do.
    """
