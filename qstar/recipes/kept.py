"""The pieces that recipes choose with: graded samples in, completions with weights out."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from qstar.recipes import weighting
from qstar.tasks.problem import Problem, Task


@dataclass(frozen=True)
class Graded:
    """A sample of the store, as much of it as a choice depends on."""

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


@dataclass(frozen=True)
class Preferred:
    """Two completions of a question of which the first is the better one."""

    problem: str
    chosen: Kept
    rejected: Kept


def kept(sample: Graded, weight: float) -> Kept:
    return Kept(sample.problem, sample.stored, weight, sample.tokens)


# --- samples ------------------------------------------------------------------------------------------------------


def of_iteration(samples: Sequence[Graded], iteration: int) -> list[Graded]:
    return [sample for sample in samples if sample.iteration == iteration]


def by_question(samples: Sequence[Graded]) -> list[list[Graded]]:
    """The samples of each question, in the order of the first ones."""
    groups: dict[str, list[Graded]] = {}
    for sample in samples:
        groups.setdefault(sample.problem, []).append(sample)
    return list(groups.values())


def right(group: Sequence[Graded], kind: str, baseline: bool = False) -> list[Kept]:
    """The right ones of a question's free samples, weighed as `weighting` says; with a baseline also the wrong ones."""
    free = [sample for sample in group if not sample.hinted]
    weights = weighting.weights([sample.correct for sample in free], kind, baseline) if free else []
    return [kept(sample, weight) for sample, weight in zip(free, weights, strict=True) if sample.stored and weight]


def rationalized(group: Sequence[Graded]) -> list[Kept]:
    """The right ones of a question's hinted samples.

    A rationalization stands for the sample that failed: one of a question weighs as one right sample would.
    """
    rationalizations = [sample for sample in group if sample.hinted and sample.correct and sample.stored]
    return [kept(sample, 1.0 / len(rationalizations)) for sample in rationalizations]


def preferred(group: Sequence[Graded], count: int, distinct: bool = False) -> list[Preferred]:
    """`count` pairs of right and wrong samples of a question, none where it lacks either.

    Both lists are gone through side by side, from the beginning again where one ends (Pang et al. 2024, section 2).
    With `distinct`, equal texts of a list count once.
    """
    sides = [
        [kept(sample, 1.0) for sample in group if sample.correct == correct and sample.stored and not sample.hinted]
        for correct in (True, False)
    ]
    right, wrong = map(unique, sides) if distinct else sides
    if not right or not wrong:
        return []
    pairs = ((right[number % len(right)], wrong[number % len(wrong)]) for number in range(count))
    return [
        Preferred(chosen.problem, chosen, rejected) for chosen, rejected in pairs if chosen.stored != rejected.stored
    ]


# --- what is given ------------------------------------------------------------------------------------------------


def human(task: Task, problems: Sequence[Problem]) -> list[Kept]:
    """Human rationales, of the questions that have one."""
    return [
        Kept(problem.id, task.completion(problem.rationale, problem), 1.0) for problem in problems if problem.rationale
    ]


def answers(task: Task, problems: Sequence[Problem]) -> list[Kept]:
    """Answers alone."""
    return [Kept(problem.id, task.direct(problem), 1.0) for problem in problems]


# --- completions --------------------------------------------------------------------------------------------------


def unique(completions: Sequence[Kept]) -> list[Kept]:
    """Equal texts once: the last of them, in the place of the first."""
    return list({completion.stored: completion for completion in completions}.values())


def some_of(completions: Sequence[Kept], count: int, seed: tuple[int, int]) -> list[Kept]:
    """At most this many, drawn at random."""
    if len(completions) <= count:
        return list(completions)
    chosen = np.random.default_rng(seed).choice(len(completions), count, replace=False)
    return [completions[i] for i in sorted(chosen)]


def share(completions: Sequence[Kept], size: float, iteration: int, seed: int) -> list[Kept]:
    """A share of them, drawn at random."""
    chosen = np.random.default_rng((seed, iteration)).random(len(completions)) < size
    return [completion for completion, taken in zip(completions, chosen.tolist(), strict=True) if taken]


def weighed(completions: Sequence[Kept]) -> list[Kept]:
    """Those whose weight is not 0."""
    return [completion for completion in completions if completion.weight]


def averaged(completions: Sequence[Kept]) -> list[Kept]:
    """Those whose weight is not 0, with weights that average to 1."""
    nonzero = weighed(completions)
    size = sum(abs(completion.weight) for completion in nonzero) / max(len(nonzero), 1)
    return [dataclasses.replace(completion, weight=completion.weight / size) for completion in nonzero]


def merged(completions: Sequence[Kept]) -> list[Kept]:
    """Equal completions of a question as one, their weights added; those that cancel are dropped."""
    sums: dict[tuple[str, str], float] = {}
    first: dict[tuple[str, str], Kept] = {}
    for completion in completions:
        sums[completion.problem, completion.stored] = (
            sums.get((completion.problem, completion.stored), 0.0) + completion.weight
        )
        first.setdefault((completion.problem, completion.stored), completion)
    return [dataclasses.replace(first[text], weight=weight) for text, weight in sums.items() if abs(weight) > 1e-12]
