"""Supervised fine-tuning on weighted completions: the training step of STaR and its family.

    loss = - sum_t w_t log p(x_t | x_<t) / number of target tokens, or of groups of examples

With weights 1 it is maximum likelihood of the completions. Weights that were made from graded samples make it the
policy gradient of their grades (`recipes/weighting.py`): then they may be negative, and the loss is no likelihood.
Over groups, the samples of one question each, it is a mean over questions of sums over tokens: an estimate of the
gradient of their log-likelihoods that no length of a sample weighs.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import jax.numpy as jnp

from qstar import settings
from qstar.methods.plain_lm import PlainLM
from qstar.methods.protocol import Models
from qstar.settings import OneOf
from qstar.structs import Examples, Loss, Mean, Metrics, Term
from qstar.thoughts.anchors import next_counts
from qstar.typing import Key

MEANS = ("tokens", "questions")


@dataclass(frozen=True)
class SFT(PlainLM):
    """Weighted negative log-likelihood of the tokens that count."""

    headline: ClassVar[tuple[str, ...]] = ("nll",)

    mean_over: Annotated[str, OneOf(MEANS)] = "tokens"  # target tokens, or questions: groups of examples

    def __post_init__(self):
        settings.check(self, "method")

    def loss_terms(self, models: Models, batch: Examples, key: Key) -> tuple[Loss, Metrics]:
        model = models.policy
        text = model.text(batch)
        logprobs = model.next_logprobs(text, batch.tokens)
        counts = next_counts(batch)
        term = Term.of(-batch.weight[:, 1:] * logprobs, counts)
        tokens = {"tokens": term.count}
        if self.mean_over == "questions":
            if batch.begins is None:
                raise ValueError("method.mean_over=questions: the examples name no `group` that they belong to")
            term = term.replace(count=jnp.sum(batch.begins))
        return Loss((term,), tokens), {"nll": Mean.of(-logprobs, counts)}
