"""What the methods that think have in common: how thoughts are made, scored and followed by a prediction."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp

from qstar.models.cost import Pass
from qstar.models.thinker import Thinker
from qstar.structs import ROWS, Context, Talk
from qstar.thoughts.fill import Inner, fill
from qstar.thoughts.predict import Prediction, predict
from qstar.thoughts.talk import talk
from qstar.typing import Key, Keys


@dataclass(frozen=True)
class Thinking:
    """The thoughts of a method. Composed from its hyper-parameters, which say what is legal and what is the default."""

    thought_len: int  # T
    num_thoughts: int  # R
    lookahead: int  # N
    mix: str  # what is blended: `talk.MIXES`
    temperature: float  # of sampling
    score_temperature: float  # divides the logits of the log-probs that thoughts are scored by
    fill: str = "sampled"  # `fill.FILLS`
    scored: bool = True  # the tokens of thoughts get log-probs, for a policy gradient
    mixing: bool = True  # there is a mixing head
    gate: bool = False  # there is a gate
    helpfulness: bool = False  # there is a head that says which thoughts help
    candidates: int = 1  # thoughts that are sampled where one is used, outside of training

    @property
    def dealt(self) -> bool:
        """Thoughts are dealt among the rows of a batch: what a row gets depends on those beside it."""
        return self.fill == "shuffled"

    def inner(self, model: Thinker, context: Context, key: Key, num_thoughts: int, temperature: float) -> Inner:
        sizes = {"thought_len": self.thought_len, "num_thoughts": num_thoughts}
        return fill(self.fill, model, context, key, **sizes, temperature=temperature)

    def drawn(self, model: Thinker, context: Context, key: Key) -> Inner:
        """The thoughts of a training step."""
        return self.inner(model, context, key, self.num_thoughts, self.temperature)

    def talk(self, model: Thinker, context: Context, inner: Inner) -> Talk:
        """What these thoughts did to the likelihood of the text."""
        result = talk(
            model,
            context,
            inner.embedding,
            inner.tokens if self.scored else None,
            lookahead=self.lookahead,
            mix=self.mix,
            temperature=self.score_temperature,
        )
        return result.replace(behaviour=inner.logprobs)

    def think(
        self, model: Thinker, context: Context, key: Key, greedy: bool, num_thoughts: int = 1
    ) -> tuple[Inner, Prediction]:
        """Thoughts, the likeliest or sampled ones, and what they do to the next token."""
        inner = self.inner(model, context, key, num_thoughts, 0.0 if greedy else self.temperature or 1.0)
        return inner, predict(model, context, inner, self.mix)

    def passes(self, positions: int, length: int) -> tuple[Pass, ...]:
        """Reading the text, sampling where thoughts are sampled, and all columns of these many positions at once."""
        thoughts = positions * self.num_thoughts
        own, sampled = self.thought_len + 1 + self.lookahead, thoughts * self.thought_len
        mixing = thoughts * self.lookahead if self.mixing else 0
        logits = thoughts * self.lookahead + (sampled if self.scored else 0)
        text = Pass(length, length, length - 1, gate=positions if self.gate else 0)
        mixing += thoughts if self.helpfulness else 0  # a perceptron of the same size
        sampling = Pass(
            sampled,
            length + self.thought_len,
            sampled,
            gradient=False,
            phase="sampling",
            thoughts=thoughts,
            runs=self.thought_len,
        )
        columns = Pass(thoughts * own, length + own, logits, mixing, phase="columns", thoughts=thoughts)
        return (text, sampling, columns) if self.fill in ("sampled", "shuffled") else (text, columns)


@runtime_checkable
class Thinks(Protocol):
    """A method that thinks, as far as evaluations, reading and generation ask: hashable and frozen."""

    @property
    def thinking(self) -> Thinking: ...

    def think(
        self, model: Thinker, context: Context, key: Key, greedy: bool, num_thoughts: int = 1
    ) -> tuple[Inner, Prediction]:
        """Thoughts at the anchors, `num_thoughts` each, and the predictions of the next token with and without them."""


def think_by_row(
    method: Thinks, model: Thinker, context: Context, keys: Keys, num_thoughts: int = 1
) -> tuple[Inner, Prediction]:
    """Sampled thoughts, those of a row drawn by its own key, whatever rows are beside it."""

    def one_row(context: Context, key: Key) -> tuple[Inner, Prediction]:
        alone = jax.tree.map(jnp.expand_dims, context, ROWS)
        return jax.tree.map(lambda leaf: leaf[0], method.think(model, alone, key, False, num_thoughts))

    return jax.vmap(one_row, (ROWS, 0))(context, keys)
