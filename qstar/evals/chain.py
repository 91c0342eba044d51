"""Zero-shot chain of thought with a majority of votes: the model writes its reasoning, then the answer.

A prompt "Q: ...\\nA: Let's think step by step." is continued by sampled tokens, several times; after each rationale
comes "\\nTherefore, the answer (arabic numerals) is", and of the few tokens that follow the first number is a vote
(Kojima et al. 2022; self-consistency, Wang et al. 2023; Quiet-STaR, section 5.2 and the released script). Thoughts,
where the model has them, come before every token of the rationale and of the answer.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated

import jax
import numpy as np

from qstar.data.overlong import OVERLONG
from qstar.data.tokenizer import Tokenizer
from qstar.evals import intervals, measure, suite
from qstar.evals.measure import GREEDY, NONE, Figure, ItemRow
from qstar.policy import Policy
from qstar.settings import Count, NonNegative, OneOf, Whole
from qstar.tasks import commonsense_qa, gsm8k
from qstar.tasks.grading import extract
from qstar.tasks.items import LEAD, MARKER
from qstar.tasks.problem import Problem
from qstar.thoughts.writing import generate
from qstar.typing import Key, Keys

OPENING = " Let's think step by step."
NEXT = (LEAD, "\n\n\n")
"""Where a text goes on to something else: another question, or nothing. Differs from the released code, which cuts at
the last of several, and only of those after the first."""
STOP = ("<|endoftext|>", "</s>", "<|end_of_text|>", "<eos>", "<|im_end|>", "<|eot_id|>", "<end_of_turn>")
"""What ends texts in the models that are read: asked of a base model too, whose files name one end of several."""


@dataclass(frozen=True)
class ChainEval:
    """GSM8K and CommonsenseQA by chain of thought; items=1319 is all of GSM8K's test split."""

    gsm8k: str = field(default_factory=lambda: suite.data_folder("gsm8k"))  # a folder; empty: leave out
    commonsense_qa: str = ""  # the paper has votes for GSM8K only
    items: Count = 128  # of each, the first ones of the shuffled split
    batch_size: Count = 2  # questions answered in one batch, `votes` rows each
    every: Whole = 0  # steps between evaluations during training; 0: only before and after
    thoughts: tuple[str, ...] = ("none", "greedy")  # before every token: none, greedy (likeliest thoughts), sampled
    votes: Count = 8  # rationales per question
    temperature: NonNegative = 0.9  # sampling temperature, as in the released script; the paper's figure says 0.7
    max_tokens: Count = 384  # of a rationale
    answer_tokens: Count = 12  # of an answer
    stop: tuple[str, ...] = STOP  # tokens that end a text in addition to the tokenizer's own
    begin: str = ""  # a token before every prompt instead of the tokenizer's own (see model.begin)
    # questions longer than the model's context: error, or skip (left out and counted)
    overlong: Annotated[str, OneOf(OVERLONG)] = "error"
    gsm8k_split: Annotated[str, OneOf(suite.GSM8K_SPLITS)] = "test"  # of GSM8K

    def __post_init__(self):
        for name in ("thoughts", "stop"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        measure.check(self)
        if self.temperature == 0 and self.votes > 1 and "sampled" not in self.thoughts:
            raise ValueError(
                f"eval.temperature = 0 with eval.votes = {self.votes}: all votes would be the same; use eval.votes=1"
            )

    def measures(self, tokenizer: Tokenizer) -> list["Chain"]:
        """Raises FileNotFoundError where a folder or its file is missing, ValueError for a file with bad records."""
        from qstar.data import builders  # here: its libraries take a second to import

        suite.check_folders(gsm8k=self.gsm8k, commonsense_qa=self.commonsense_qa)
        begin = (tokenizer.id_of(self.begin),) if self.begin else tokenizer.begin
        if None in begin:
            raise ValueError(f"eval.begin = {self.begin!r} is not one token of this model's tokenizer; name one")
        named = (id for id in map(tokenizer.id_of, self.stop) if id is not None)
        stop = tuple(dict.fromkeys((*tokenizer.ends, *named)))
        measures = []
        if self.gsm8k:
            rows = suite.numbered(builders.gsm8k(self.gsm8k, self.gsm8k_split), self.gsm8k_split, self.items)
            measures.append(Chain("gsm8k_chain", tuple(map(number_problem, rows)), NUMBER, self, begin, stop))
        if self.commonsense_qa:
            rows = suite.numbered(builders.commonsense_qa(self.commonsense_qa, "dev"), "dev", self.items)
            measures.append(Chain("commonsense_qa_chain", tuple(map(letter_problem, rows)), LETTER, self, begin, stop))
        return measures


@dataclass(frozen=True)
class Closing:
    """What asks for the answer after the rationale, and how it is read."""

    text: str
    letters: str  # of the choices; empty where the answer is a number

    def answer(self, written: str) -> str:
        """The vote in what was written after it; empty where there is none."""
        if self.letters:
            return extract.letter(written, self.letters) or ""
        value = extract.number(written)
        return "" if value is None else extract.plain(value)


NUMBER = Closing("\nTherefore, the answer (arabic numerals) is", "")
LETTER = Closing("\nTherefore, among A through E, the answer is", commonsense_qa.LETTERS)


def number_problem(row: dict) -> Problem:
    """Of GSM8K, the answer spelled as `NUMBER` spells votes. Differs from the released code: signs and decimals
    count."""
    gold = extract.number(gsm8k.gold(row["answer"]))
    if gold is None:
        raise ValueError(f"question {row['id']}: there is no number in its answer {gsm8k.gold(row['answer'])!r}")
    return Problem(row["id"], row["question"], extract.plain(gold))


def letter_problem(row: dict) -> Problem:
    """Of CommonsenseQA."""
    return Problem(row["id"], commonsense_qa.question(row), row["answer"])


def prompt(problem: Problem) -> str:
    return f"{LEAD} {problem.question}{MARKER}{OPENING}"


# --- votes --------------------------------------------------------------------------------------------------------


def majority(votes: Sequence[str]) -> str:
    """The answer with most votes; of several, the one that was voted for first.

    Empty votes abstain; the result is empty where all do. Differs from the released code, where "no number" can win.
    """
    counted = Counter(vote for vote in votes if vote).most_common(1)  # equal counts stay in order of their first
    return counted[0][0] if counted else ""


def chance(votes: Sequence[str], gold: str, count: int) -> float:
    """Probability that `gold` is the majority of `count` of these votes, drawn without replacement in random order.

    An unbiased estimate of the accuracy with `count` votes, for all counts from the same votes: exact, by counting the
    subsets in which gold has m votes and no rival more. In random order each of t tied answers comes first in 1/t.
    """
    rivals = Counter(vote for vote in votes if vote)
    right = rivals.pop(gold, 0)
    silent = len(votes) - right - rivals.total()
    subsets = (
        math.comb(right, mine) * _at_most(mine, list(rivals.values()), silent, count - mine)
        for mine in range(1, min(right, count) + 1)
    )
    return math.fsum(subsets) / math.comb(len(votes), count)


def _at_most(most: int, rivals: Sequence[int], silent: int, count: int) -> float:
    """Ways to draw `count` of the others' votes, at most `most` of a rival, each over 1 + its number of ties."""
    ways = {(drawn, 0): math.comb(silent, drawn) for drawn in range(count + 1)}
    for votes in rivals:
        grown: dict[tuple[int, int], int] = Counter()
        for (drawn, ties), number in ways.items():
            for more in range(min(votes, most, count - drawn) + 1):
                grown[drawn + more, ties + (more == most)] += number * math.comb(votes, more)
        ways = grown
    return math.fsum(number / (1 + ties) for (drawn, ties), number in ways.items() if drawn == count)


# --- asking -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Written:
    """One vote."""

    rationale: str  # up to where it ends, trailing space removed
    answer: str  # what was written after the closing
    tokens: int  # all that were written, those after an end included


@dataclass(frozen=True)
class Chain:
    """A measure (`evals.measure.Measure`): questions answered by majority."""

    name: str
    items: tuple[Problem, ...]
    closing: Closing
    cfg: ChainEval
    begin: tuple[int, ...]  # ids before every prompt
    stop: tuple[int, ...]  # ids that end a text

    def lengths(self, tokenizer: Tokenizer) -> list[int]:
        return [self._length(problem, tokenizer) for problem in self.items]

    def _length(self, problem: Problem, tokenizer: Tokenizer) -> int:
        """Of the prompt followed by the rationale, or with the closing and the answer."""
        size, closing = len(self._ids(problem, tokenizer)), len(tokenizer.encode(self.closing.text))
        return size + max(self.cfg.max_tokens, closing + self.cfg.answer_tokens)

    def _ids(self, problem: Problem, tokenizer: Tokenizer, written: str = "") -> list[int]:
        """The prompt, with what was written after it; in a chat the question is a message and the rest its reply."""
        if not tokenizer.marks.chat:
            return [*self.begin, *tokenizer.encode(prompt(problem) + written)]
        return [
            *tokenizer.encode_prompt(problem.question.strip()),
            *tokenizer.encode_after((OPENING + written).lstrip()),
        ]

    def batches(self) -> list[list[int]]:
        """Questions of similar length, the longest first: one too long for the model or memory shows early."""
        order = sorted(range(len(self.items)), key=lambda i: (-len(self.items[i].question), i))
        return [order[start : start + self.cfg.batch_size] for start in range(0, len(order), self.cfg.batch_size)]

    def ask(self, subject: Policy, ways: tuple[str, ...], index: Sequence[int], key: Key) -> list[ItemRow]:
        """What is drawn for a vote depends on `key`, the question's id and the vote's number alone."""
        # Padded with the last question, so that one program serves all batches.
        asked = [self.items[i] for i in index] + [self.items[index[-1]]] * (self.cfg.batch_size - len(index))
        keys = measure.sample_keys(measure.item_keys(key, asked), self.cfg.votes)
        rows = []
        for way in ways:
            written = self._written(subject, way, asked, keys)
            for number, problem in enumerate(asked[: len(index)]):
                votes = written[number * self.cfg.votes : (number + 1) * self.cfg.votes]
                rows.append({"item": problem.id, "thoughts": way, "draw": 0} | self._columns(problem, votes))
        return rows

    def _columns(self, problem: Problem, written: Sequence[Written]) -> ItemRow:
        votes = [self.closing.answer(sample.answer) for sample in written]
        answer = majority(votes)
        return {
            "question": prompt(problem),
            "gold": problem.answer,
            "answer": answer,
            "right": answer == problem.answer,
            "right_of": [chance(votes, problem.answer, count) for count in range(1, len(votes) + 1)],
            "answered": sum(map(bool, votes)) / len(votes),
            "votes": votes,
            "rationales": [sample.rationale for sample in written],
            "answers": [sample.answer for sample in written],
            "tokens": [sample.tokens for sample in written],
        }

    def _written(self, subject: Policy, way: str, problems: Sequence[Problem], keys: Keys) -> list[Written]:
        cfg, tokenizer = self.cfg, subject.tokenizer
        room = subject.definition.abstract_model.lm.cfg.max_len
        prompts = [self._ids(problem, tokenizer) for problem in problems]
        for problem, ids in zip(problems, prompts, strict=True):
            if self._length(problem, tokenizer) > room:
                raise ValueError(
                    f"{self.name}: question {problem.id} has {len(ids)} tokens, eval.max_tokens = "
                    f"{cfg.max_tokens} and eval.answer_tokens = {cfg.answer_tokens} are more than fit after it: the "
                    f"model was built for {room}; lower them, or use a model with a longer context"
                )
        # The same keys in every way: the noise after a token is common to the answers that are compared.
        reason_keys, answer_keys = (jax.vmap(jax.random.fold_in, (0, None))(keys, phase) for phase in range(2))
        reasoned = self._continued(subject, way, prompts, reason_keys, cfg.max_tokens, cfg.votes)
        rationales = [_ended(text).rstrip() for text, _ in reasoned]
        repeated = [problem for problem in problems for _ in range(cfg.votes)]
        limit = room - cfg.answer_tokens
        closed = [
            self._closed(problem, text, tokenizer, limit) for problem, text in zip(repeated, rationales, strict=True)
        ]
        answered = self._continued(subject, way, closed, answer_keys, cfg.answer_tokens, 1)
        return [
            Written(rationale, _ended(answer), before + after)
            for rationale, (_, before), (answer, after) in zip(rationales, reasoned, answered, strict=True)
        ]

    def _continued(
        self, subject: Policy, way: str, prompts: list[list[int]], keys: Keys, tokens: int, samples: int
    ) -> list[tuple[str, int]]:
        """Text and number of tokens of every row."""
        never = subject.definition.abstract_model.forbidden
        generated = jax.device_get(
            generate(
                subject.method,
                subject.definition,
                subject.params,
                prompts,
                keys,
                max_new_tokens=tokens,
                temperature=self.cfg.temperature,
                think=way != NONE,
                greedy_thoughts=way == GREEDY,
                samples=samples,
                stop=tuple(id for id in self.stop if id not in never),
            )
        )
        if not np.isfinite(generated.logprobs[:, 0]).all():
            raise ValueError("the prediction is not a number: the model's parameters have diverged")
        ids = [generated.text(row) for row in range(len(keys))]
        return [(subject.tokenizer.decode([id for id in row if id not in self.stop]), len(row)) for row in ids]

    def _closed(self, problem: Problem, rationale: str, tokenizer: Tokenizer, limit: int) -> list[int]:
        """Prompt, rationale and closing, encoded as one text. The rationale is cut where the text would not fit."""
        while True:
            ids = self._ids(problem, tokenizer, rationale + self.closing.text)
            if len(ids) <= limit:
                return ids
            rationale = rationale[: max(len(rationale) - (len(ids) - limit), 0)]

    def figures(self, rows: Sequence[ItemRow]) -> dict[str, Figure]:
        """`accuracy` of the majority of all votes (Wilson), `accuracy_of_J` of J votes, `answered`: share of votes."""
        figures = {"accuracy": measure.share(rows, "right")}
        for count in (2**power for power in range(self.cfg.votes.bit_length())):
            if count < self.cfg.votes:
                values = np.asarray([row["right_of"][count - 1] for row in rows])
                figures[f"accuracy_of_{count}"] = Figure(float(values.mean()), *intervals.bootstrap(values, seed=0))
        answered = measure.share if self.cfg.votes == 1 else measure.mean  # of one vote it is true or false
        return figures | {"answered": answered(rows, "answered")}


def _ended(text: str) -> str:
    """The text up to where it goes on to something else."""
    return text[: min((at for at in map(text.find, NEXT) if at >= 0), default=len(text))]
