"""What a training method is: a frozen dataclass whose fields are its hyper-parameters, with three functions.

What only some methods have is a small protocol each: `thoughts.thinking.Thinks`, `Predicts`, `Compares`, `Counts`,
`AsksAnother`, `Fractional`. Those of this package define `loss_terms` and have `loss` from `LossOfTerms`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, get_type_hints, runtime_checkable

from qstar import settings
from qstar.models.cost import Pass
from qstar.models.definition import Definition
from qstar.models.lm import LMConfig
from qstar.models.thinker import Tokens
from qstar.settings import Share
from qstar.structs import Batch, Credited, Judged, Loss, Metrics, Rollouts
from qstar.typing import Array, Float, Int, Key, Params

TOKEN_IDS = ("delimiter_id", "dot_id", "forbidden_ids")
"""Fields of methods in files of earlier versions, from when methods held the ids of their tokens."""


class Vocabulary(Protocol):
    """What a method needs from a tokenizer."""

    def id_of(self, text: str) -> int | None: ...


@dataclass(frozen=True)
class Models:
    """The bound models that a loss sees."""

    policy: Any  # the one that trains
    reference: Any = None  # the one it is compared with, where the method asks (`Compares`); no gradient reaches it
    reference_method: "Method | None" = None  # that trained the reference: this one, or that of the run it is from


class Method(Protocol):
    headline: ClassVar[tuple[str, ...]]  # metrics to steer by, which the progress of training shows

    def definition(self, lm: LMConfig, vocabulary: Vocabulary | None = None) -> Definition:
        """The model that the method trains, which knows the ids of the tokens that the method names.

        `vocabulary` may be left out where it names none. Raises ValueError for text that is no single token.
        """

    def start_from(self, definition: Definition, lm: Params, key: Key) -> Params:
        """Weights of that model around those of a pretrained language model."""

    def loss(self, models: Models, batch: Batch, key: Key) -> tuple[Float[Array, ""], Metrics]:
        """Loss of a batch and what to log."""


def trains_on(method: type[Method]) -> type:
    """The struct of a batch that a method's loss takes, as its signature says; text where it says nothing."""
    loss = method.loss_terms if issubclass(method, LossOfTerms) else method.loss
    return get_type_hints(loss).get("batch", Batch)


@runtime_checkable
class Predicts(Protocol):
    """A method that does not think, as far as evaluations ask."""

    def predict(self, model: Any, batch: Batch, anchors: Int[Array, "B A"]) -> Float[Array, "B A V"]:
        """Log-probs of the token after each anchor."""


@runtime_checkable
class Counts(Protocol):
    """A method that counts what its step computes, for comparisons at equal FLOPs and for the memory of a step."""

    def passes(self, length: int) -> Sequence[Pass]:
        """On one window of `length` tokens."""


@runtime_checkable
class Fractional(Protocol):
    """A method with a setting for the share of the positions that think: a lower one takes less memory."""

    think_fraction: float


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

    def loss_terms(self, models: Models, batch: Batch, key: Key) -> tuple[Loss, Metrics]:
        """The loss as sums and counts, and what to log besides its value; the arguments are those of `loss`.

        Counts may depend on the batch, on the key and on what the model computes, but no gradient flows through them.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define loss_terms")

    def loss(self, models: Models, batch: Batch, key: Key) -> tuple[Float[Array, ""], Metrics]:
        terms, metrics = self.loss_terms(models, batch, key)
        return terms.value, metrics | terms.logged


def check_micro_batches(method: Method, count: int) -> None:
    """Raises ValueError for micro-batches of a method whose loss is not that of its terms."""
    if count > 1 and type(method).loss is not LossOfTerms.loss:
        raise ValueError(
            f"micro_batches = {count}: the loss of {type(method).__name__} is one number, which does not say how many "
            "entries it is a mean of; define loss_terms instead (qstar/methods/protocol.py), or use micro_batches=1"
        )


@runtime_checkable
class Compares(Protocol):
    """A method whose loss compares: it needs reference weights, and finds them in its `Models`."""

    @property
    def reference(self) -> Reference | None:
        """None where these settings compare with nothing."""


@runtime_checkable
class Credits(Protocol):
    """A method that trains on rollouts: it says what they earned, then updates the weights on parts of them."""

    epochs: int  # passes over the rollouts of a step
    minibatches: int  # updates of an epoch
    compares_samples: bool  # whether a question needs two samples or more
    mismatch_limit: float  # nats a token between the log-probs of sampler and trainer, above which training stops

    def judged(self, models: Models, batch: Rollouts) -> Judged:
        """What the models say of rollouts before the weights are updated; row by row, so of any part of them."""

    def credited(self, batch: Rollouts, judged: Judged) -> tuple[Credited, Metrics]:
        """What every sampled token of all rollouts of a step earned."""


def updates(method: "Method") -> int:
    """Of the weights, in a step."""
    return method.epochs * method.minibatches if isinstance(method, Credits) else 1


@runtime_checkable
class AsksAnother(Protocol):
    """A method that compares with the model of another run, and counts what that computes in a step."""

    def other_passes(self, other: Method, length: int) -> Sequence[Pass]:
        """Besides the method's own; `other` is the method of that run."""


def thought_tokens(
    vocabulary: Vocabulary | None, delimiter: str | None, forbidden: Sequence[str], dot: str | None = None
) -> Tokens:
    """The ids of these texts; without a vocabulary the delimiter is left open.

    Raises ValueError for text that is no single token.
    """
    return Tokens(
        None if delimiter is None or vocabulary is None else single_token(vocabulary, delimiter, "delimiter"),
        None if dot is None else single_token(vocabulary, dot, "dot"),
        tuple(single_token(vocabulary, text, "forbidden") for text in forbidden),
    )


def single_token(vocabulary: Vocabulary | None, text: str, field: str) -> int:
    token = None if vocabulary is None else vocabulary.id_of(text)
    if token is None:
        raise ValueError(f"method.{field} = {text!r} is not one token of this model's tokenizer; choose text that is")
    return token
