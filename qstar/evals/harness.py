"""What lm-evaluation-harness asks of a model: log-likelihoods of continuations and of whole texts, and generations.

With likeliest thoughts every scored and every written token has a thought before it. `qstar.cli.harness` gives this to
the harness; nothing here needs it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from qstar.decoding import generate as decoding
from qstar.decoding import score
from qstar.decoding.sampling import Sampling
from qstar.evals import predictions
from qstar.evals.measure import GREEDY, NONE
from qstar.evals.predictions import Query
from qstar.policy import Policy
from qstar.tasks import conversation
from qstar.thoughts import writing
from qstar.thoughts.thinking import Thinks
from qstar.typing import Key

ANCHORS = 16  # positions whose whole distributions are alive at once
NEW_TOKENS = 256  # where a task does not say how many
THOUGHTS = (NONE, GREEDY)


class Asked:
    """A policy, asked as the harness asks.

    A text without a context follows the tokenizer's begin-of-text token, or else its end-of-text token; where it has
    neither, the first token of the text is given and not scored. What is longer than the model can read loses its
    beginning.

    Args:
        thoughts: none or greedy, the likeliest.
        batch_size: texts at once.
        seed: of texts that a task wants sampled.

    Raises ValueError for other thoughts, and for greedy ones of a model that does not think.
    """

    def __init__(self, policy: Policy, thoughts: str = NONE, batch_size: int = 8, seed: int = 0):
        if thoughts not in THOUGHTS:
            raise ValueError(f"thoughts = {thoughts!r}: expected one of {', '.join(THOUGHTS)}")
        if thoughts != NONE and not isinstance(policy.method, Thinks):
            raise ValueError(
                f"thoughts = {thoughts!r}: {policy.name} was trained with {type(policy.method).__name__}, which does "
                f"not think; expected {NONE}"
            )
        self.policy, self.thoughts, self.batch_size = policy, thoughts, batch_size
        self._seed, self._programs = seed, 0
        self._length = policy.lm.max_len

    def _key(self) -> Key:
        """A new one for every program that is run."""
        self._programs += 1
        return jax.random.fold_in(jax.random.key(self._seed), self._programs)

    # --- log-likelihoods ----------------------------------------------------------------------------------------------

    def loglikelihood(self, pairs: Sequence[tuple[str, str]]) -> list[tuple[float, bool]]:
        """Of each continuation after its context: log-probability, nats, and whether it is what is likeliest."""
        texts = [self._cut(*self._encoded(context, continuation)) for context, continuation in pairs]
        scored = self._scored(texts, greedy=True)
        return [(float(logprobs.sum()), bool(likeliest.all())) for logprobs, likeliest in scored]

    def loglikelihood_rolling(self, texts: Sequence[str]) -> list[float]:
        """Of each text, every token with as much of the text before it as the model can read, in windows."""
        windows = [(i, window) for i, text in enumerate(texts) for window in self._windows(text)]
        sums = np.zeros(len(texts))
        for (i, _), (logprobs, _) in zip(windows, self._scored([window for _, window in windows], False), strict=True):
            sums[i] += logprobs.sum()
        return sums.tolist()

    def _encoded(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        tokenizer = self.policy.tokenizer
        if conversation.parsed(context) is not None:  # a reply that is scored up to here, not to its end
            return list(tokenizer.encode_prompt(context)), tokenizer.encode_after(continuation)
        given, rest = tokenizer.encode_pair(context, continuation) if context else ((), ())
        if given:
            return list(given), list(rest)
        ids = [*self._before, *tokenizer.encode(context + continuation)]
        return ids[:1], ids[1:]

    @property
    def _before(self) -> tuple[int, ...]:
        """What a text without a context follows."""
        marks = self.policy.tokenizer.marks
        return (marks.begin,) if marks.begin is not None else self.policy.tokenizer.ends[:1]

    def _cut(self, context: list[int], continuation: list[int]) -> tuple[list[int], list[int]]:
        continuation = continuation[-(self._length - 1) :]
        return context[-(self._length - len(continuation)) :], continuation

    def _windows(self, text: str) -> list[tuple[list[int], list[int]]]:
        """Context and scored tokens of each window: full windows, of which the last scores what is left."""
        ids = [*self._before, *self.policy.tokenizer.encode(text)]
        step = self._length - 1
        starts = range(1, len(ids), step)
        return [(ids[max(0, min(start + step, len(ids)) - self._length) : start], ids[start : start + step])
                for start in starts]  # fmt: skip

    def _scored(
        self, texts: Sequence[tuple[list[int], list[int]]], greedy: bool
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """Log-probs of the tokens of each continuation, and whether each is the likeliest where that is asked for."""
        policy = self.policy
        if not greedy and self.thoughts == NONE:
            contexts, rest = [context for context, _ in texts], [continuation for _, continuation in texts]
            language_model = (policy.definition, policy.params)
            logprobs = score.score(*language_model, contexts, rest, batch_size=self.batch_size) if texts else []
            return [(row.astype(np.float64), np.zeros(len(row), bool)) for row in logprobs]
        out = [(np.zeros(len(rest)), np.ones(len(rest), bool)) for _, rest in texts]
        pieces = [(i, at) for i, (_, rest) in enumerate(texts) for at in range(0, len(rest), ANCHORS)]
        lengths = [len(texts[i][0]) + len(texts[i][1]) for i, _ in pieces]
        for members in predictions.partition(lengths, self.batch_size):
            for number, logprobs in zip(members, self._asked(texts, [pieces[m] for m in members], greedy), strict=True):
                i, at = pieces[number]
                targets = texts[i][1][at : at + ANCHORS]
                for offset, target in enumerate(targets):
                    row = logprobs[offset]
                    out[i][0][at + offset] = row[target if greedy else 0]
                    out[i][1][at + offset] = not greedy or row.argmax() == target
        return out

    def _asked(self, texts: Sequence, pieces: Sequence[tuple[int, int]], whole: bool) -> np.ndarray:
        """Log-probs [pieces ANCHORS M] of all tokens, or of the true ones alone."""
        every = np.arange(self.policy.lm.vocab)
        queries = []
        for i, at in pieces:
            context, rest = texts[i]
            targets = rest[at : at + ANCHORS]
            anchors = [len(context) + at + offset - 1 for offset in range(len(targets))]
            candidates = np.broadcast_to(every, (len(targets), len(every))) if whole else [[id] for id in targets]
            queries.append(Query([*context, *rest], anchors, candidates))
        keys = jax.random.split(self._key(), len(queries))
        asked = predictions.ask(
            self.policy, (self.thoughts,), queries, keys, batch_size=self.batch_size, anchors=ANCHORS
        )
        return asked.logprobs[:, 0].astype(np.float64)

    # --- generation ---------------------------------------------------------------------------------------------------

    def generate_until(self, requests: Sequence[tuple[str, Mapping[str, Any]]]) -> list[str]:
        """What is written after each prompt, up to the first of its texts `until`."""
        alike: dict[_Wish, list[int]] = {}
        for number, (_, settings) in enumerate(requests):
            alike.setdefault(_wish(settings, self._length - 1), []).append(number)
        texts = [""] * len(requests)
        for wish, numbers in alike.items():
            for start in range(0, len(numbers), self.batch_size):
                group = numbers[start : start + self.batch_size]
                for number, text in zip(group, self._written([requests[i][0] for i in group], wish), strict=True):
                    texts[number] = text
        return texts

    def _written(self, prompts: Sequence[str], wish: "_Wish") -> list[str]:
        policy, tokenizer, room = self.policy, self.policy.tokenizer, self._length - wish.count
        ids = [(tokenizer.encode_prompt(prompt) or list(self._before))[-room:] for prompt in prompts]
        if self.thoughts == NONE:
            sampling = Sampling(wish.temperature, max_new_tokens=wish.count, stop=wish.stop)
            model = (policy.definition, policy.params, tokenizer)
            return decoding.generate(*model, ids, self._key(), sampling, batch_size=self.batch_size).text
        model = (policy.method, policy.definition, policy.params)
        settings = {"max_new_tokens": wish.count, "temperature": wish.temperature, "stop": tokenizer.ends}
        written = writing.generate(*model, ids, self._key(), **settings)
        return [self._before_stop(written.text(row), wish.stop) for row in range(len(prompts))]

    def _before_stop(self, ids: Sequence[int], stop: Sequence[str]) -> str:
        ends = self.policy.tokenizer.ends
        text = self.policy.tokenizer.decode(ids[:-1] if ids and ids[-1] in ends else ids)
        return text[: min((text.find(ending) for ending in stop if ending in text), default=len(text))]


@dataclass(frozen=True)
class _Wish:
    """How a task wants a text."""

    stop: tuple[str, ...]
    count: int  # of new tokens
    temperature: float


def _wish(settings: Mapping[str, Any], most: int) -> _Wish:
    until = settings.get("until") or ()
    stop = tuple(text for text in ((until,) if isinstance(until, str) else until) if text)
    temperature = float(settings.get("temperature") or 0) if settings.get("do_sample", True) else 0.0
    return _Wish(stop, min(int(settings.get("max_gen_toks") or NEW_TOKENS), most), temperature)
