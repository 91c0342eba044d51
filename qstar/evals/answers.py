"""Written answers to the questions of a task, graded by its own grader, as self-training grades them.

The model continues the task's prompt, with its few-shot examples where asked, up to one of the task's stops; what is
cut off by the task's budget of tokens is no answer. Thoughts, where the model has them, come before every token. Of
several samples the majority answer is the model's (self-consistency, Wang et al. 2023).
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import jax
import numpy as np

from qstar.data.overlong import OVERLONG
from qstar.data.tokenizer import Tokenizer
from qstar.decoding import generate as decoding
from qstar.decoding import stops
from qstar.decoding.sampling import Sampling
from qstar.evals import chain, measure, suite
from qstar.evals.measure import GREEDY, NONE, Figure, ItemRow
from qstar.policy import Policy
from qstar.settings import Count, NonNegative, OneOf, Whole
from qstar.tasks import problem as tasks
from qstar.tasks.grading import sandbox
from qstar.tasks.grading.grade import Verdict
from qstar.tasks.grading.sandbox import SandboxConfig
from qstar.tasks.problem import Problem
from qstar.thoughts.writing import generate
from qstar.typing import Key, Keys


@dataclass(frozen=True)
class TaskEval:
    """Questions of any task, answered in writing and graded by the task; task@eval.task=NAME picks it."""

    task: Any = "???"  # which questions, and how they are prompted
    split: Annotated[str, OneOf(tasks.SPLITS)] = "dev"  # `dev` for choices, `test` for numbers that are reported
    items: Count = 100  # number of questions, from the first of the shuffled split
    few_shot: bool = True  # few-shot examples of the task before a question
    samples: Count = 1  # answers to a question, of which the most frequent counts
    temperature: NonNegative = 0.0  # sampling temperature; 0: the likeliest tokens
    batch_size: Count = 8  # questions answered in one batch, `samples` rows each
    every: Whole = 0  # steps between evaluations during training; 0: only before and after
    thoughts: tuple[str, ...] = ("none", "greedy")  # before every token: none, greedy (likeliest thoughts), sampled
    # questions longer than the model's context: error, or skip (left out and counted)
    overlong: Annotated[str, OneOf(OVERLONG)] = "error"
    sandbox: SandboxConfig = field(default_factory=SandboxConfig)  # isolation of the grading processes

    def __post_init__(self):
        object.__setattr__(self, "thoughts", tuple(self.thoughts))
        measure.check(self)
        if isinstance(self.task, str):
            raise ValueError(
                f"eval.task = {self.task!r}: expected a task with its settings: task@eval.task={self.task}"
            )
        if self.temperature == 0 and self.samples > 1 and "sampled" not in self.thoughts:
            raise ValueError(
                f"eval.temperature = 0 with eval.samples = {self.samples}: all of them would be the same; use "
                "eval.samples=1"
            )

    def measures(self, tokenizer: Tokenizer) -> list["Answers"]:
        """Raises what the task raises where its files are not there or bad, ValueError for an empty split."""
        sandbox.configure(self.sandbox)
        problems = self.task.problems(self.split)
        if not problems:
            raise ValueError(f"eval.split = {self.split!r}: {tasks.no_questions(self.task.name, self.split)}")
        order = np.random.default_rng(suite.EVAL_SEED).permutation(len(problems))[: self.items]
        name = f"{type(self.task).__name__.lower()}_written"  # of the table and its file
        return [Answers(name, tuple(self._prompted(problems[i]) for i in order), self)]

    def _prompted(self, problem: Problem) -> "Prompted":
        rng = np.random.default_rng((suite.EVAL_SEED, zlib.crc32(problem.id.encode())))
        shots = self.task.shots(problem, rng) if self.few_shot else ()
        return Prompted(problem, self.task.prompt(problem, shots))


@dataclass(frozen=True)
class Prompted:
    """A question with what the model continues."""

    problem: Problem
    prompt: str

    @property
    def id(self) -> str:
        return self.problem.id


@dataclass(frozen=True)
class Answers:
    """A measure (`evals.measure.Measure`)."""

    name: str
    items: tuple[Prompted, ...]
    cfg: TaskEval

    def room(self, tokenizer: Tokenizer) -> int:
        """Tokens that the longest answer may have."""
        return max(self.cfg.task.budget(item.problem, tokenizer) for item in self.items)

    def lengths(self, tokenizer: Tokenizer) -> list[int]:
        room = self.room(tokenizer)
        return [len(tokenizer.encode_prompt(item.prompt)) + room for item in self.items]

    def batches(self) -> list[list[int]]:
        """Questions of similar length, the longest first: one too long for the model or memory shows early."""
        order = sorted(range(len(self.items)), key=lambda i: (-len(self.items[i].prompt), i))
        return [order[start : start + self.cfg.batch_size] for start in range(0, len(order), self.cfg.batch_size)]

    def ask(self, subject: Policy, ways: tuple[str, ...], index: Sequence[int], key: Key) -> list[ItemRow]:
        """What is drawn for a sample depends on `key`, the question's id and the sample's number alone."""
        # Padded with the last question, so that one program serves all batches.
        asked = [self.items[i] for i in index] + [self.items[index[-1]]] * (self.cfg.batch_size - len(index))
        keys = measure.sample_keys(measure.item_keys(key, asked), self.cfg.samples)
        rows = []
        for way in ways:
            written = self._continued(subject, way, [item.prompt for item in asked], keys)
            for number, item in enumerate(asked[: len(index)]):
                mine = written[number * self.cfg.samples : (number + 1) * self.cfg.samples]
                samples = [self._sample(ids, item.problem, subject) for ids in mine]
                rows.append({"item": item.id, "thoughts": way, "draw": 0} | self._columns(item.problem, samples))
        return rows

    def _continued(self, subject: Policy, way: str, prompts: Sequence[str], keys: Keys) -> list[list[int]]:
        """The tokens of every row, beyond its stop in ways that think."""
        cfg, tokenizer, model = self.cfg, subject.tokenizer, subject.definition.abstract_model
        room = self.room(tokenizer)
        if way == NONE:
            sampling = Sampling(
                cfg.temperature, max_new_tokens=room, stop=tuple(cfg.task.stop), forbidden_ids=model.forbidden
            )
            written = decoding.generate(
                subject.definition, subject.params, tokenizer, prompts, keys, sampling, samples=cfg.samples,
                batch_size=cfg.batch_size,
            )  # fmt: skip
            return [tokens.tolist() for tokens in written.tokens]
        generated = jax.device_get(
            generate(
                subject.method, subject.definition, subject.params,
                [tokenizer.encode_prompt(prompt) for prompt in prompts], keys, max_new_tokens=room,
                temperature=cfg.temperature, greedy_thoughts=way == GREEDY, samples=cfg.samples,
                stop=tuple(id for id in tokenizer.ends if id not in model.forbidden),
            )
        )  # fmt: skip
        if not np.isfinite(generated.logprobs[:, 0]).all():
            raise ValueError("the prediction is not a number: the model's parameters have diverged")
        return [generated.text(row) for row in range(len(keys))]

    def _sample(self, ids: list[int], problem: Problem, subject: Policy) -> "_Sample":
        """What was written within the budget of the question, whatever is asked beside it."""
        ids = ids[: self.cfg.task.budget(problem, subject.tokenizer)]
        before = stops.without_stop(ids, frozenset(subject.tokenizer.ends))
        ending = stops.first(subject.tokenizer.decode, before, self.cfg.task.stop)
        if ending:
            return _Sample(ending.text, True, ending.count)
        return _Sample(subject.tokenizer.decode(before), len(before) < len(ids), len(ids))

    def _columns(self, problem: Problem, samples: Sequence["_Sample"]) -> ItemRow:
        verdicts = [tasks.graded(self.cfg.task, problem, sample.text, sample.finished) for sample in samples]
        answer = chain.majority([verdict.answer for verdict in verdicts])
        return {
            "question": problem.question,
            "group": problem.group,
            "gold": problem.answer,
            "answer": answer,
            "right": _right(verdicts, answer),
            "right_alone": sum(verdict.correct for verdict in verdicts) / len(verdicts),
            "answered": sum(bool(verdict.answer) for verdict in verdicts) / len(verdicts),
            "answers": [verdict.answer for verdict in verdicts],
            "reasons": [verdict.reason for verdict in verdicts],
            "written": [sample.text for sample in samples],
            "tokens": [sample.tokens for sample in samples],
        }

    def figures(self, rows: Sequence[ItemRow]) -> dict[str, Figure]:
        """`accuracy` of the answer of most samples (Wilson), `accuracy_of_1` of one, `answered`: share of samples."""
        figures = {"accuracy": measure.share(rows, "right")}
        if self.cfg.samples > 1:
            figures["accuracy_of_1"] = measure.mean(rows, "right_alone")
        answered = measure.share if self.cfg.samples == 1 else measure.mean  # of one sample it is true or false
        return figures | {"answered": answered(rows, "answered")}


@dataclass(frozen=True)
class _Sample:
    text: str  # before its stop
    finished: bool
    tokens: int


def _right(verdicts: Sequence[Verdict], answer: str) -> bool:
    """Whether the answer of most is right; of samples that declare none, the verdict of the first."""
    return next((verdict.correct for verdict in verdicts if verdict.answer == answer), verdicts[0].correct)
