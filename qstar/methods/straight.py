"""Thoughts between a text and its continuation: what RLP and LaTRO share.

A thought is T tokens between the learned start and end embeddings of Quiet-STaR, and what follows is predicted straight
after it: no mixing head, no blend with the prediction without a thought. The papers write a chain of thought between
tags that the model chooses to close; here its length is fixed, which makes every position of a batch one shape.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import jax

from qstar import settings
from qstar.methods.protocol import LossOfTerms, Models, Vocabulary, thought_tokens
from qstar.models import thinker as thinker_model
from qstar.models.cost import Pass
from qstar.models.definition import Definition
from qstar.models.lm import LMConfig
from qstar.models.thinker import Thinker, ThinkerConfig
from qstar.settings import Count, Positive, Range, Whole
from qstar.structs import Batch, Context, Loss, Metrics
from qstar.thoughts import anchors as where
from qstar.thoughts.fill import Inner
from qstar.thoughts.predict import Prediction
from qstar.thoughts.thinking import Thinking
from qstar.typing import Key, Params


@dataclass(frozen=True)
class Straight(LossOfTerms):
    """The thoughts, and which positions think."""

    headline: ClassVar[tuple[str, ...]] = ("nll", "nll_mixed", "reward")

    thought_len: Count = 12  # T: sampled tokens, delimiters not counted
    num_thoughts: Annotated[int, Range(2)] = 2  # R: thoughts at each position, judged against one another
    lookahead: Count = 1  # N: true tokens that judge a thought
    temperature: Positive = 1.0  # of sampling, and of the policy's log-probs
    positions: Whole = 1  # positions of each row, drawn again in each step among those with a token to predict; 0: all
    delimiter: str = "---"  # token whose embedding start and end begin as
    forbidden: tuple[str, ...] = ()  # tokens never sampled in a thought

    def __post_init__(self):
        object.__setattr__(self, "forbidden", tuple(self.forbidden))
        settings.check(self, "method")

    @property
    def thinking(self) -> Thinking:
        return Thinking(
            thought_len=self.thought_len,
            num_thoughts=self.num_thoughts,
            lookahead=self.lookahead,
            mix="hidden",
            temperature=self.temperature,
            score_temperature=self.temperature,
            mixing=False,
        )

    def definition(self, lm: LMConfig, vocabulary: Vocabulary | None = None) -> Definition:
        tokens = thought_tokens(vocabulary, self.delimiter, self.forbidden)
        return thinker_model.definition(ThinkerConfig(lm, mixing="none", tokens=tokens))

    def start_from(self, definition: Definition, lm: Params, key: Key) -> Params:
        return thinker_model.from_lm(definition.abstract_model.cfg, lm, key)

    def loss_terms(self, models: Models, batch: Batch, key: Key) -> tuple[Loss, Metrics]:
        return self.judged(models, *self.drawn(models.policy, batch, key))

    def drawn(self, model: Thinker, batch: Batch, key: Key) -> tuple[Context, Inner]:
        """The thoughts of a step."""
        where_key, fill_key = jax.random.split(key)
        anchors = where.draw(batch, self.positions, where_key)
        context = Context(model.lm.text(batch), batch, anchors)
        return context, self.thinking.drawn(model, context, fill_key)

    def judged(self, models: Models, context: Context, inner: Inner) -> tuple[Loss, Metrics]:
        """Loss and metrics of given thoughts."""
        raise NotImplementedError(f"{type(self).__name__} does not define judged")

    def passes(self, length: int) -> tuple[Pass, ...]:
        """What a step computes on a window of `length` tokens, its reference left out."""
        return self.thinking.passes(self.thinking_positions(length), length)

    def thinking_positions(self, length: int) -> int:
        return min(self.positions or length, length)

    def think(
        self, model: Thinker, context: Context, key: Key, greedy: bool, num_thoughts: int = 1
    ) -> tuple[Inner, Prediction]:
        return self.thinking.think(model, context, key, greedy, num_thoughts)
