"""Rollouts: questions of a task, answered by the weights that train, graded, and trained on in the same step.

What step k trains on is a function of the seed, of k and of the state after k - 1 steps; the position in the questions
and the moving average of the rewards are kept with each checkpoint. The token ids that were sampled are the ids that
are trained on. A prompt is trained on once for as many of its samples as may stand in one row (`beside`).
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jax
import numpy as np

from qstar import sharding
from qstar.data import labelled, overlong
from qstar.data.on_policy import RolloutData
from qstar.data.tokenizer import Tokenizer
from qstar.decoding import generate as decoding
from qstar.decoding.generate import Written
from qstar.decoding.sampling import Sampling
from qstar.methods.protocol import Credits
from qstar.models.definition import join
from qstar.ops import rows as text_rows
from qstar.structs import Rollouts, TrainState
from qstar.tasks import problem as tasks
from qstar.tasks.grading import sandbox
from qstar.tasks.grading.grade import Verdict
from qstar.tasks.problem import Problem, Task
from qstar.training import console, machine
from qstar.training.build import Program
from qstar.training.sources import Position
from qstar.typing import Params

Spelled = tuple[Sequence[int], Sequence[Sequence[int]]]
"""Token ids of a prompt, and of each step after it."""
Scores = Callable[[Sequence[Spelled]], Sequence[np.ndarray]]
"""A score for each step of every text."""

FITS = 4  # lengths that rows may have, so that few programs are compiled: quarters of the longest
LARGE = 2**24  # weights of a model that freed memory is given back for
KEPT = 0.9  # of the moving average of rewards, from one step to the next
QUESTIONS, SHOTS, TOKENS = range(3)  # what draws with the seed


@dataclass(frozen=True)
class Rollout:
    """A text that was sampled after the prompt of a problem, and what was said of it."""

    problem: Problem
    asked: str  # the prompt as text
    prompt: tuple[int, ...]
    tokens: tuple[int, ...]
    text: str  # before the stop
    ending: str  # the stop
    behaviour: np.ndarray  # log-probs of the tokens where they were sampled
    margins: np.ndarray  # nats between the two likeliest tokens
    verdict: Verdict
    finished: bool
    rewards: dict[str, float]
    earned: tuple[tuple[int, float], ...] = ()  # by a scorer: index of the token, and what was earned with it

    @property
    def reward(self) -> float:
        return sum(self.rewards.values())


class RolloutSource:
    """The rollouts of a run, step by step.

    Args:
        rows: rollouts of a step: `cfg.samples` of each of rows / cfg.samples questions.
        seen: told the number of each step and its rollouts; those of questions that were replaced are left out.
        scores: of the scorer that the rewards name.

    Raises ValueError where no question fits into a row, rows and samples do not divide, the task does not know what the
    rewards ask for, or the scorer is missing.
    """

    def __init__(
        self,
        cfg: RolloutData,
        task: Task,
        program: Program,
        tokenizer: Tokenizer,
        rows: int,
        seed: int,
        seen: Callable[[int, Sequence[Rollout]], None] = lambda step, rollouts: None,
        scores: Scores | None = None,
    ):
        check(cfg, program.method, rows)
        if bool(cfg.rewards.scorer) != (scores is not None):
            raise ValueError(f"data.rewards.scorer = {cfg.rewards.scorer!r}: expected its scores, and none without one")
        if jax.process_count() > 1:
            raise ValueError(
                f"rollouts are sampled by one process, and there are {jax.process_count()}: start one, on as many of "
                "its devices as there are"
            )
        sandbox.configure(cfg.sandbox)
        self._cfg, self._task, self._program, self._tokenizer = cfg, task, program, tokenizer
        self._rows, self._seed, self._seen, self._scores = rows, seed, seen, scores
        self.problems, self._longest_prompt, self._room = self._fitting(list(task.problems("train")))
        self._beside = beside(cfg.samples, rows, program)
        if cfg.rewards.steps and task.truth(self.problems[0], ()) is None:
            raise ValueError(
                f"data.rewards.steps = {cfg.rewards.steps}: {task.name} does not know which steps are right; "
                "arithmetic, countdown and cups do. Elsewhere give a reward model, data.rewards.scorer=RUN"
            )
        self._asked, self._past = 0, 0.0  # questions so far; moving average of the rewards

    def next(self, state: TrainState) -> Rollouts:
        step = int(state.step)
        groups = self._groups(join(state.params, state.frozen), step)
        if self._program.definition.size > LARGE:  # of a small model it would be a tenth of the step
            machine.give_back()  # what sampling freed is no room for what the update takes: kept, both would be held
        self._seen(step + 1, [rollout for group in groups for rollout in group])
        batch = self._batch(groups)
        mean = float(batch.reward.sum(-1).mean())
        self._past = KEPT * self._past + (1 - KEPT) * mean if step else mean
        return batch

    def _groups(self, params: Params, step: int) -> list[list[Rollout]]:
        """The samples of as many questions as a step has; those that say nothing are replaced where `cfg.dead` says."""
        count, rounds = self._rows // self._cfg.samples, self._cfg.refills if self._cfg.dead == "refill" else 0
        groups: list[list[Rollout]] = []
        for attempt in range(rounds + 1):
            problems = [self._question(later) for later in range(count - len(groups))]
            sampled = self._sampled(params, problems, step, attempt)
            self._asked += len(problems)
            groups += sampled if attempt == rounds else [group for group in sampled if not _dead(group)]
            if len(groups) == count:
                break
        return groups

    def position(self) -> Position:
        return {"questions": self._asked, "past": self._past}

    def restore(self, position: Position) -> None:
        self._asked, self._past = int(position["questions"]), float(position["past"])

    def abstract(self) -> Rollouts:
        """Shapes and types of the longest batch, laid out on the mesh."""
        text, number, no = "", np.zeros(self._room), Verdict(False, "", "")
        tokens = (0,) * self._room
        empty = Rollout(self.problems[0], text, (0,), tokens, text, text, number, number, no, False, self._no)
        place = sharding.named(self._program.mesh, "batch")
        shaped = lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place)  # noqa: E731
        return jax.tree.map(shaped, self._batch([[empty] * self._rows]))

    # --- sampling -------------------------------------------------------------------------------------------------

    def _question(self, later: int) -> Problem:
        """The question that comes after so many others: all of them in a new order in every epoch."""
        epoch, place = divmod(self._asked + later, len(self.problems))
        return self.problems[_order(self._seed, epoch, len(self.problems))[place]]

    def _sampled(self, params: Params, problems: Sequence[Problem], step: int, attempt: int) -> list[list[Rollout]]:
        cfg, samples = self._cfg, self._cfg.samples
        prompts = [prompt(cfg, self._task, problem, self._seed) for problem in problems]
        key = jax.random.key(self._seed)
        for number in (TOKENS, step, attempt):
            key = jax.random.fold_in(key, number)
        sampling = Sampling(max_new_tokens=self._room, stop=tuple(self._task.stop))
        written = decoding.generate(
            self._program.definition,
            params,
            self._tokenizer,
            prompts,
            key,
            sampling,
            samples=samples,
            batch_size=min(cfg.sample_batch, -(-self._rows // samples)),
            mesh=self._program.mesh if self._program.mesh.size > 1 else None,
        )
        rollouts = [
            self._rollout(problems[i // samples], prompts[i // samples], written, i) for i in range(len(written.tokens))
        ]
        if self._scores is not None:
            rollouts = self._scored(rollouts)
        return [rollouts[i : i + samples] for i in range(0, len(rollouts), samples)]

    def _rollout(self, problem: Problem, asked: str, written: Written, row: int) -> Rollout:
        text, finished, tokens = written.text[row], bool(written.finished[row]), written.tokens[row]
        verdict = tasks.graded(self._task, problem, text, finished)
        return Rollout(
            problem,
            asked,
            written.prompts[row],
            tuple(tokens.tolist()),
            text,
            written.ending[row],
            written.behaviour[row],
            written.margins[row],
            verdict,
            finished,
            self._cfg.rewards.terms(verdict, finished, len(tokens), self._room, self._right_steps(problem, text)),
        )

    def _right_steps(self, problem: Problem, text: str) -> float:
        """The share of its steps that are right; 0 where that earns nothing."""
        if not self._cfg.rewards.steps:
            return 0.0
        right = self._task.truth(problem, self._task.steps(text)).right
        return sum(right) / len(right) if right else 0.0

    def _scored(self, rollouts: Sequence[Rollout]) -> list[Rollout]:
        """With what the scorer says of their steps; of a text without a token it says nothing."""
        steps = [self._steps(rollout) for rollout in rollouts]
        written = [i for i, ends in enumerate(steps) if ends]
        spelled = [
            (rollouts[i].prompt, [rollouts[i].tokens[a:b] for a, b in zip([0, *steps[i]], steps[i], strict=False)])
            for i in written
        ]
        scores = dict(zip(written, self._scores(spelled), strict=True))
        scored = []
        for i, rollout in enumerate(rollouts):
            amounts = self._cfg.rewards.shaped(scores[i]).tolist() if i in scores else []
            earned = tuple((end - 1, amount) for end, amount in zip(steps[i], amounts, strict=True))
            scored.append(
                dataclasses.replace(rollout, rewards=rollout.rewards | {"scorer": math.fsum(amounts)}, earned=earned)
            )
        return scored

    def _steps(self, rollout: Rollout) -> list[int]:
        """The number of tokens up to the end of each step; the whole text is one where they cannot be told apart."""
        steps = self._task.steps(rollout.text + rollout.ending)
        try:
            ends = [end + 1 for end in labelled.last_tokens(steps, rollout.tokens, self._tokenizer)] if steps else []
        except ValueError:  # two steps end in one token
            ends = []
        # An end-of-text token belongs to the last step.
        return [*ends[:-1], len(rollout.tokens)] if rollout.tokens else []

    # --- rows -----------------------------------------------------------------------------------------------------

    @functools.cached_property
    def _no(self) -> dict[str, float]:
        terms = self._cfg.rewards.terms(Verdict(False, "", ""), False, 1, self._room)
        return dict.fromkeys([*terms, *["scorer"] * bool(self._cfg.rewards.scorer)], 0.0)

    def _batch(self, groups: Sequence[Sequence[Rollout]]) -> Rollouts:
        """As many samples of a question in a row as may be."""
        texts = [rollout for group in groups for rollout in group]
        live = [self._cfg.dead == "keep" or not _dead(group) for group in groups for _ in group]
        size = self._fitted(max(len(rollout.tokens) for rollout in texts))
        rows = lambda values, dtype=np.float32: np.array(values, dtype).reshape(-1, self._beside)  # noqa: E731
        padded = lambda values, dtype=np.float32: np.stack(  # noqa: E731
            [np.pad(np.asarray(each, dtype), (0, size - len(each))) for each in values]
        ).reshape(-1, self._beside, size)
        return Rollouts(
            text_rows.padded([rollout.prompt for rollout in texts[:: self._beside]], self._longest_prompt),
            tokens=padded([rollout.tokens for rollout in texts], np.int32),
            mask=padded([np.ones(len(rollout.tokens)) for rollout in texts], bool),
            behaviour=padded([rollout.behaviour for rollout in texts]),
            reward=padded([_by_token(rollout) for rollout in texts]),
            rewards={name: rows([rollout.rewards[name] for rollout in texts]) for name in self._no},
            right=rows([rollout.verdict.correct and rollout.finished for rollout in texts], bool),
            live=rows(live, bool),
            past=rows([self._past] * len(texts)),
            samples=self._cfg.samples,
        )

    def _fitted(self, longest: int) -> int:
        """A length of rows that holds `longest` tokens."""
        part = -(-self._room // FITS)
        return min(self._room, part * max(1, -(-longest // part)))

    def _fitting(self, problems: Sequence[Problem]) -> tuple[list[Problem], int, int]:
        """The questions that fit into a row with their answers; tokens of the longest prompt and the longest answer."""
        cfg, task, tokenizer, sizes = self._cfg, self._task, self._tokenizer, {}
        if not problems:
            raise ValueError(tasks.no_questions(task.name, "train"))
        for problem in problems:
            text = prompt(cfg, task, problem, self._seed)
            sizes[problem.id] = overlong.prompt_tokens(tokenizer, problem.id, text)
        rooms = {problem.id: cfg.max_new_tokens or task.budget(problem, tokenizer) for problem in problems}
        left = overlong.of_questions(sizes, rooms, cfg.length)
        enough = max(sizes.values()) + max(rooms.values())
        ways = f"give data.length={enough}, lower data.max_new_tokens, or leave them out with data.overlong=skip"
        place = f"rows of data.length = {cfg.length} tokens"
        overlong.check_questions(left, len(sizes), task.name, "train", place, ways, skip=cfg.overlong == "skip")
        if left:
            console.say(overlong.told(left, len(sizes), place))
        names = sizes.keys() - {question.id for question in left}
        kept = [problem for problem in problems if problem.id in names]
        return kept, max(sizes[name] for name in names), max(rooms[name] for name in names)


def prompt(cfg: RolloutData, task: Task, problem: Problem, seed: int) -> str:
    """What a problem's answers come after; the examples before it, if any, depend on the seed and the problem alone."""
    if not cfg.few_shot:
        return task.prompt(problem)
    return task.prompt(problem, task.shots(problem, np.random.default_rng((seed, SHOTS, *problem.id.encode()))))


def check(cfg: RolloutData, method: Credits, rows: int, micro_batches: int = 1) -> None:
    """Raise ValueError where the rollouts of a step do not divide as the settings say."""
    if rows % cfg.samples:
        raise ValueError(
            f"batch_size = {rows} rollouts a step are not data.samples = {cfg.samples} for each question: give a "
            "multiple of it"
        )
    if method.compares_samples and cfg.samples < 2:
        raise ValueError(
            f"data.samples = {cfg.samples}: method.baseline={method.baseline} holds the samples of a question against "
            "each other: give data.samples=2 or more, or method.baseline=batch"
        )
    if rows % (method.minibatches * micro_batches):
        raise ValueError(
            f"batch_size = {rows} rollouts do not split into method.minibatches = {method.minibatches} equal parts, of "
            f"micro_batches = {micro_batches} each: give a multiple of {method.minibatches * micro_batches}"
        )


def beside(samples: int, rows: int, program: Program) -> int:
    """How many samples of a question stand in a row, after a prompt that is read once for them.

    The most that divide `samples` and with which the rows divide over devices and micro-batches. Minibatches are drawn
    among single samples: where there are several, each has a row of its own.
    """
    if program.method.minibatches > 1:
        return 1
    parts = program.micro_batches * sharding.row_ways(program.mesh)
    fitting = [count for count in range(1, samples + 1) if samples % count == 0 and rows // count % parts == 0]
    return max(fitting, default=1)


def _by_token(rollout: Rollout) -> np.ndarray:
    """What a rollout earned with each of its tokens, float32; one without a token has one of padding for it."""
    reward = np.zeros(max(1, len(rollout.tokens)), np.float32)
    reward[-1] = rollout.reward - rollout.rewards.get("scorer", 0.0)
    for token, amount in rollout.earned:
        reward[token] += amount
    return reward


def _dead(group: Sequence[Rollout]) -> bool:
    """All samples of a question earn the same: compared with each other they say nothing.

    DAPO's punishment of long texts is not looked at: its paper takes a question whose samples are all right, or all
    wrong, for dead, however long they are (Yu et al. 2025, equation 11).
    """
    earned = (rollout.rewards | {"overlong": 0.0} for rollout in group)
    return len({sum(rewards.values()) for rewards in earned}) == 1


@functools.lru_cache(maxsize=2)
def _order(seed: int, epoch: int, count: int) -> np.ndarray:
    return np.random.default_rng((seed, QUESTIONS, epoch)).permutation(count)
