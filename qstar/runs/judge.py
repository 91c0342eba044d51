"""A language model as a judge: a generative verifier, which needs no training (Zhang et al. 2024, GenRM, section 4).

    judge = Judge(load.load_model("models/smollm2"))
    judge.score(["What is 2 + 3?"], [("2 + 3 = 5.", " So it is 5.")])      how sure it is, after each step
    judge.compare(["What is 2 + 3?"], ["It is 5."], ["It is 6."])           that the first is the better one

The score is the probability of "Yes" among "Yes" and "No" as the next token of a prompt with question and solution. Two
answers are compared in both orders, and the mean is taken: models prefer a place.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from qstar import settings, sharding
from qstar.data.tokenizer import Tokenizer
from qstar.decoding import score as reading
from qstar.models import cost
from qstar.models.cost import Cost, Pass
from qstar.models.definition import Definition
from qstar.ops import rows
from qstar.policy import Policy
from qstar.runs import load, scoring
from qstar.runs.scoring import Scored, Scores, Spelled, aggregated, finite, reading_cost
from qstar.search.choose import AGGREGATIONS
from qstar.settings import Count, OneOf
from qstar.structs import Batch
from qstar.typing import Array, Float, Int, Params

YES_NO, A_B = ("Yes", "No"), ("A", "B")
PREFIX = "judge:"  # before the model of a judge, where scorers are named
WHOLE = (
    "Here is a question and a proposed solution.\n\nQuestion:\n{prompt}\n\nSolution:\n{solution}\n\n"
    "Is the solution correct? Answer Yes or No.\nAnswer:"
)
BEGUN = (
    "Here is a question and the beginning of a proposed solution.\n\nQuestion:\n{prompt}\n\nSolution so far:\n"
    "{solution}\n\nIs everything in it correct? Answer Yes or No.\nAnswer:"
)
PAIR = (
    "Here is a question and two answers.\n\nQuestion:\n{prompt}\n\nAnswer A:\n{first}\n\nAnswer B:\n{second}\n\n"
    "Which answer is better, A or B?\nAnswer:"
)


@dataclass(frozen=True)
class Judge(Scores):
    """A language model and what it is asked."""

    reads_text: ClassVar[bool] = True
    policy: Policy
    aggregation: Annotated[str, OneOf(AGGREGATIONS)] = "last"  # of the scores after each step
    batch_size: Count = 8  # prompts that are read at once
    whole: str = WHOLE  # what is asked about a solution: holds {prompt} and {solution}
    begun: str = BEGUN  # about the first steps of one
    pair: str = PAIR  # about two of them: holds {prompt}, {first} and {second}

    def __post_init__(self):
        settings.check(self, "judge")
        for name, parts in (("whole", ("solution",)), ("begun", ("solution",)), ("pair", ("first", "second"))):
            missing = [part for part in ("prompt", *parts) if f"{{{part}}}" not in getattr(self, name)]
            if missing:
                raise ValueError(f"judge.{name} lacks {{{missing[0]}}}: expected a prompt with a place for it")

    def score(self, prompts: Sequence[str], steps: Sequence[Sequence[str]]) -> Scored:
        """How sure it is that a solution is right, after each step: the last one is asked about as a whole solution.

        Raises ValueError for a solution without steps, or longer than the model reads.
        """
        counts = [len(solution) for solution in steps]
        if not all(counts):
            raise ValueError(f"solution {counts.index(0)} has no steps: expected one or more texts")
        asked = [
            (self.whole if count == len(solution) else self.begun).format(
                prompt=prompt, solution="".join(solution[:count])
            )
            for prompt, solution in zip(prompts, steps, strict=True)
            for count in range(1, len(solution) + 1)
        ]
        yes, spent = self._answered(asked, YES_NO)
        scores = np.split(yes, np.cumsum(counts)[:-1]) if counts else []
        return Scored(scores, np.array([aggregated(of, self.aggregation) for of in scores]), spent)

    def compare(
        self, prompts: Sequence[str], first: Sequence[str], second: Sequence[str]
    ) -> tuple[Float[np.ndarray, "B"], Cost]:
        """Probabilities that the first answer is better, the mean of both orders, and what that cost."""
        asked = [
            self.pair.format(prompt=prompt, first=mine, second=other)
            for pairs in (zip(prompts, first, second, strict=True), zip(prompts, second, first, strict=True))
            for prompt, mine, other in pairs
        ]
        chosen, spent = self._answered(asked, A_B)
        before, after = np.split(chosen, 2)
        return (before + 1 - after) / 2, spent

    def spent(self, tokens: int) -> tuple[int, int]:
        whole = tokens + self._frame
        return whole, cost.flops(self.policy.lm, [Pass(whole, whole, 1, gradient=False)])

    @functools.cached_property
    def _frame(self) -> int:
        return len(self.policy.tokenizer.encode_prompt(self.whole.format(prompt="", solution="")))

    @functools.cached_property
    def _params(self) -> Params:
        return sharding.spread(self.policy.params, self.policy.definition.axes)

    def _answered(self, asked: Sequence[str], answers: tuple[str, str]) -> tuple[Float[np.ndarray, "N"], Cost]:
        """Probability of the first answer among the two, as the next token."""
        tokenizer, lm = self.policy.tokenizer, self.policy.lm
        texts = [tokenizer.encode_prompt(text) for text in asked]
        rows.check(texts, lm.vocab, lm.max_len)
        yes, no = self._tokens(answers)
        first, spent, size = np.empty(len(texts)), Cost(), sharding.full(self.batch_size)
        for index, batch in reading.padded(texts, size):
            last = batch.segment.sum(axis=1) - 1
            logits_of_rows = _next(self.policy.definition, self._params, batch, last, np.array([yes, no]))
            logits = np.asarray(logits_of_rows, float)
            for row, i in enumerate(index):
                first[i] = 1 / (1 + np.exp(logits[row, 1] - logits[row, 0]))
            spent += reading_cost(lm, batch, sum(len(texts[i]) for i in index), predicted=1)
        finite([first], self.policy.name)
        return first, spent

    def check_answers(self) -> None:
        """Raise ValueError where it cannot read the question, or the next token does not tell the answers apart."""
        try:
            self.policy.tokenizer.encode_prompt(self.whole)
        except ValueError as error:
            raise ValueError(
                f"the judge {self.policy.name} cannot read what it is asked in English: {error}"
            ) from error
        for answers in (YES_NO, A_B):
            self._tokens(answers)

    def _tokens(self, answers: tuple[str, str]) -> tuple[int, int]:
        """The first token of each answer as it is encoded after a prompt."""
        tokenizer = self.policy.tokenizer
        space = "" if tokenizer.marks.chat else " "
        prompt = self.whole.format(prompt="", solution="")
        ids = [tokenizer.encode_pair(prompt, f"{space}{answer}")[1][0] for answer in answers]
        if ids[0] == ids[1]:
            raise ValueError(
                f"{self.policy.name}: {answers[0]!r} and {answers[1]!r} begin with the same token, so that "
                "the next token does not tell them apart: take a judge with another tokenizer"
            )
        return ids[0], ids[1]


def opened(source: str | Path, tokenizer: Tokenizer | None = None, aggregation: str = "last") -> Scores:
    """A reward model as `scoring.opened` opens it, or the judge of `judge:MODEL`, any language model.

    A judge reads texts, so it may have any tokenizer. Raises as `scoring.opened` and `load.load_model`.
    """
    if not str(source).startswith(PREFIX):
        return scoring.opened(source, tokenizer, aggregation)
    judge = Judge(load.load_model(str(source).removeprefix(PREFIX)), aggregation)
    judge.check_answers()
    scoring.check_weights(judge.policy)
    return judge


def of_steps(scorer: Scores, tokenizer: Tokenizer) -> Callable[[Sequence[Spelled]], Sequence[np.ndarray]]:
    """The scores that a reward model or a judge gives the steps of texts of this tokenizer."""
    spelled = tokenizer.decode if scorer.reads_text else list
    return lambda texts: (
        scorer.score(
            [spelled(list(prompt)) for prompt, _ in texts], [list(map(spelled, steps)) for _, steps in texts]
        ).steps
        if texts
        else []
    )


@functools.partial(jax.jit, static_argnames="definition")
def _next(
    definition: Definition, params: Params, batch: Batch, last: Int[Array, "B"], ids: Int[Array, "N"]
) -> Float[Array, "B N"]:
    """Logits of some tokens after the last one of every text."""
    lm = definition.bind(params).lm
    batch = jax.tree.map(lambda leaf: sharding.shard(leaf, "batch", None), batch)
    hidden = lm.text(batch).hidden[jnp.arange(last.size), last]
    return lm.logits(hidden[:, None])[:, 0][:, ids]
