"""What a recipe of self-training is: three answers for every iteration, and the settings that they depend on.

    plan(iteration)    which questions are sampled, and which again with the answer shown
    select(samples)    what is trained on, with weights
    train(iteration)   by which method, from which weights, for how many steps, with which optimiser state and schedule

`runs/improve.py` does what they say. The answers given here are those of the family of STaR: keep what is right.
A recipe of its own (`trice.py`, `ssd.py`, ...) gives other answers; the rest are settings, each file a paper's.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np

from qstar import settings
from qstar.methods import sft
from qstar.methods.protocol import Method
from qstar.methods.sft import SFT
from qstar.recipes import kept as keeping
from qstar.recipes import weighting
from qstar.recipes.kept import Graded, Kept, Preferred
from qstar.settings import Count, NonNegative, OneOf, Positive, PositiveShare, Range, Share, Whole
from qstar.tasks.problem import Problem, Task

Target = Annotated[str, OneOf(("own", "human", "direct"))]
Hint = Annotated[str, OneOf(("never", "failures", "missing"))]
Keep = Annotated[str, OneOf(("right", "all"))]
Memory = Annotated[str, OneOf(("iteration", "all", "newest"))]
Weighting = Annotated[str, OneOf(weighting.KINDS)]
Start = Annotated[str, OneOf(("base", "sft"))]
Optimizer = Annotated[str, OneOf(("fresh", "carried"))]
Schedule = Annotated[str, OneOf(("iteration", "run"))]
MeanOver = Annotated[str, OneOf(sft.MEANS)]
Objective = Annotated[str, OneOf(("sft", "dpo"))]
Growth = Annotated[float, Range(1, 100)]


@dataclass(frozen=True)
class Plan:
    """What an iteration samples."""

    questions: Sequence[int]  # places among the training questions
    samples: int  # of each question; 0: nothing is sampled
    hint: str  # questions sampled again with the answer shown: never, failures, missing (nothing right stored)


@dataclass(frozen=True)
class Training:
    """How an iteration trains."""

    method: Method
    steps: int
    go_on: bool = False  # from the weights of the iteration before, or else from the base
    carry_moments: bool = False  # of the optimiser, from the iteration before
    schedule_steps: int = 0  # that one schedule spans, over all iterations; 0: the schedule restarts
    steps_before: int = 0  # of that schedule
    prompts_count: bool = False  # the loss includes prompts


@dataclass(frozen=True)
class Recipe:
    """One self-training recipe; settings are grouped by the method that uses them."""

    iterations: Count = 1  # rounds of sampling, grading and training

    # --- plan: which questions are sampled, and how

    problems: Whole = 0  # questions of an iteration, drawn without replacement; 0, or if there are fewer: all
    samples: Count = 1  # samples of each question
    # The model sampled first: the base, or one fine-tuned from it on the human rationales of all questions (sft). The
    # base is what trains in either case, unless restart=false.
    sample_from: Start = "base"
    sft_steps: Count = 40  # steps of that fine-tuning
    temperature: NonNegative = 0.0  # 0: the likeliest tokens
    top_k: Whole = 0  # sample among the k likeliest tokens only; 0: all
    top_p: PositiveShare = 1.0  # sample among the likeliest tokens that together have this probability; 1: all
    few_shot: bool = True  # few-shot examples before a sampled question; never in training
    # Which questions are sampled again with the answer shown: never, failures, missing (nothing right stored).
    hint: Hint = "failures"

    # --- select: what is trained on, with which weights

    # what is trained on: own rationales, human ones, or the answer alone (direct)
    target: Target = "own"
    human: bool = False  # also train on human rationales
    keep: Keep = "right"  # samples to keep: right ones, or all (no filter: the control)
    # samples of this iteration, of all so far, or the newest right one of every question
    memory: Memory = "iteration"
    unique: bool = False  # keep equal texts of a question once
    cap: Whole = 0  # maximal number of rows of a question, drawn at random; 0: no limit
    weighting: Weighting = "pg"  # pg, deviation, ml: see recipes/weighting.py
    baseline: bool = False  # subtract the share of right samples: wrong ones get negative weights
    control_variate: bool = False  # subtract the newest sample, times the share of right ones of the other questions
    learn_hinted: Share = 0.0  # share of the training set that is also trained on with its hint
    # at the end verifier.jsonl holds all samples without a hint with labels, pairs.jsonl right ones against wrong ones
    verifier: bool = False

    # --- train: from which weights, for how long, on which loss

    restart: bool = True  # every iteration trains from the base; false: from the one before
    optimizer: Optimizer = "fresh"  # moments: fresh, or carried over from the iteration before
    # of the learning rate, warm-up included: restarted in every iteration, or one for the run
    schedule: Schedule = "iteration"
    steps: Count = 40  # steps of the first iteration
    growth: Growth = 1.2  # growth of the steps, from one iteration to the next
    max_steps: Whole = 0  # maximal number of steps in an iteration; 0: no limit
    # what the loss is a mean over: target tokens, or questions (a sum over tokens in each)
    mean_over: MeanOver = "tokens"
    prompts_count: bool = False  # the loss includes prompts
    # trained on: what is kept (sft), or right samples against wrong ones of a question (dpo: IRPO)
    objective: Objective = "sft"
    pairs: Count = 10  # with dpo: pairs of a question
    beta: Positive = 0.1  # with dpo: strength of the pull towards the weights before the iteration
    nll_weight: NonNegative = 1.0  # with dpo: weight of the NLL per token of right samples

    asks_itself: ClassVar[bool] = True  # rationales are sampled, or else what trains is given
    # Settings that make any recipe this one, whatever it was: `improve=star improve.keep=all` is SSD.
    made_by: ClassVar[dict[str, object]] = {}

    def __post_init__(self):
        settings.check(self, "improve")
        if not self.max_steps and self._grown(self.iterations) > settings.INT32:
            raise ValueError(
                f"improve.growth = {self.growth} over improve.iterations = {self.iterations} makes more steps than can "
                "be counted: give improve.max_steps, or less of either"
            )
        if self.learn_hinted and self.hint == "never":
            raise ValueError(
                f"improve.learn_hinted = {self.learn_hinted}, but no hint is ever shown with improve.hint=never: "
                "choose one"
            )
        if self.samples > 1 and self.temperature == 0:
            raise ValueError(
                f"improve.samples = {self.samples} at temperature 0 would be the same text each time: give "
                "improve.temperature=0.7, or one sample"
            )
        if self.verifier and self.target != "own":
            raise ValueError(f"improve.verifier: nothing is sampled with improve.target={self.target}; choose own")
        if self.keep == "all" and self.baseline:
            raise ValueError("improve.keep=all ignores the grades, improve.baseline=true weighs by them: choose one")
        if self.memory == "newest" and (self.keep == "all" or self.baseline):
            raise ValueError("improve.memory=newest keeps the right ones only: it needs keep=right, baseline=false")
        if self.control_variate and self.memory != "newest":
            raise ValueError("improve.control_variate belongs to the chain of improve.memory=newest (TRICE)")
        if self.optimizer == "carried" and self.restart:
            raise ValueError(
                "improve.optimizer=carried continues with moments that belong to the weights of the iteration before: "
                "it needs improve.restart=false"
            )
        if self.mean_over == "questions" and self.memory != "newest":
            raise ValueError(
                f"improve.mean_over=questions with improve.memory={self.memory}: the samples of a question stand in "
                "one row with memory=newest alone; choose mean_over=tokens"
            )
        if self.sample_from == "sft" and self.target != "own":
            raise ValueError(f"improve.sample_from=sft: nothing is sampled with improve.target={self.target}")

    def check_questions(self, name: str, problems: Sequence[Problem]) -> None:
        """Raise ValueError where the training questions of the task of this name lack what the recipe needs."""
        if self.sample_from == "sft" and not any(problem.rationale for problem in problems):
            raise ValueError(
                f"improve.sample_from=sft: no problem of {name} has a human rationale to fine-tune on; sample "
                "from the base with improve.sample_from=base improve.human=false"
            )

    # --- which questions ----------------------------------------------------------------------------------------------

    def plan(self, iteration: int, count: int, seed: int) -> Plan:
        """Of `count` training questions."""
        questions = drawn(count, self.problems, iteration, seed)
        return Plan(questions, self.samples if self.asks_itself else 0, self.hint)

    # --- what is trained on -------------------------------------------------------------------------------------------

    def first(self, task: Task, problems: Sequence[Problem]) -> list[Kept]:
        """What the base is fine-tuned on before it is sampled for the first time; usually nothing."""
        return keeping.human(task, problems) if self.sample_from == "sft" else []

    def given(self, task: Task, problems: Sequence[Problem]) -> list[Kept]:
        """What of these questions is trained on that was not sampled."""
        return keeping.human(task, problems) if self.human else []

    def select(self, samples: Sequence[Graded], iteration: int, seed: int) -> list[Kept] | list[Preferred]:
        """What of all samples up to this iteration, in the order they were written, is trained on.

        Right ones; their weights average to 1. Empty where nothing is right.
        """
        return keeping.averaged(self.of_questions(samples, iteration, seed))

    def of_questions(self, samples: Sequence[Graded], iteration: int, seed: int) -> list[Kept]:
        """What is kept of the samples of each question."""
        remembered = samples if self.memory == "all" else keeping.of_iteration(samples, iteration)
        completions = []
        for number, group in enumerate(keeping.by_question(remembered)):
            kept = self.of_question(group)
            if self.unique:
                kept = keeping.unique(kept)
            if self.cap:
                kept = keeping.some_of(kept, self.cap, (seed, number))
            completions += kept
        return completions

    def of_question(self, group: Sequence[Graded]) -> list[Kept]:
        return keeping.right(group, self.weighting) + keeping.rationalized(group)

    def after_hints(self, kept: Sequence[Kept], iteration: int, seed: int) -> list[Kept]:
        """What of it is also trained on after its hint."""
        return keeping.share(kept, self.learn_hinted, iteration, seed)

    @property
    def grouped(self) -> bool:
        """The completions of a question share one row of training."""
        return self.mean_over == "questions"

    # --- how it is trained --------------------------------------------------------------------------------------------

    def train(self, iteration: int) -> Training:
        """From iteration 1 on; 0 is the fine-tuning on what `first` gives."""
        if iteration == 0:
            return Training(SFT(), self.sft_steps, prompts_count=self.prompts_count)
        whole = self.schedule == "run"
        return Training(
            SFT(mean_over=self.mean_over),
            self.steps_of(iteration),
            go_on=not self.restart,
            carry_moments=self.optimizer == "carried",
            schedule_steps=self.steps_before(self.iterations + 1) if whole else 0,
            steps_before=self.steps_before(iteration) if whole else 0,
            prompts_count=self.prompts_count,
        )

    def steps_before(self, iteration: int) -> int:
        """Of all iterations before this one."""
        return sum(self.steps_of(before) for before in range(1, iteration))

    def steps_of(self, iteration: int) -> int:
        """Of training in this iteration, from 1."""
        steps = self._grown(iteration)
        return min(steps, self.max_steps) if self.max_steps else steps

    def _grown(self, iteration: int) -> int:
        """Steps of an iteration without a limit, or one more than can be counted."""
        if math.log(self.steps) + (iteration - 1) * math.log(self.growth) > math.log(settings.INT32):
            return settings.INT32 + 1
        return round(self.steps * self.growth ** (iteration - 1))


def drawn(count: int, size: int, iteration: int, seed: int) -> np.ndarray:
    """`size` of `count` questions for an iteration: without replacement, in passes, so all are drawn equally often.

    All of them where `size` is 0 or no less than `count`.
    """
    if not 0 < size < count:
        return np.arange(count)
    places = np.arange((iteration - 1) * size, iteration * size)
    orders = {
        number: np.random.default_rng((seed, number)).permutation(count) for number in {*(places // count).tolist()}
    }
    # At the seam of two passes a question may be drawn twice.
    chosen = dict.fromkeys(int(orders[place // count][place % count]) for place in places.tolist())
    return np.asarray(list(chosen))
