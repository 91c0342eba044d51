"""The `propose` and `answer` of a search: steps that a language model writes, answers that a task's grader reads.

A prefix is a row of a session (`decoding/session.py`): its text is never read twice. Strategies that look at steps are
given one at a time, which ends with a delimiter of the task; others get a whole solution as a single step.
"""

import bisect
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import jax
import numpy as np

from qstar.data.tokenizer import Tokenizer
from qstar.decoding.session import Row, Session, Step
from qstar.search.interface import Candidate, Key, Node, row_key
from qstar.tasks.grading.grade import Verdict
from qstar.tasks.problem import Problem, Task, graded
from qstar.typing import Keys


@dataclass(frozen=True)
class Written:
    """State of a node: the text up to it, and the step that it is."""

    row: Row
    step: Step | None = None  # None: a prompt
    draw: int = 0  # how often its parent was continued before; -1: with the likeliest tokens


class Proposals:
    """Steps and answers of the questions of one session.

    Args:
        delimiters: texts that end a step; none: whole solutions are proposed.
        step_tokens: most tokens of a step.
        most: tokens of a solution; None: as many as the session writes in a row.
    """

    def __init__(
        self,
        session: Session,
        task: Task,
        problems: Sequence[Problem],
        tokenizer: Tokenizer,
        delimiters: Sequence[str],
        step_tokens: int,
        most: int | None = None,
    ):
        self.session, self.task, self.problems, self.tokenizer = session, task, problems, tokenizer
        self.delimiters, self.step_tokens = tuple(delimiters), step_tokens
        self.most = session.sampling.max_new_tokens if most is None else most
        self._verdicts: dict[Node, Verdict] = {}

    @property
    def prompts(self) -> list[Written]:
        return [Written(self.session.start(number)) for number in range(len(self.problems))]

    def propose(self, prefixes: Sequence[Node], k: int, key: Key | None) -> list[list[Candidate]]:
        k = k if key is not None else min(k, self.session.vocab)
        steps = self.session.write(
            [row for prefix in prefixes for row in [self._start(prefix)] * k],
            None if key is None else row_keys([(*row_key(key, prefix), i) for prefix in prefixes for i in range(k)]),
            delimiters=self.delimiters,
            limit=self.step_tokens,
            ranks=list(range(k)) * len(prefixes) if key is None else None,
        )
        draws = [-1 if key is None else prefix.draws for prefix in prefixes for _ in range(k)]
        problems = [self.problems[prefix.problem] for prefix in prefixes for _ in range(k)]
        candidates = [self._candidate(*parts) for parts in zip(steps, draws, problems, strict=True)]
        return [candidates[start : start + k] for start in range(0, len(candidates), k)]

    def _start(self, prefix: Node) -> Row:
        """Where a prefix is gone on from."""
        if not prefix.attempts:
            return prefix.state.row
        shown = [id for attempt in prefix.attempts for id in self.attempt(attempt)]
        return self.session.row(prefix.problem, shown, len(shown))

    def attempt(self, node: Node) -> list[int]:
        """A solution as it is shown to revisions of it: the tokens that were sampled, up to a stop text."""
        ids, stops = list(self._without_end(node)), self.task.stop
        text = self.tokenizer.decode(ids)
        return ids if any(stop in text for stop in stops) else [*ids, *stop_ids(self.tokenizer, self.task)]

    def _candidate(self, step: Step, draw: int, problem: Problem) -> Candidate:
        row = step.row
        final = row.finished or len(row.own) >= self.most
        margin = self._margin(step, problem) if final and draw < 0 else None  # CoT-decoding alone looks at it
        return Candidate(Written(row, step, draw), len(step.ids), final, step.text, step.logprobs, margin)

    def answer(self, node: Node) -> str | None:
        return self.verdict(node).answer or None

    def verdict(self, node: Node) -> Verdict:
        """What was cut off by the limit is no answer: the rest of it could have been another one."""
        if node not in self._verdicts:
            row = node.state.row
            self._verdicts[node] = self._graded(row, self.problems[node.problem])
        return self._verdicts[node]

    def _graded(self, row: Row, problem: Problem) -> Verdict:
        return graded(self.task, problem, row.text, row.finished)

    def _margin(self, step: Step, problem: Problem) -> float:
        """Mean over the tokens of the answer at its last occurrence in the step; over the whole step if it has none.

        The paper of CoT-decoding finds the answer's tokens by its text as well (Wang and Zhou 2024, section 2.2).
        """
        answer = self._graded(step.row, problem).answer
        ends = self.tokenizer.lengths(step.ids)
        text = self.tokenizer.decode(step.ids)
        at = text.rfind(answer) if answer else -1
        here = [i for i in range(len(step.ids)) if at >= 0 and ends[i] < at + len(answer) and ends[i + 1] > at]
        return float(np.mean(step.gaps[here] if here else step.gaps))

    # --- for scorers ----------------------------------------------------------------------------------------------

    def steps(self, node: Node) -> tuple[str, ...]:
        """The steps of a solution, whole or begun, as its task splits it: none of them is empty."""
        return self.task.steps(self.tokenizer.decode(self._without_end(node)))

    def spelled(self, node: Node) -> tuple[str, list[Sequence[int]]]:
        """The prompt of a node without examples, and its steps as the tokens that were sampled.

        A step ends with the token that holds its last character; two that end in one token are one.
        """
        ids = node.state.row.own
        whole = self.tokenizer.lengths(ids)
        ends = {bisect.bisect_left(whole, length) for length in itertools.accumulate(map(len, self.steps(node)))}
        cuts = [0, *sorted(ends)[:-1], len(ids)]
        return self.task.prompt(self.problems[node.problem]), [ids[at:to] for at, to in itertools.pairwise(cuts)]

    def texts(self, node: Node) -> tuple[str, tuple[str, ...]]:
        """The prompt of a node without examples, and its steps, as texts."""
        return self.task.prompt(self.problems[node.problem]), self.steps(node)

    def _without_end(self, node: Node) -> Sequence[int]:
        ids = node.state.row.own
        return ids[:-1] if ids and ids[-1] in self.session.sampling.stop_ids else ids


def row_keys(keys: Sequence[Key]) -> Keys:
    """A key of a row, which depends on its numbers alone."""
    words = np.stack([np.random.SeedSequence(key).generate_state(2) for key in keys])
    return jax.random.wrap_key_data(words, impl="threefry2x32")


def stop_ids(tokenizer: Tokenizer, task: Task) -> Sequence[int]:
    """The first stop text as tokens; none where the task has none."""
    return tokenizer.encode_after(task.stop[0]) if task.stop else ()


PLAIN = "1 + 1 = 2{0}2 + 2 = 4{0}So it is 4."


def _plain(tokenizer: Tokenizer, delimiters: Sequence[str]) -> list[str]:
    """Texts with delimiters; without other characters where the tokenizer has not those of the plain text."""
    texts = [PLAIN.format(delimiter) for delimiter in delimiters]
    try:
        for text in texts:
            tokenizer.encode_after(text)
    except ValueError:
        return list(delimiters)
    return texts


def check_delimiters(tokenizer: Tokenizer, delimiters: Sequence[str], texts: Sequence[str]) -> None:
    """Raise ValueError where a delimiter in one of these texts ends within a token, or a plain one without any.

    A step could not end there: what follows the delimiter would be written with it.
    """
    for delimiter in delimiters:
        try:
            tokenizer.encode_after(delimiter)
        except ValueError as error:  # a character that the tokenizer does not have
            raise ValueError(f"delimiters: {delimiter!r} cannot be written by this model: {error}") from error
    for text in texts or _plain(tokenizer, delimiters):
        ids = tokenizer.encode_after(text)
        ends = tokenizer.lengths(ids)
        text = tokenizer.decode(ids)
        for delimiter in delimiters:
            at = text.find(delimiter)
            while at >= 0:
                if at + len(delimiter) not in ends:
                    token = next(i for i in range(len(ids)) if ends[i + 1] > at + len(delimiter))
                    raise ValueError(
                        f"delimiters: {delimiter!r} ends within the token {text[ends[token] : ends[token + 1]]!r} of "
                        "this tokenizer, so no step can end with it; give another one with delimiters=[TEXT], or "
                        "a strategy that samples whole solutions, such as search=best_of_n"
                    )
                at = text.find(delimiter, at + 1)
