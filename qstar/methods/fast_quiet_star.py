"""Fast Quiet-STaR's last stage: a model that does not think, trained against one that does.

A token's reward is what the student knows better than the teacher, r_j = log p_student(x_j) - log p_teacher(x_j), the
teacher's prediction being the one after a thought; it is kept where it is positive. The student's log-probs are
reinforced by it, and there is no NLL. Huang et al. 2025 (arXiv 2505.17746). The stages before are Quiet-STaR with ever
shorter thoughts, each from the one before: experiments/quiet_star/followups/fast_quiet_star.py runs all of them.

`student=paper` reinforces the true token, grad log p(x_j). `student=released` is the released code: a token that the
student draws, whose reward does not depend on what was drawn, so at temperature 1 the expected gradient is zero.
"""

import dataclasses
from dataclasses import dataclass
from typing import Annotated, ClassVar

import jax
import jax.numpy as jnp

from qstar import settings
from qstar.methods.plain_lm import PlainLM
from qstar.methods.protocol import Models, Reference
from qstar.models.cost import Pass
from qstar.models.thinker import Thinker
from qstar.ops import vocabulary
from qstar.ops.chunk import chunked, slice_size
from qstar.settings import OneOf, Positive
from qstar.structs import Batch, Context, Loss, Mean, Metrics, Term
from qstar.thoughts.anchors import next_counts
from qstar.thoughts.thinking import Thinks
from qstar.typing import Array, Float, Key, typed

STUDENTS = ("paper", "released")


@dataclass(frozen=True)
class FastQuietStar(PlainLM):
    """The student. It starts from the language model of `model.source`: in the paper, the teacher's run as well.

    Differs from the released code: its weight of 1e6 is left out, for of one term alone Adam sees no scale; the teacher
    thinks in the step, the likeliest thoughts, instead of being read from a file; padding is not counted.
    """

    headline: ClassVar[tuple[str, ...]] = ("nll", "nll_teacher", "reward")

    teacher: str = ""  # a run directory of a method that thinks
    student: Annotated[str, OneOf(STUDENTS)] = "paper"  # the reinforced token: the true one, or a draw (released)
    clamp: bool = True  # only tokens that the student knows better than the teacher are reinforced
    reinforce_temperature: Positive = 1.0  # divides the logits of the reinforced log-probs; released: 3

    def __post_init__(self):
        settings.check(self, "method")
        if not self.teacher:
            raise ValueError(
                "method.teacher is empty: give method.teacher=RUN, a run directory of a method that thinks, as in\n"
                "  qstar-train run_dir=runs/teacher && "
                "qstar-train method=fast_quiet_star method.teacher=runs/teacher model.source=runs/teacher"
            )

    @property
    def reference(self) -> Reference:
        return Reference(run=self.teacher)

    def loss_terms(self, models: Models, batch: Batch, key: Key) -> tuple[Loss, Metrics]:
        thought_key, draw_key = jax.random.split(key)
        model = models.policy
        hidden, vocab, true = model.text(batch).hidden[:, :-1], model.cfg.vocab, batch.tokens[:, 1:]
        own = vocabulary.logprobs(model.logits, hidden, true, 1, vocab)
        taught = teacher_logprobs(models.reference_method, models.reference, batch, thought_key)
        reward = jax.lax.stop_gradient(own) - taught
        action = true
        if self.student == "released":
            detached = jax.lax.stop_gradient(hidden)[:, None]
            action = vocabulary.sample(model.logits, detached, draw_key, vocab)[0][:, 0]
        score = vocabulary.logprobs(model.logits, hidden, action, 1, vocab, self.reinforce_temperature)
        counts = next_counts(batch)
        loss = Loss((Term.of(-(jnp.maximum(reward, 0) if self.clamp else reward) * score, counts),))
        return loss, {
            "nll": Mean.of(-own, counts),
            "nll_teacher": Mean.of(-taught, counts),
            "reward": Mean.of(reward, counts),
            "helped": Mean.of((reward > 0).astype(reward.dtype), counts),
        }

    def passes(self, length: int) -> tuple[Pass, ...]:
        """The student's own; see `other_passes`."""
        draws = length - 1 if self.student == "released" else 0
        rewards = Pass(0, 0, length - 1 + draws, gradient=False)
        return (*super().passes(length), rewards)

    def other_passes(self, other: Thinks, length: int) -> tuple[Pass, ...]:
        return teacher_passes(other, length)


def teacher_passes(teacher: Thinks, length: int) -> tuple[Pass, ...]:
    """What the teacher computes in a step on a window of `length` tokens, besides the student's `passes`: it thinks
    once before every token."""
    thinking = dataclasses.replace(teacher.thinking, num_thoughts=1, lookahead=1, scored=False)
    return tuple(dataclasses.replace(pass_, gradient=False) for pass_ in thinking.passes(length - 1, length))


@typed
def teacher_logprobs(teacher: Thinks, thinker: Thinker, batch: Batch, key: Key) -> Float[Array, "B J"]:
    """Log-prob of every next token after the teacher's likeliest thought; its distributions live in slices."""
    text = thinker.lm.text(batch)
    rows, size = batch.tokens.shape

    def after_thoughts(anchors: Array) -> Array:
        # Likeliest thoughts draw nothing; the key is for those that are dealt to other positions.
        own = jax.random.fold_in(key, anchors[0, 0])
        prediction = teacher.think(thinker, Context(text, batch, anchors), own, greedy=True)[1]
        true = jnp.take_along_axis(batch.tokens, anchors + 1, 1)
        return jnp.take_along_axis(prediction.mixed[:, 0], true[:, :, None], -1)[:, :, 0]

    anchors = jnp.broadcast_to(jnp.arange(size - 1)[None], (rows, size - 1))
    # Three distributions over the vocabulary are alive at once: base, after the thought, mixed.
    logprobs = chunked(after_thoughts, anchors, 1, slice_size(size - 1, 3 * rows * thinker.lm.cfg.vocab))
    return jax.lax.stop_gradient(logprobs)
