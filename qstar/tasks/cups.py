"""Cups and ball: a task whose answer needs steps that cannot be skipped.

A ball lies under one of five cups. Every move is one of ten fixed rearrangements of the cups, written as a letter.
Where is the ball in the end? No move leaves the ball where it is, no two moves commute, and a letter says nothing about
where the ball was: the place has to be carried from move to move, which a shallow model cannot do in one pass for many
moves, but can when it writes the place down after each. A problem is one line of text:

    unworked   3aegbdh=4;            start, moves, answer
    worked     3aegbdh=-454314-4;    the same with its workings between dashes
"""

import itertools
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from qstar import settings
from qstar.settings import Count, Seed, Share, Whole
from qstar.tasks import problem as tasks
from qstar.tasks.grading.grade import Grader, Verdict
from qstar.tasks.items import Tokenizer
from qstar.tasks.problem import Problem

NUMBER_OF_CUPS = 5
# Move a takes a ball from cup 1 to 5, from 2 to 3, and so on: ten derangements of five, no two of which commute, that
# generate all 120 permutations; each cup is sent to each other cup by two or three of them.
MOVES = dict(
    zip(
        "abcdefghij",
        ("53412", "25134", "24531", "45123", "31254", "41253", "21534", "43251", "54123", "35412"),
        strict=True,
    )
)
MOST_MOVES = 1000  # of a problem
ALPHABET = "12345" + "".join(MOVES) + "=-;."


@dataclass(frozen=True)
class Game:
    """Where the ball lies, and the moves."""

    start: int
    moves: str

    @property
    def places(self) -> str:
        """The ball's place after every move."""
        place, places = str(self.start), ""
        for letter in self.moves:
            place = MOVES[letter][int(place) - 1]
            places += place
        return places

    @property
    def question(self) -> str:
        return f"{self.start}{self.moves}="

    @property
    def answer(self) -> str:
        return self.places[-1]

    def problem(self, id: str) -> Problem:
        """The game as a question, whose rationale is its workings."""
        return Problem(id, self.question, self.answer, rationale=f"-{self.places}-", group=str(len(self.moves)))


@dataclass(frozen=True)
class CupsConfig:
    """How problems are drawn.

    `worked` is the share of examples that show their workings, `slips` the share of those that go wrong at one step and
    carry on from there, the answer included: a writer who makes mistakes but follows what it wrote.

    `strides` and `padding` vary the length of workings: the place is written after every move, every second one, ...,
    as often each, and always after the last; up to `padding` dots follow the places, any number as often.
    """

    min_moves: Count = 6  # of a problem
    max_moves: Count = 8  # of a problem
    worked: Share = 0.0  # share of the examples that show intermediate places
    slips: Share = 0.0  # share of these with an error at one step that is carried on

    strides: tuple[Count, ...] = (1,)  # moves between intermediate places, equally often
    padding: Whole = 0  # maximal number of dots after intermediate places

    def __post_init__(self):
        object.__setattr__(self, "strides", tuple(self.strides))
        settings.check(self, "data")
        if not self.strides:
            raise ValueError("data.strides = []: expected one or more positive integers, such as [1, 2]")
        check_moves(self.min_moves, self.max_moves, "data")


def check_moves(least: int, most: int, group: str) -> None:
    """Raise ValueError where a configuration of `group` asks for more moves at least than at most, or too many."""
    if not least <= most <= MOST_MOVES:
        raise ValueError(
            f"{group}.min_moves = {least}, {group}.max_moves = {most}: expected min <= max <= {MOST_MOVES}"
        )


def split_of(question: str) -> str:
    """A twentieth of all problems is `dev`, another `test`, the rest `train`: by a hash of the question."""
    return {0: "test", 1: "dev"}.get(zlib.crc32(question.encode()) % 20, "train")


def draw(cfg: CupsConfig, rng: np.random.Generator, split: str = "train") -> Game:
    """A random game whose question is of this split."""
    while True:
        start = int(rng.integers(1, NUMBER_OF_CUPS + 1))
        letters = rng.integers(len(MOVES), size=rng.integers(cfg.min_moves, cfg.max_moves + 1))
        game = Game(start, "".join("abcdefghij"[letter] for letter in letters))
        if split_of(game.question) == split:
            return game


def example(cfg: CupsConfig, rng: np.random.Generator) -> str:
    """One line of training text."""
    game = draw(cfg, rng)
    if rng.random() >= cfg.worked:
        return f"{game.question}{game.answer};"
    places = game.places
    if rng.random() < cfg.slips:
        places = _slip(game, int(rng.integers(len(game.moves))), rng)
    return f"{game.question}-{_written(places, cfg, rng)}-{places[-1]};"


def _written(places: str, cfg: CupsConfig, rng: np.random.Generator) -> str:
    """The places that are written down, and dots. With one stride and no padding nothing is drawn from `rng`."""
    stride = cfg.strides[rng.integers(len(cfg.strides)) if len(cfg.strides) > 1 else 0]
    skipped = places[stride - 1 : -1 : stride] + places[-1]
    return skipped + "." * (rng.integers(cfg.padding + 1) if cfg.padding else 0)


def _slip(game: Game, step: int, rng: np.random.Generator) -> str:
    """Workings that put the ball in a wrong place at `step` and follow the moves from there."""
    right = game.places
    wrong = [place for place in range(1, NUMBER_OF_CUPS + 1) if place != int(right[step])]
    slipped = wrong[rng.integers(len(wrong))]
    return right[:step] + str(slipped) + Game(slipped, game.moves[step + 1 :]).places


# --- as questions of self-training, search and verifiers ------------------------------------------------------------


@dataclass(frozen=True)
class Places:
    """The place after the workings, or alone: "-454314-4" and "4" declare 4."""

    name: ClassVar[str] = "cups"
    version: ClassVar[int] = 1

    def canonical(self, gold: str) -> str:
        if not re.fullmatch("[1-5]", gold):
            raise ValueError(f"gold answer {gold!r} is not a place from 1 to {NUMBER_OF_CUPS}")
        return gold

    def __call__(self, written: str, gold: str) -> Verdict:
        gold = self.canonical(gold)
        declared = re.fullmatch(r"(?:-[1-5.]*-)?([1-5]);?", written)
        if declared is None:
            return Verdict(False, "", "no answer")
        return Verdict(declared[1] == gold, declared[1], "right" if declared[1] == gold else "wrong")


@dataclass(frozen=True)
class Cups(tasks.Asked):
    """Problems of the cups task, made from a seed: those of dev and test are all different, as `split_of` has them.

    The hint is the answer with a dot before the question. Every place of the workings is a step.
    """

    min_moves: Count = 6  # of a problem
    max_moves: Count = 8  # of a problem
    train: Count = 2000  # problems
    dev: Count = 100  # problems
    test: Count = 500  # problems
    num_shots: Whole = 0  # examples before a question
    seed: Seed = 0  # of the problems

    stop: ClassVar[tuple[str, ...]] = (";",)
    delimiters: ClassVar[tuple[str, ...]] = tuple("12345")

    def __post_init__(self):
        settings.check(self, "task")
        check_moves(self.min_moves, self.max_moves, "task")

    @property
    def name(self) -> str:
        return f"cups, {self.min_moves} to {self.max_moves} moves, seed {self.seed}"

    @property
    def grader(self) -> Grader:
        return Places()

    def problems(self, split: str) -> Sequence[Problem]:
        """Raises ValueError where there are fewer different ones than asked for."""
        count, rng = getattr(self, tasks.known(split)), np.random.default_rng((self.seed, tasks.SPLITS.index(split)))
        cfg = CupsConfig(self.min_moves, self.max_moves)
        games = tasks.different((draw(cfg, rng, split) for _ in itertools.count()), count)
        if len(games) < count:
            raise ValueError(
                f"task.{split} = {count}: there are hardly more than {len(games)} different problems of "
                f"{self.min_moves} to {self.max_moves} moves in {split}; ask for fewer, or for more moves"
            )
        return [game.problem(f"{split}-{i}") for i, game in enumerate(games)]

    def shots(self, problem: Problem, rng: np.random.Generator) -> Sequence[Problem]:
        """Problems of the train split, none of them the question."""
        cfg, shots = CupsConfig(self.min_moves, self.max_moves), []
        while len(shots) < self.num_shots:
            game = draw(cfg, rng)
            if game.question != problem.question:
                shots.append(game.problem(f"shot-{len(shots)}"))
        return shots

    def ask(self, problem: Problem, hint: bool) -> str:
        return (self.shown(problem) if hint else "") + problem.question

    def shown(self, problem: Problem) -> str:
        return f"{problem.hint_text}."

    def completion(self, rationale: str, problem: Problem) -> str:
        return f"{rationale}{problem.answer};"

    def cleaned(self, written: str) -> str | None:
        declared = re.fullmatch(r"((?:-[1-5.]*-)?[1-5]);?", written)
        return declared and f"{declared[1]};"

    def reasons(self, stored: str) -> str | None:
        """The places before the last one, which is the answer."""
        workings = re.match(r"-([1-5.]*)[1-5]\.*-", stored)
        return workings and workings[1]

    def budget(self, problem: Problem, tokenizer: Tokenizer) -> int:
        """Tokens of the right completion with its workings, each a character."""
        return len(problem.rationale) + 2

    def steps(self, written: str) -> tuple[str, ...]:
        """A place each, the first one with the dash before it; then the answer with the text around it."""
        return tuple(re.findall(r"^-[1-5]|-?[1-5];?$|[1-5]|.+", written, re.DOTALL))

    def truth(self, problem: Problem, steps: Sequence[str]) -> tasks.Truth:
        """Of workings that write the place after every move.

        A place is right where the move takes the ball there from the place before it, which may be wrong itself; the
        answer can be reached where it is the right place. An answer without workings is one step.
        """
        written = [step.removesuffix(";") for step in steps]
        if not steps or not steps[0].startswith("-"):
            right = tuple(text == problem.answer for text in written)
            return tasks.Truth(right, right)
        start, moves = problem.question[0], problem.question[1:-1]
        gold = [*Game(int(start), moves).places, problem.answer]
        places = [text.removeprefix("-") for text in written]
        follows = [_moved(place, move) for place, move in zip([start, *places], moves, strict=False)]
        follows += places[len(moves) - 1 : len(moves)]  # the answer is the last place
        dashes = ["-", *[""] * (len(moves) - 1), "-"]  # before the first place and before the answer

        def marks(expected: Sequence[str | None]) -> tuple[bool, ...]:
            steps = [dash + (place or "?") for dash, place in zip(dashes, expected, strict=False)]
            return tuple(i < len(steps) and text == steps[i] for i, text in enumerate(written))

        return tasks.Truth(marks(follows), marks(gold))


def _moved(place: str, move: str) -> str | None:
    """Where a move takes the ball from a place; None where that is none."""
    return MOVES[move][int(place) - 1] if re.fullmatch("[1-5]", place) else None
