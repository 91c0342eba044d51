"""A trained reward model as a scorer: the function that search uses as `value`.

scorer = scoring.opened("runs/prm/...", tokenizer=policy.tokenizer)
scored = scorer.score(["3aegbdh="], [("-4", "5", "4")])
scored.steps[0]          a score for each step
scored.solutions[0]      the score of the solution: those of its steps aggregated
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import jax
import numpy as np

from qstar import config as configs
from qstar import settings, sharding
from qstar.data import labelled
from qstar.data.tokenizer import Tokenizer
from qstar.decoding import score as reading
from qstar.methods.dpo import DPO
from qstar.methods.verifier import Verifier
from qstar.models import cost
from qstar.models.cost import Cost, Pass
from qstar.models.definition import Definition
from qstar.models.lm import LMConfig
from qstar.ops import rows
from qstar.policy import Policy
from qstar.runs import load
from qstar.search.choose import AGGREGATIONS
from qstar.search.interface import Node, Value
from qstar.settings import Count, OneOf
from qstar.structs import Batch
from qstar.typing import Array, Float, Params

Text = str | Sequence[int]
"""A text, or the token ids that a model wrote."""
Spelled = tuple[Text, Sequence[Text]]
"""A prompt and the steps that follow it."""


@dataclass(frozen=True)
class Scored:
    """Scores of solutions, whole or begun, in the order in which they were given."""

    steps: list[Float[np.ndarray, "N"]]  # of every step
    solutions: Float[np.ndarray, "B"]  # of every solution: its steps' scores, aggregated
    cost: Cost


class Scores:
    """What scores solutions: a reward model, a preference verifier, a judge."""

    # It has a tokenizer of its own, and takes texts alone; others take the ids that a model wrote as well.
    reads_text: ClassVar[bool] = False
    policy: Policy

    @property
    def digest(self) -> str:
        """The same for the same weights."""
        return self.policy.digest

    def score(self, prompts: Sequence[Text], steps: Sequence[Sequence[Text]]) -> Scored:
        """Scores of solutions whose steps are given."""
        raise NotImplementedError(f"{type(self).__name__} does not define score")

    def spent(self, tokens: int) -> tuple[int, int]:
        """Tokens that are read, and FLOPs, to score a solution that has so many tokens with its prompt."""
        raise NotImplementedError(f"{type(self).__name__} does not define spent")

    def value(self, text: Callable[[Node], Spelled]) -> Value:
        """This scorer as `value` of a search (`search/interface.py`); `text` spells the prompt and steps of a node."""
        return lambda nodes: self.score(*zip(*map(text, nodes), strict=True)).solutions if nodes else np.empty(0)


@dataclass(frozen=True)
class Scorer(Scores):
    """A reward model and how its scores of steps become one score of a solution."""

    policy: Policy  # whose method is a `Verifier`
    aggregation: Annotated[str, OneOf(AGGREGATIONS)] = "last"  # last, min, product or mean of the scores of steps
    batch_size: Count = 32  # solutions that are read at once

    def __post_init__(self):
        settings.check(self, "scorer")
        if not isinstance(self.policy.method, Verifier):
            raise ValueError(
                f"{self.policy.name} was trained with {configs.given('method', self.policy.method)}, which gives no "
                "scores: expected a run of method=orm, method=prm or method=dpo"
            )

    def score(self, prompts: Sequence[Text], steps: Sequence[Sequence[Text]]) -> Scored:
        """Scores of solutions whose steps are given, texts or the token ids that a model wrote.

        Raises ValueError for a solution without steps or longer than the model reads, for two steps that end in one
        token, and for a score that is not a number; nothing is computed before all of them were checked.
        """
        read = _all_read(self.policy.tokenizer, prompts, steps)
        texts = [[*prompt, *written] for prompt, written, _ in read]
        ends = [
            [len(prompt) + end for end in _of_text(written, ends, self.policy.tokenizer.ends)]
            for prompt, written, ends in read
        ]
        rows.check(texts, self.policy.lm.vocab, self.policy.lm.max_len)
        step_scores: list[np.ndarray] = [np.empty(0)] * len(texts)
        spent, size = Cost(), sharding.full(self.batch_size)
        for index, batch in reading.padded(texts, size):
            scores = np.asarray(_scores(self.policy.method, self.policy.definition, self._params, batch))
            for row, i in enumerate(index):
                step_scores[i] = scores[row, ends[i]].astype(np.float64)
            spent += reading_cost(self.policy.lm, batch, sum(len(texts[i]) for i in index))
        finite(step_scores, self.policy.name)
        return Scored(step_scores, np.array([aggregated(scores, self.aggregation) for scores in step_scores]), spent)

    def spent(self, tokens: int) -> tuple[int, int]:
        return tokens, cost.flops(self.policy.lm, [Pass(tokens, tokens, 0, gradient=False)])

    @functools.cached_property
    def _params(self) -> Params:
        return sharding.spread(self.policy.params, self.policy.definition.axes)


def reading_cost(lm: LMConfig, batch: Batch, tokens: int, predicted: int = 0) -> Cost:
    """Of a batch that is read, `tokens` of it not padding, with the logits of `predicted` places of each row."""
    count, width = batch.tokens.shape
    flops = cost.flops(lm, [Pass(width, width, predicted, gradient=False)])
    return Cost(prompt_tokens=tokens, padding_tokens=batch.tokens.size - tokens, flops=count * flops)


def _all_read(
    tokenizer: Tokenizer, prompts: Sequence[Text], steps: Sequence[Sequence[Text]]
) -> list[tuple[list[int], list[int], list[int]]]:
    """Token ids of each prompt and of its solution, and the place in it of the last token of every step."""
    return [_read(tokenizer, i, *pair) for i, pair in enumerate(zip(prompts, steps, strict=True))]


def _read(
    tokenizer: Tokenizer, number: int, prompt: Text, steps: Sequence[Text]
) -> tuple[list[int], list[int], list[int]]:
    where = f"solution {number}"
    if not len(steps) or not all(len(step) for step in steps):
        raise ValueError(f"{where}: a step is empty, or there is none: expected one or more steps of text")
    if all(isinstance(step, str) for step in steps):
        if not isinstance(prompt, str):
            raise ValueError(f"{where}: the prompt is token ids and the steps are text: expected both of one kind")
        before, written = tokenizer.encode_pair(prompt, "".join(steps))
        ends = labelled.last_tokens(steps, written, tokenizer, where)
    else:
        before = tokenizer.encode_prompt(prompt) if isinstance(prompt, str) else prompt
        written = [int(id) for step in steps for id in step]
        ends = (np.cumsum([len(step) for step in steps]) - 1).tolist()
    return [*map(int, before)], [*written], ends


def _of_text(written: Sequence[int], places: Sequence[int], end_ids: Sequence[int]) -> list[int]:
    """Places of the last tokens of steps, that of the last step before an end-of-text token: as in `data/labelled.py`.

    Otherwise the score of a solution would be read at a token at which no step had a label.
    """
    *earlier, last = places
    is_end = written[last] in end_ids and last - 1 > max(earlier, default=-1)
    return [*earlier, last - is_end]


@dataclass(frozen=True)
class Preference(Scores):
    """V-STaR's verifier (Hosseini et al. 2024): a model trained with DPO on right against wrong samples of a question.

    The score after a step is log pi - log pi_ref of all that was written up to it, in nats: DPO's implicit reward over
    its beta. It ranks; it is no probability. Differs from the paper: that ranks by log pi alone (both are measured in
    experiments/verifiers/vstar).
    """

    policy: Policy  # whose method is `DPO`
    reference: Policy  # the model that its training started from
    aggregation: Annotated[str, OneOf(AGGREGATIONS)] = "last"  # of the scores after each step
    batch_size: Count = 32  # solutions that are read at once

    def __post_init__(self):
        settings.check(self, "scorer")

    @property
    def digest(self) -> str:
        return f"{self.policy.digest} over {self.reference.digest}"

    def score(self, prompts: Sequence[Text], steps: Sequence[Sequence[Text]]) -> Scored:
        """As `Scorer.score`."""
        read = _all_read(self.policy.tokenizer, prompts, steps)
        before, written = [prompt for prompt, _, _ in read], [ids for _, ids, _ in read]
        size = sharding.full(self.batch_size)
        ours, theirs = (
            reading.score(of.definition, params, before, written, batch_size=size)
            for of, params in ((self.policy, self._params[0]), (self.reference, self._params[1]))
        )
        scores = [
            np.cumsum(np.subtract(mine, other, dtype=np.float64))[ends]
            for mine, other, (_, _, ends) in zip(ours, theirs, read, strict=True)
        ]
        finite(scores, self.policy.name)
        spent = [self.spent(len(prompt) + len(ids)) for prompt, ids, _ in read]
        total = Cost(prompt_tokens=sum(tokens for tokens, _ in spent), flops=sum(flops for _, flops in spent))
        return Scored(scores, np.array([aggregated(of, self.aggregation) for of in scores]), total)

    def spent(self, tokens: int) -> tuple[int, int]:
        flops = cost.flops(self.policy.lm, [Pass(tokens, tokens, tokens - 1, gradient=False)])
        return 2 * tokens, 2 * flops

    @functools.cached_property
    def _params(self) -> tuple[Params, Params]:
        return tuple(sharding.spread(of.params, of.definition.axes) for of in (self.policy, self.reference))


def opened(source: str | Path, tokenizer: Tokenizer | None = None, aggregation: str = "last") -> Scorer | Preference:
    """The scorer of a run that trained a reward model, or of method=dpo; of a classifier; or `bundled:NAME`.

    Args:
        tokenizer: of the model whose solutions will be scored; None does not compare it.

    Raises FileNotFoundError where there is none; ValueError for another model, one of another tokenizer, and weights
    that are not numbers.
    """
    model = load.load_scorer(source)
    if isinstance(model.method, DPO):
        start = load.initial_model(model.config.model, model.config.seed)
        reference = Policy.of_language_model(start.lm, start.language_model, start.tokenizer, start.name)
        scorer = Preference(model, reference, aggregation)
    else:
        scorer = Scorer(model, aggregation)
    check_weights(model)
    if tokenizer is not None:
        check_tokenizer(scorer.policy, tokenizer)
    return scorer


def check_weights(scorer: Policy) -> None:
    """Raise ValueError where weights of a scorer are NaN or infinite: before anything is generated for it to score."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(scorer.params):
        wrong = np.count_nonzero(~np.isfinite(leaf))
        if wrong:
            name = jax.tree_util.keystr(path, simple=True, separator=".")
            raise ValueError(
                f"the scorer {scorer.name} has {wrong} weights in {name} that are NaN or infinite: they have diverged; "
                "train it again with a lower optim.lr, or put back an undamaged copy"
            )


def check_tokenizer(scorer: Policy, tokenizer: Tokenizer) -> None:
    """Raise ValueError where a scorer reads other tokens than these."""
    if tokenizer.to_json() != scorer.tokenizer.to_json():
        raise ValueError(
            f"the scorer {scorer.name} has another tokenizer than the model whose solutions it would score: train a "
            "reward model from that model (model.source=...)"
        )
    mine, theirs = scorer.tokenizer, tokenizer
    for what, own, other in (
        ("tokens before a text", mine.begin, theirs.begin),
        ("tokens that end a text", mine.ends, theirs.ends),
        ("chat template around prompts", mine.marks.chat, theirs.marks.chat),
    ):
        if own != other:
            raise ValueError(
                f"the scorer {scorer.name} was trained with {own} as {what}, the model whose solutions it would score "
                f"has {other}: give both models the same settings (model.begin, model.chat), or train a reward model "
                "from that model (model.source=...)"
            )


def aggregated(scores: Float[np.ndarray, "N"], how: str) -> float:
    """The score of a solution from those of its steps."""
    if how == "last":
        return float(scores[-1])
    return float({"min": np.min, "product": np.prod, "mean": np.mean}[how](scores))


@functools.partial(jax.jit, static_argnames=("method", "definition"))
def _scores(method: Verifier, definition: Definition, params: Params, batch: Batch) -> Float[Array, "B S"]:
    batch = jax.tree.map(lambda leaf: sharding.shard(leaf, "batch", None), batch)
    return method.scores(definition.bind(params), batch)


def finite(scores: Sequence[Float[np.ndarray, "N"]], name: str) -> None:
    """Raise ValueError where a model of this name gives a score that is not a number."""
    for number, step_scores in enumerate(scores):
        if not np.isfinite(step_scores).all():
            step = int(np.argmax(~np.isfinite(step_scores)))
            raise ValueError(
                f"{name} gives step {step} of solution {number} the score {step_scores[step]}: its weights have "
                "diverged; train it again with a lower optim.lr"
            )
