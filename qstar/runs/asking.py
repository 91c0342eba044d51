"""What an iteration samples: questions, failures again with a hint, wrong hints; every answer goes to a store."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jax
import numpy as np

from qstar.config import ImproveConfig
from qstar.data import rationales
from qstar.data.overlong import Question
from qstar.data.rationales import Sample, Store
from qstar.policy import Policy
from qstar.recipes.kept import Graded
from qstar.recipes.recipe import Plan
from qstar.runs import answering
from qstar.tasks.leaks import WronglyHinted
from qstar.tasks.problem import Problem
from qstar.training import console
from qstar.typing import Key

WRONG_HINTS = "wrong_hints"
FREE, HINTED, MISLED = range(3)  # what a key is folded with


# --- questions that the model can read ----------------------------------------------------------------------------


def fitting_asked(
    cfg: ImproveConfig, base: Policy, problems: Sequence[Problem], phase: str, left: dict[str, int]
) -> list[Problem]:
    """The questions of dev or test that the model can read; `left` records how many it cannot."""
    fit, over = answering.fitting(cfg, base, problems, lambda: answering.asking(cfg, phase))
    return _left_out(cfg, base, phase, fit, over, left)


def fitting_sampled(
    cfg: ImproveConfig, base: Policy, problems: Sequence[Problem], iteration: int, left: dict[str, int]
) -> list[Problem]:
    """The same of the questions that an iteration samples, with the hints that may be shown."""
    kinds = (cfg.task.prompt,) if cfg.improve.hint == "never" else (cfg.task.prompt, cfg.task.hinted)

    def prompts(batch: Sequence[Problem], number: int) -> list[list[str]]:
        shots = _shots(cfg, batch, iteration, number)
        return [[kind(*pair) for kind in kinds] for pair in zip(batch, shots, strict=True)]

    fit, over = answering.fitting(cfg, base, problems, lambda: prompts)
    return _left_out(cfg, base, "training", fit, over, left)


def _left_out(
    cfg: ImproveConfig, base: Policy, split: str, fit: list[Problem], over: Sequence[Question], left: dict[str, int]
) -> list[Problem]:
    answering.check_fitting(cfg, base, split, len(fit) + len(over), over)
    if over:
        left[split] = len(over)
    return fit


# --- rationales ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sampling:
    """The sampling of one iteration."""

    cfg: ImproveConfig
    policy: Policy
    base: Policy
    store: Store
    plan: Plan
    iteration: int

    def sample(self, problems: Sequence[Problem]) -> dict:
        """Fill the store with the samples of this iteration, and count them."""
        known = self._known()
        _fill(
            self.store,
            self.iteration,
            "sampling",
            answering.batches(self.cfg, self.policy, problems),
            lambda batch, number: self._batch(batch, number, known),
        )
        rows = self.store.rows(rationales.of_iteration(self.iteration), answering.COUNTED).to_pylist()
        return answering.counted(self.cfg, self.policy, rows, {problem.id: problem for problem in problems})

    def _known(self) -> set[str]:
        """Problems that a hint is not shown for, because a right rationale of them is stored."""
        if self.plan.hint != "missing":
            return set()
        before = rationales.CORRECT & rationales.up_to(self.iteration - 1)
        return set(self.store.rows(before, ["problem"])["problem"].to_pylist())

    def _batch(self, batch: Sequence[Problem], number: int, known: set[str]) -> list[Sample]:
        """Samples of these problems, and hinted ones of those that failed."""
        cfg, policy = self.cfg, self.policy
        key, shots = _key(cfg, self.iteration, number), _shots(cfg, batch, self.iteration, number)
        free = answering.answer(cfg, policy, batch, shots, False, self.plan.samples, jax.random.fold_in(key, FREE))
        right = np.reshape([verdict.correct for verdict in free.verdicts], (len(batch), -1)).any(1)
        samples = answering.samples(cfg, policy, batch, free, False)
        failed = [i for i in range(len(batch)) if not right[i] and batch[i].id not in known]
        if self.plan.hint != "never" and failed:
            again, theirs = [batch[i] for i in failed], [shots[i] for i in failed]
            hinted = answering.answer(cfg, policy, again, theirs, True, 1, jax.random.fold_in(key, HINTED))
            samples += answering.samples(cfg, policy, again, hinted, True)
        return samples

    def mislead(self, problems: Sequence[Problem]) -> dict:
        """Ask some problems, the same in every iteration, with wrong hints, and count how often these are followed.

        The answers have a store of their own: no recipe sees them.
        """
        cfg, policy = self.cfg, self.policy
        asked = misled(cfg, policy, problems, self.iteration)
        apart = answering.opened_store(self.store.folder.parent / WRONG_HINTS, self.base, cfg.task)

        def ask(batch: Sequence[Problem], number: int) -> list[Sample]:
            shots = _shots(cfg, batch, self.iteration, number, MISLED)
            key = _key(cfg, self.iteration, number, MISLED)
            answered = answering.answer(cfg, policy, batch, shots, True, 1, key)
            return answering.samples(cfg, policy, batch, answered, True)

        batches = answering.batches(cfg, policy, [question.problem for question in asked])
        _fill(apart, self.iteration, "wrong hints", batches, ask)
        rows = apart.rows(rationales.of_iteration(self.iteration), answering.FOLLOWED).to_pylist()
        return answering.followed(policy, asked, rows)


def misled(cfg: ImproveConfig, base: Policy, problems: Sequence[Problem], iteration: int) -> list[WronglyHinted]:
    """Problems with wrong hints, those that the model can read."""
    asked = answering.misled(problems, cfg.wrong_hints)

    def prompts(batch: Sequence[Problem], number: int) -> list[list[str]]:
        shots = _shots(cfg, batch, iteration, number, MISLED)
        return [[cfg.task.hinted(*pair)] for pair in zip(batch, shots, strict=True)]

    fit, over = answering.fitting(cfg, base, [question.problem for question in asked], lambda: prompts)
    answering.check_fitting(cfg, base, "wrongly hinted", len(asked), over)
    ids = {problem.id for problem in fit}
    return [question for question in asked if question.problem.id in ids]


def graded(store: Store, iteration: int) -> list[Graded]:
    """All samples up to this iteration, in the order they were written."""
    columns = ["problem", "iteration", "hinted", "correct", "stored", "tokens"]
    return [Graded(**row) for row in store.rows(rationales.up_to(iteration), columns).to_pylist()]


def _fill(
    store: Store,
    iteration: int,
    what: str,
    batches: Sequence[Sequence[Problem]],
    ask: Callable[[Sequence[Problem], int], list[Sample]],
) -> None:
    """Ask the batches of an iteration that are not stored yet, each in one of the processes."""
    with console.counting(f"iteration {iteration}: {what}") as progress:
        answering.fill(
            store,
            iteration,
            len(batches),
            lambda number: ask(batches[number], number),
            lambda number: progress(number + 1, len(batches)),
        )


def _shots(cfg: ImproveConfig, batch: Sequence[Problem], *numbers: int) -> list[Sequence[Problem]]:
    """The examples before the questions of a batch, drawn by these numbers and the seed."""
    rng = np.random.default_rng((cfg.seed, *numbers))
    return [cfg.task.shots(problem, rng) if cfg.improve.few_shot else () for problem in batch]


def _key(cfg: ImproveConfig, *numbers: int) -> Key:
    return functools.reduce(jax.random.fold_in, numbers, jax.random.key(cfg.seed))
