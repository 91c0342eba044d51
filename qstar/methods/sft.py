"""Supervised fine-tuning on weighted completions: the training step of STaR and its family.

    loss = - sum_t w_t log p(x_t | x_<t) / number of target tokens

With weights 1 it is maximum likelihood of the completions. Weights that were made from graded samples make it the
policy gradient of their grades (`training/weighting.py`): then they may be negative, and the loss is no likelihood.
"""

from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp

from qstar.methods.lm import PlainLM
from qstar.models.lm import LM
from qstar.ops import masked
from qstar.structs import Examples, Mean, Metrics
from qstar.thoughts.anchors import next_counts
from qstar.typing import Array, Float, Key


@dataclass(frozen=True)
class SFT(PlainLM):
    """Weighted negative log-likelihood, a mean over the tokens that count."""

    headline: ClassVar[tuple[str, ...]] = ("nll",)

    def loss(self, model: LM, batch: Examples, key: Key) -> tuple[Float[Array, ""], Metrics]:
        text = model.text(batch)
        logprobs = model.next_logprobs(text, batch.tokens)
        counts = next_counts(batch)
        weighted = -batch.weight[:, 1:] * logprobs
        metrics = {
            "loss": Mean.of(weighted, counts),
            "nll": Mean.of(-logprobs, counts),
            "tokens": Mean(jnp.sum(counts).astype(logprobs.dtype), jnp.ones((), logprobs.dtype)),
        }
        return masked.mean(weighted, counts), metrics
