"""What a model learns to revise from (Snell et al. 2024, section 6.1): wrong attempts at a question, then a right one.

Of 0 to 4 wrong attempts, each number as often, the last is the one that is closest to the right solution by edit
distance, so that there is something to correct; those before it are drawn. The paper draws 64 samples a question.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

MOST = 4  # wrong attempts before a right one


@dataclass(frozen=True)
class Revision:
    """A right solution after earlier attempts, which are shown in this order."""

    attempts: tuple[str, ...]
    solution: str


def revisions(right: Sequence[str], wrong: Sequence[str], rng: np.random.Generator, most: int = MOST) -> list[Revision]:
    """One for every right solution of a question; fewer attempts where there are fewer wrong ones."""
    made = []
    for solution in right:
        count = min(int(rng.integers(most + 1)), len(wrong))
        attempts: list[str] = []
        if count:
            closest = min(range(len(wrong)), key=lambda i, solution=solution: edit_distance(wrong[i], solution))
            others = [text for i, text in enumerate(wrong) if i != closest]
            attempts = [others[i] for i in rng.permutation(len(others))[: count - 1]] + [wrong[closest]]
        made.append(Revision(tuple(attempts), solution))
    return made


def edit_distance(first: str, second: str) -> int:
    """Levenshtein's: the least number of characters to insert, delete or replace."""
    if not first or not second:
        return len(first) + len(second)
    characters = np.array([ord(character) for character in second])
    places = np.arange(len(second) + 1)
    row = places.copy()
    for character in first:
        replaced = np.append(row[0] + 1, np.minimum(row[1:] + 1, row[:-1] + (characters != ord(character))))
        row = np.minimum.accumulate(replaced - places) + places  # insertions, from the left
    return int(row[-1])
