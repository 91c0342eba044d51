"""What self-training trains on: the choices in which STaR and its family differ, as one frozen dataclass.

An iteration samples rationales for questions, samples the failures again with the answer as a hint, grades, keeps some
of what is in the store, weighs it, and trains from the base or from where it was. STaR (Zelikman et al. 2022,
Algorithm 1) keeps the right ones of one greedy sample each and starts from the base every time. The others change a
field or two; each is a file of configs/improve. Here are the pure parts: which questions, which rows, what weight, how
many steps.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np

from qstar import settings
from qstar.data.examples import Completing, as_sampled
from qstar.methods import sft
from qstar.recipes import weighting
from qstar.settings import Count, NonNegative, OneOf, PositiveShare, Range, Share, Whole

TARGETS = ("own", "human", "direct")
HINTS = ("never", "failures", "missing")
KEEPS = ("right", "all")
WEIGHTINGS = weighting.KINDS
MEMORIES = ("iteration", "all", "newest")
STARTS = ("base", "sft")
OPTIMIZERS = ("fresh", "carried")
SCHEDULES = ("iteration", "run")


@dataclass(frozen=True)
class Improve:
    """One self-training recipe."""

    # what is learnt: own rationales, human ones, or the answer alone (direct)
    target: Annotated[str, OneOf(TARGETS)] = "own"
    human: bool = False  # human rationales are learnt beside one's own, where a question has one
    iterations: Count = 1  # of sampling, grading and training
    problems: Whole = 0  # questions of an iteration, drawn without replacement; 0, or where there are fewer: all
    samples: Count = 1  # for each of them
    # Who is sampled first: the base, or a model fine-tuned from it on the human rationales of all questions (sft). What
    # trains is the base in either case, unless restart=false.
    sample_from: Annotated[str, OneOf(STARTS)] = "base"
    sft_steps: Count = 40  # of that fine-tuning
    temperature: NonNegative = 0.0  # 0: the likeliest tokens
    top_k: Whole = 0  # tokens that are drawn from, the likeliest ones; 0: no limit
    top_p: PositiveShare = 1.0  # probability of the tokens that are drawn from, the likeliest ones; 1: all
    few_shot: bool = True  # examples stand before a question when it is sampled; never when it is learnt
    # Who is sampled again with the answer shown: never, failures, missing (nothing right stored).
    hint: Annotated[str, OneOf(HINTS)] = "failures"
    keep: Annotated[str, OneOf(KEEPS)] = "right"  # right ones, or all (no filter: the control)
    # of this iteration, of all so far, or the newest right one of every question
    memory: Annotated[str, OneOf(MEMORIES)] = "iteration"
    unique: bool = False  # equal texts of a question once
    cap: Whole = 0  # most rows of a question, drawn at random; 0: no limit
    weighting: Annotated[str, OneOf(WEIGHTINGS)] = "pg"  # pg, deviation, ml: see recipes/weighting.py
    baseline: bool = False  # the share of right samples is subtracted: wrong ones push away
    control_variate: bool = False  # subtract the newest sample, times the share of right ones of the other questions
    # what the loss is a mean over: target tokens, or questions (a sum over tokens in each)
    mean_over: Annotated[str, OneOf(sft.MEANS)] = "tokens"
    restart: bool = True  # every iteration trains from the base, or else from the one before
    optimizer: Annotated[str, OneOf(OPTIMIZERS)] = "fresh"  # moments: fresh, or carried on from the iteration before
    # of the learning rate, warm-up included: anew in every iteration, or one for the run
    schedule: Annotated[str, OneOf(SCHEDULES)] = "iteration"
    steps: Count = 40  # of the first iteration
    growth: Annotated[float, Range(1, 100)] = 1.2  # of the steps, from one iteration to the next
    max_steps: Whole = 0  # of an iteration; 0: no limit
    prompts_count: bool = False  # the loss is on prompts as well
    learn_hinted: Share = 0.0  # share of what is learnt that is also learnt behind its hint, lest a model forgets how
    verifier: bool = False  # in the end verifier.jsonl holds all samples without a hint, right or wrong, with labels

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
            raise ValueError("improve.memory=newest keeps the right ones only: it goes with keep=right, baseline=false")
        if self.control_variate and self.memory != "newest":
            raise ValueError("improve.control_variate belongs to the chain of improve.memory=newest (TRICE)")

        if self.optimizer == "carried" and self.restart:
            raise ValueError(
                "improve.optimizer=carried goes on with moments that belong to the weights of the iteration before: it "
                "needs improve.restart=false"
            )
        if self.mean_over == "questions" and self.memory != "newest":
            raise ValueError(
                f"improve.mean_over=questions with improve.memory={self.memory}: the samples of a question stand in "
                "one row with memory=newest alone; choose mean_over=tokens"
            )
        if self.sample_from == "sft" and self.target != "own":
            raise ValueError(f"improve.sample_from=sft: nothing is sampled with improve.target={self.target}")

    @property
    def signed(self) -> bool:
        """Weights subtract something, and vanish where there is nothing left to learn: they are not scaled."""
        return self.baseline or self.control_variate

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


@dataclass(frozen=True)
class Graded:
    """What is asked of a row of the store."""

    problem: str
    iteration: int
    hinted: bool
    correct: bool
    stored: str | None  # None: no text to train on
    tokens: Sequence[int] | None = None  # as they were sampled


@dataclass(frozen=True)
class Kept:
    """A completion that is trained on."""

    problem: str
    stored: str
    weight: float
    tokens: Sequence[int] | None = None  # of what was sampled, of which `stored` is a part; None: nobody sampled it


def drawn(count: int, cfg: Improve, iteration: int, seed: int) -> np.ndarray:
    """Which of `count` problems an iteration asks: without replacement, in passes, so that all come up alike often."""
    if not 0 < cfg.problems < count:
        return np.arange(count)
    places = np.arange((iteration - 1) * cfg.problems, iteration * cfg.problems)
    orders = {one: np.random.default_rng((seed, one)).permutation(count) for one in {*(places // count).tolist()}}
    # At the seam of two passes a problem may come up twice.
    found = dict.fromkeys(int(orders[place // count][place % count]) for place in places.tolist())
    return np.asarray(list(found))


def selected(rows: Sequence[Graded], cfg: Improve, iteration: int, seed: int) -> list[Kept]:
    """What an iteration trains on, of all rows up to it in the order they were written; weights average to 1, unless
    they are signed.

    Empty where nothing is right and the recipe keeps right ones only.
    """
    if cfg.memory == "newest":
        found = _chain(rows, cfg, iteration)
    else:
        now = [row for row in rows if cfg.memory == "all" or row.iteration == iteration]
        groups = _grouped(now)
        found = [
            kept for number, group in enumerate(groups.values()) for kept in _of_question(group, cfg, (seed, number))
        ]
    found = [kept for kept in found if kept.weight]
    if cfg.signed:
        return found
    size = sum(abs(kept.weight) for kept in found) / max(len(found), 1)
    return [dataclasses.replace(kept, weight=kept.weight / size) for kept in found]


def _grouped(rows: Sequence[Graded]) -> dict[str, list[Graded]]:
    groups: dict[str, list[Graded]] = {}
    for row in rows:
        groups.setdefault(row.problem, []).append(row)
    return groups


def _of_question(group: Sequence[Graded], cfg: Improve, seed: tuple[int, int]) -> list[Kept]:
    """Of the samples of one question."""
    free, hinted = [row for row in group if not row.hinted], [row for row in group if row.hinted]
    if cfg.keep == "all":
        found = [Kept(row.problem, row.stored, 1.0, row.tokens) for row in group if row.stored]
    else:
        weights = weighting.weights([row.correct for row in free], cfg.weighting, cfg.baseline) if free else []
        found = [
            Kept(row.problem, row.stored, w, row.tokens)
            for row, w in zip(free, weights, strict=True)
            if row.stored and w
        ]
        # A rationalization stands for the sample that failed: one of a question weighs as one right sample would.
        right = [row for row in hinted if row.correct and row.stored]
        found += [Kept(row.problem, row.stored, 1.0 / len(right), row.tokens) for row in right]
    if cfg.unique:
        found = list({kept.stored: kept for kept in found}.values())
    if cfg.cap and len(found) > cfg.cap:
        chosen = np.random.default_rng(seed).choice(len(found), cfg.cap, replace=False)
        found = [found[i] for i in sorted(chosen)]
    return found


def _chain(rows: Sequence[Graded], cfg: Improve, iteration: int) -> list[Kept]:
    """TRICE (Phan et al. 2023): the newest right rationale of every question asked now, less its control variate.

    A chain moves to a new sample where that is right and else stays: acceptance of an independence sampler whose target
    is the posterior given the answer. The control variate is the newest free sample itself, whose score has mean zero,
    times the share of right ones among the other questions.
    """
    memory = {row.problem: row for row in rows if row.correct and row.stored}
    newest = {row.problem: row for row in rows if row.iteration == iteration and not row.hinted}
    right = sum(row.correct for row in newest.values())
    found = []
    for problem, row in newest.items():
        if problem not in memory:
            continue
        found.append(Kept(problem, memory[problem].stored, 1.0, memory[problem].tokens))
        others = (right - row.correct) / max(len(newest) - 1, 1)
        if cfg.control_variate and row.stored and others:
            found.append(Kept(problem, row.stored, -others, row.tokens))
    return _merged(found)


def _merged(kept: Sequence[Kept]) -> list[Kept]:
    """Equal completions of a question as one, their weights added; those that cancel are gone."""
    sums: dict[tuple[str, str], float] = {}
    first: dict[tuple[str, str], Kept] = {}
    for one in kept:
        sums[one.problem, one.stored] = sums.get((one.problem, one.stored), 0.0) + one.weight
        first.setdefault((one.problem, one.stored), one)
    return [dataclasses.replace(first[text], weight=weight) for text, weight in sums.items() if abs(weight) > 1e-12]


def some(kept: Sequence[Kept], share: float, iteration: int, seed: int) -> list[Kept]:
    """A share of them, drawn at random."""
    chosen = np.random.default_rng((seed, iteration)).random(len(kept)) < share
    return [one for one, taken in zip(kept, chosen.tolist(), strict=True) if taken]


def examples(
    kept: Sequence[Kept],
    prompts: Mapping[str, str],
    grouped: bool = False,
    tokenizer: Completing | None = None,
    stop: Sequence[str] = (),
) -> list[dict]:
    """As `data/examples.py` writes them, with the prompt of each question; `grouped` keeps those of one in one row.

    With a tokenizer sampled completions have their `completion_ids`, as they were sampled; `stop` are the texts that
    end a completion.
    """
    return [
        _example(one, prompts[one.problem], tokenizer, stop) | ({"group": one.problem} if grouped else {})
        for one in kept
    ]


def _example(kept: Kept, prompt: str, tokenizer: Completing | None, stop: Sequence[str]) -> dict:
    example = {"prompt": prompt, "completion": kept.stored, "weight": kept.weight}
    if tokenizer is None or kept.tokens is None:
        return example
    ids = as_sampled(kept.tokens, kept.stored, tokenizer, stop)
    return example if ids is None else example | {"completion_ids": ids}
