"""Any task of `reasoning_gym` (extra `gym`) as a task of self-training: made from a seed, scored by its own scorer.

Answers stand between <answer> and </answer>, the package's own form, because some have several lines. A question is a
function of seed + number there, so the splits' seeds lie far apart; questions of test are left out of dev, those of
both out of train. Questions whose recorded answer cannot be right are left out too, and counted in the log.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

import numpy as np

from qstar import settings
from qstar.settings import Range, Seed
from qstar.tasks import gym, problem
from qstar.tasks.grading.grade import Declared, Grader
from qstar.tasks.problem import END, Problem
from qstar.tasks.worded import Worded

OPENING, CLOSING = "<answer>", "</answer>"
APART = 10_000_000  # seeds between splits
LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class Puzzles(Worded):
    """Questions of one registered task. Few-shot examples are drawn from train; they show question and answer."""

    task: str = "chain_sum"  # its name in reasoning_gym
    options: dict[str, Any] = field(default_factory=dict)  # of the task, such as min_digits
    train: Annotated[int, Range(1, APART)] = 1000  # questions
    dev: Annotated[int, Range(1, APART)] = 200  # questions
    test: Annotated[int, Range(1, APART)] = 500  # questions
    seed: Seed = 0  # of the questions
    num_shots: Annotated[int, Range(0, APART)] = 0  # few-shot examples before a question

    def __post_init__(self):
        settings.check(self, "task")
        taken = {"seed", "size"} & set(self.options)
        if taken:
            raise ValueError(f"task.options has {', '.join(sorted(taken))}: give seed=, train=, dev= and test= instead")

    @property
    def name(self) -> str:
        return f"reasoning_gym {self.task} {dict(self.options)}, seed {self.seed}"

    @property
    def grader(self) -> Grader:
        return gym.ReasoningGym(Declared(OPENING, CLOSING), strict=self.strict)

    def problems(self, split: str) -> Sequence[Problem]:
        """Different questions; fewer than asked for where the task repeats itself."""
        later = problem.SPLITS[problem.SPLITS.index(problem.known(split)) + 1 :]
        seen = {example.question for other in later for example in self._made(other)}
        by_question = {
            example.question: example for example in reversed(self._made(split)) if example.question not in seen
        }
        if not by_question:
            raise ValueError(f"task {self.task}: all questions of {split} are in {' or '.join(later)} too; it has few")
        return list(reversed(by_question.values()))

    def _made(self, split: str) -> list[Problem]:
        seed, size = (self.seed * len(problem.SPLITS) + problem.SPLITS.index(split)) * APART, getattr(self, split)
        questions = gym.questions(self.task, {**self.options, "seed": seed, "size": size}, 0, size)
        if any(made.answer.strip() for made in questions):
            questions = [made if made.answer.strip() else _unanswered(made) for made in questions]
        flawed = [made for made in questions if made.flaw]
        if flawed:
            LOGGER.warning(
                "task %s, %s: %d of %d questions are left out, because their recorded answer cannot be right (%s)",
                *(self.task, split, len(flawed), size, flawed[0].flaw),
            )
        if len(flawed) == size:
            raise ValueError(f"task {self.task}: the recorded answer of no question of {split} can be right")
        return [self._problem(split, number, made) for number, made in enumerate(questions) if not made.flaw]

    def _problem(self, split: str, number: int, made: gym.Question) -> Problem:
        if not made.answer.strip():
            raise ValueError(f"task {self.task} gives no answer to question {number}, only scores: there is no hint")
        return Problem(f"{split}-{number}", made.question.strip(), made.gold, hint=made.answer, group=self.task)

    def shots(self, problem: Problem, rng: np.random.Generator) -> Sequence[Problem]:
        """Questions of train, none of them the question."""
        if not self.num_shots:
            return []
        others = [example for example in self.problems("train") if example.question != problem.question]
        return [others[i] for i in rng.permutation(len(others))[: self.num_shots]]

    def completion(self, rationale: str, problem: Problem) -> str:
        return (f" {rationale}\n" if rationale else " ") + f"{OPENING}{problem.hint}{CLOSING}{END}"

    def cleaned(self, written: str) -> str | None:
        end = written.find(CLOSING, written.find(OPENING)) if OPENING in written else -1
        return None if end < 0 else f" {written[: end + len(CLOSING)].strip()}{END}"

    def reasons(self, stored: str) -> str | None:
        before, mark, _ = stored.partition(OPENING)
        return before if mark else None

    def spellings(self, problem: Problem) -> tuple[str, ...]:
        return (problem.hint,)


def _unanswered(made: gym.Question) -> gym.Question:
    return replace(made, flaw="no answer is recorded")
