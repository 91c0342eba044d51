"""Thoughts that stand between a text and its continuation: what RLP and LaTRO share.

A thought is T tokens between the learned start and end embeddings of Quiet-STaR, and what follows is predicted straight
after it: no mixing head, no blend with the prediction without a thought. The papers write a chain of thought between
tags that the model chooses to close; here its length is fixed, which makes every position of a batch one shape.
"""

import dataclasses
from dataclasses import dataclass
from typing import Annotated, ClassVar

import jax

from qstar import settings
from qstar.methods.protocol import Bound, LossOfTerms, Vocabulary
from qstar.methods.quiet_star import QuietStar
from qstar.models.cost import Pass
from qstar.models.definition import Definition
from qstar.models.lm import LMConfig
from qstar.models.thinker import Thinker
from qstar.settings import Count, Positive, Range, Whole
from qstar.structs import Batch, Loss, Metrics, Text
from qstar.thoughts import anchors as where
from qstar.thoughts.fill import Inner
from qstar.thoughts.predict import Prediction
from qstar.typing import Array, Float, Int, Key, Params


@dataclass(frozen=True)
class Straight(LossOfTerms):
    """The thoughts, and which positions think."""

    headline: ClassVar[tuple[str, ...]] = ("nll", "nll_mixed", "reward")

    thought_len: Count = 12  # T: sampled tokens, delimiters not counted
    num_thoughts: Annotated[int, Range(2)] = 2  # R: thoughts at each position, judged against one another
    lookahead: Count = 1  # N: true tokens that judge a thought
    temperature: Positive = 1.0  # of sampling, and of the policy's log-probs
    positions: Whole = 1  # of each row, drawn anew each step among those that have a token to predict; 0: all
    delimiter: str = "---"  # token whose embedding start and end begin as
    forbidden: tuple[str, ...] = ()  # tokens never sampled in a thought
    delimiter_id: Annotated[int, Range(-1)] = -1  # of `delimiter`: found by `resolve`
    forbidden_ids: tuple[Whole, ...] = ()  # of `forbidden`: found by `resolve`

    def __post_init__(self):
        for name in ("forbidden", "forbidden_ids"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        settings.check(self, "method")
        self.thinking()  # checks the rest

    def thinking(self) -> QuietStar:
        """Quiet-STaR with these thoughts, of which the sampling, the scoring and the predictions are used."""
        return QuietStar(
            thought_len=self.thought_len,
            num_thoughts=self.num_thoughts,
            lookahead=self.lookahead,
            mix="hidden",
            mixing="none",
            temperature=self.temperature,
            reinforce_temperature=self.temperature,
            delimiter=self.delimiter,
            forbidden=self.forbidden,
            delimiter_id=self.delimiter_id,
            forbidden_ids=self.forbidden_ids,
        )

    def resolve(self, vocabulary: Vocabulary) -> "Straight":
        found = self.thinking().resolve(vocabulary)
        return dataclasses.replace(self, delimiter_id=found.delimiter_id, forbidden_ids=found.forbidden_ids)

    def definition(self, lm: LMConfig) -> Definition:
        return self.thinking().definition(lm)

    def start_from(self, lm_cfg: LMConfig, lm: Params, key: Key) -> Params:
        return self.thinking().start_from(lm_cfg, lm, key)

    def drawn(self, model: Thinker, batch: Batch, key: Key) -> tuple[Thinker, Text, Batch, Array, Inner]:
        """The thoughts of a step, with what they are judged by: the arguments of `judge`."""
        where_key, fill_key = jax.random.split(key)
        anchors, text = where.draw(batch, self.positions, where_key), model.lm.text(batch)
        inner = self.thinking().inner(model, text, batch, anchors, fill_key, self.num_thoughts, self.temperature)
        return model, text, batch, anchors, inner

    def loss_terms(self, model: Thinker, batch: Batch, key: Key, reference: Bound) -> tuple[Loss, Metrics]:
        return self.judged(*self.drawn(model, batch, key), reference)

    def judge(
        self, model: Thinker, text: Text, batch: Batch, anchors: Array, inner: Inner, reference: Bound
    ) -> tuple[Float[Array, ""], Metrics]:
        """Loss and metrics of given thoughts."""
        found, metrics = self.judged(model, text, batch, anchors, inner, reference)
        return found.value, metrics | found.logged

    def passes(self, length: int) -> tuple[Pass, ...]:
        """What a step computes on a window of `length` tokens, its reference left out."""
        return self.thinking().passes_at(self.thinking_positions(length), length)

    def thinking_positions(self, length: int) -> int:
        return min(self.positions or length, length)

    def predict(
        self, model: Thinker, batch: Batch, anchors: Int[Array, "B A"], key: Key, think: bool, greedy: bool
    ) -> Float[Array, "B A V"]:
        return self.thinking().predict(model, batch, anchors, key, think, greedy)

    def think(
        self,
        model: Thinker,
        text: Text,
        batch: Batch,
        anchors: Array,
        key: Key,
        greedy: bool,
        num_thoughts: int = 1,
    ) -> tuple[Inner, Prediction]:
        return self.thinking().think(model, text, batch, anchors, key, greedy, num_thoughts)
