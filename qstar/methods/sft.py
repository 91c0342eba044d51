"""Supervised fine-tuning on weighted completions: the training step of STaR and its family.

    loss = - sum_t w_t log p(x_t | x_<t) / number of target tokens

With weights 1 it is maximum likelihood of the completions. Weights that were made from graded samples make it the
policy gradient of their grades (`training/weighting.py`): then they may be negative, and the loss is no likelihood.
"""

from dataclasses import dataclass
from typing import ClassVar

from qstar.methods.lm import PlainLM
from qstar.models.lm import LM
from qstar.structs import Examples, Loss, Mean, Metrics, Term
from qstar.thoughts.anchors import next_counts
from qstar.typing import Key


@dataclass(frozen=True)
class SFT(PlainLM):
    """Weighted negative log-likelihood, a mean over the tokens that count."""

    headline: ClassVar[tuple[str, ...]] = ("nll",)

    def loss_terms(self, model: LM, batch: Examples, key: Key) -> tuple[Loss, Metrics]:
        text = model.text(batch)
        logprobs = model.next_logprobs(text, batch.tokens)
        counts = next_counts(batch)
        weighted = Term.of(-batch.weight[:, 1:] * logprobs, counts, entries="tokens")
        return Loss((weighted,)), {"nll": Mean.of(-logprobs, counts)}
