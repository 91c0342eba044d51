"""What a training method is: a frozen dataclass whose fields are its hyper-parameters, with five functions."""

from typing import Any, Protocol

from qstar.models.definition import Definition
from qstar.models.lm import LMConfig
from qstar.structs import Batch, Metrics
from qstar.typing import Array, Float, Int, Key, Params


class Vocabulary(Protocol):
    """What a method asks of a tokenizer."""

    def id_of(self, text: str) -> int | None: ...


class Method(Protocol):
    def resolve(self, vocabulary: Vocabulary) -> "Method":
        """This method with the token ids behind its strings. Raises ValueError for text that is no single token."""

    def definition(self, lm: LMConfig) -> Definition:
        """The model that the method trains."""

    def start_from(self, lm_cfg: LMConfig, lm: Params, key: Key) -> Params:
        """Its weights around those of a pretrained language model."""

    def loss(self, model: Any, batch: Batch, key: Key) -> tuple[Float[Array, ""], Metrics]:
        """Loss of one micro-batch and what to log. `model` is the bound definition."""

    def predict(
        self, model: Any, batch: Batch, anchors: Int[Array, "B A"], key: Key, think: bool, greedy: bool
    ) -> Float[Array, "B A V"]:
        """Log-probs of the token after each anchor, with or without thinking where the method thinks."""


def single_token(vocabulary: Vocabulary, text: str, field: str) -> int:
    found = vocabulary.id_of(text)
    if found is None:
        raise ValueError(f"method.{field} = {text!r} is not one token of this model's tokenizer; choose text that is")
    return found
