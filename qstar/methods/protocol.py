"""What a training method is: a frozen dataclass whose fields are its hyper-parameters, with six functions.

Those of this package define `loss_terms` and have `loss` from `LossOfTerms`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

from qstar import settings
from qstar.models.cost import Pass
from qstar.models.definition import Definition
from qstar.models.lm import LMConfig
from qstar.settings import Share
from qstar.structs import Batch, Loss, Metrics
from qstar.typing import Array, Float, Int, Key, Params


class Vocabulary(Protocol):
    """What a method asks of a tokenizer."""

    def id_of(self, text: str) -> int | None: ...


class Method(Protocol):
    headline: ClassVar[tuple[str, ...]]  # metrics to steer by, which the progress of training shows

    def resolve(self, vocabulary: Vocabulary) -> "Method":
        """This method with the token ids behind its strings. Raises ValueError for text that is no single token."""

    def definition(self, lm: LMConfig) -> Definition:
        """The model that the method trains."""

    def start_from(self, lm_cfg: LMConfig, lm: Params, key: Key) -> Params:
        """Its weights around those of a pretrained language model."""

    def loss(self, model: Any, batch: Batch, key: Key) -> tuple[Float[Array, ""], Metrics]:
        """Loss of a batch and what to log. `model` is the bound definition."""

    def passes(self, length: int) -> Sequence[Pass]:
        """What a step computes on one window of `length` tokens, for comparisons at equal FLOPs."""

    def predict(
        self, model: Any, batch: Batch, anchors: Int[Array, "B A"], key: Key, think: bool, greedy: bool
    ) -> Float[Array, "B A V"]:
        """Log-probs of the token after each anchor, with or without thinking where the method thinks."""


@dataclass(frozen=True)
class Reference:
    """Weights that a loss compares the trained ones with: constants of the step, which no gradient reaches.

    They begin as those of another run, or, where `run` is empty, as those that training starts from. After every step
    reference <- decay * reference + (1 - decay) * weights; a decay of 1 leaves them as they are.
    """

    decay: Share = 1.0
    run: str = ""  # a run directory

    def __post_init__(self):
        settings.check(self, "reference")
        if self.run and self.decay < 1:
            raise ValueError(
                f"a reference to the run {self.run} of decay {self.decay}: the weights of another run stay as they "
                "are, decay 1"
            )


class LossOfTerms:
    """A method that says what its loss is made of, and whose `loss` is the value of that.

    Only such a method can train in micro-batches: the terms of all of them are summed and divided by the counts of the
    whole batch, so that the gradient is that of one batch.
    """

    def loss_terms(self, model: Any, batch: Batch, key: Key, *reference: "Bound") -> tuple[Loss, Metrics]:
        """The loss as sums and counts, and what to log besides its value; the arguments are those of `loss`.

        Counts may depend on the batch, on the key and on what the model computes, but no gradient flows through them.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define loss_terms")

    def loss(self, model: Any, batch: Batch, key: Key, *reference: "Bound") -> tuple[Float[Array, ""], Metrics]:
        found, metrics = self.loss_terms(model, batch, key, *reference)
        return found.value, metrics | found.logged


def check_micro_batches(method: Method, count: int) -> None:
    """Raises ValueError for micro-batches of a method whose loss is not that of its terms."""
    if count > 1 and type(method).loss is not LossOfTerms.loss:
        raise ValueError(
            f"micro_batches = {count}: the loss of {type(method).__name__} is one number, which does not say how many "
            "entries it is a mean of; define loss_terms instead (qstar/methods/protocol.py), or use micro_batches=1"
        )


@dataclass(frozen=True)
class Bound:
    """A method and its bound model."""

    method: Method
    model: Any


@runtime_checkable
class Compares(Protocol):
    """A method whose loss compares: it asks for reference weights by having `reference`, and its loss gets them."""

    @property
    def reference(self) -> Reference: ...

    def loss(self, model: Any, batch: Batch, key: Key, reference: Bound) -> tuple[Float[Array, ""], Metrics]:
        """As `Method.loss`. `reference.method` is this method, or that of the run which the weights are from.

        A method that names a run has `other_passes(method of the run, length)` too: what its model computes in a step.
        """


def single_token(vocabulary: Vocabulary, text: str, field: str) -> int:
    found = vocabulary.id_of(text)
    if found is None:
        raise ValueError(f"method.{field} = {text!r} is not one token of this model's tokenizer; choose text that is")
    return found
