"""Cups and ball: a task whose answer needs steps that cannot be skipped.

A ball lies under one of five cups. Every move is one of ten fixed rearrangements of the cups, written as a letter.
Where is the ball in the end? No move leaves the ball where it is, no two moves commute, and a letter says nothing about
where the ball was: the place has to be carried from move to move, which a shallow model cannot do in one pass for many
moves, but can when it writes the place down after each. A problem is one line of text:

    unworked   3aegbdh=4;            start, moves, answer
    worked     3aegbdh=-454314-4;    the same with its workings between dashes
"""

import zlib
from dataclasses import dataclass

import numpy as np

from qstar import settings
from qstar.settings import Count, Share, Whole

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
class Problem:
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
    worked: Share = 0.0  # of the examples: those that show their workings
    slips: Share = 0.0  # of these: those that go wrong at one step and carry on from there

    strides: tuple[Count, ...] = (1,)  # moves between places of the workings, each as often
    padding: Whole = 0  # most dots after the places of the workings

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


def split_of(problem: Problem) -> str:
    """A twentieth of all problems is `dev`, another `test`, the rest `train`: by a hash of the question."""
    return {0: "test", 1: "dev"}.get(zlib.crc32(problem.question.encode()) % 20, "train")


def draw(cfg: CupsConfig, rng: np.random.Generator, split: str = "train") -> Problem:
    """A random problem of this split."""
    while True:
        start = int(rng.integers(1, NUMBER_OF_CUPS + 1))
        letters = rng.integers(len(MOVES), size=rng.integers(cfg.min_moves, cfg.max_moves + 1))
        problem = Problem(start, "".join("abcdefghij"[letter] for letter in letters))
        if split_of(problem) == split:
            return problem


def example(cfg: CupsConfig, rng: np.random.Generator) -> str:
    """One line of training text."""
    problem = draw(cfg, rng)
    if rng.random() >= cfg.worked:
        return f"{problem.question}{problem.answer};"
    places = problem.places
    if rng.random() < cfg.slips:
        places = _slip(problem, int(rng.integers(len(problem.moves))), rng)
    return f"{problem.question}-{_written(places, cfg, rng)}-{places[-1]};"


def _written(places: str, cfg: CupsConfig, rng: np.random.Generator) -> str:
    """The places that are written down, and dots. With one stride and no padding nothing is drawn from `rng`."""
    stride = cfg.strides[rng.integers(len(cfg.strides)) if len(cfg.strides) > 1 else 0]
    skipped = places[stride - 1 : -1 : stride] + places[-1]
    return skipped + "." * (rng.integers(cfg.padding + 1) if cfg.padding else 0)


def _slip(problem: Problem, step: int, rng: np.random.Generator) -> str:
    """Workings that put the ball in a wrong place at `step` and follow the moves from there."""
    right = problem.places
    wrong = [place for place in range(1, NUMBER_OF_CUPS + 1) if place != int(right[step])]
    slipped = wrong[rng.integers(len(wrong))]
    return right[:step] + str(slipped) + Problem(slipped, problem.moves[step + 1 :]).places
