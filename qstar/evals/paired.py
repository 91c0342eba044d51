"""Two answers to the same items: how far apart, and could that be chance?

Right or wrong answers are compared by McNemar's exact test, numbers by a permutation test that flips the signs of the
items' differences; both ask what would be observed if it made no difference which of the two had answered.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from qstar.evals import intervals, measure
from qstar.evals.measure import NONE, WAYS, ItemRow
from qstar.typing import Float, typed

PERMUTATIONS = 10_000
DESCRIPTIVE = ("weight",)  # columns that say something of the thought and nothing of the answer


@dataclass(frozen=True)
class Comparison:
    """One column of the item rows, two answers each."""

    task: str
    column: str
    ways: tuple[str, str]
    n: int  # items that both answered
    first: float  # mean over items
    second: float
    low: float  # of second - first: 95 %, bootstrap over items
    high: float
    p: float  # two-sided
    test: str

    @property
    def difference(self) -> float:
        return self.second - self.first


def mcnemar(only_first: int, only_second: int) -> float:
    """Two-sided exact p-value of McNemar's test (1947): items that one had right and the other wrong, as coin flips."""
    from scipy import stats  # here: a second to import

    discordant = only_first + only_second
    return float(stats.binomtest(only_first, discordant, 0.5).pvalue) if discordant else 1.0


@typed
def sign_flips(differences: Float[np.ndarray, "n"], seed: int, permutations: int = PERMUTATIONS) -> float:
    """Two-sided p-value of the mean difference: the share of random sign patterns that give one as large.

    The pattern that was seen is counted among them, so that p is never 0 (Phipson & Smyth, 2010).
    """
    seen = abs(differences.sum())
    rng = np.random.default_rng(seed)
    # Rounding must not make a pattern smaller than the equal one that was seen.
    tolerance = 1e-9 * np.abs(differences).sum()
    large = sum(
        np.count_nonzero(abs(rng.choice((-1.0, 1.0), shape) @ differences) >= seen - tolerance)
        for shape in intervals.draws(permutations, differences.size)
    )
    return (1 + large) / (1 + permutations)


def within(task: str, rows: Sequence[ItemRow]) -> list[Comparison]:
    """Each way of thinking against none, in one evaluation."""
    ways = _by_way(rows)
    if NONE not in ways:
        return []
    return [
        comparison for way in ways if way != NONE for comparison in _compared(task, (NONE, way), ways[NONE], ways[way])
    ]


def between(task: str, first: Sequence[ItemRow], second: Sequence[ItemRow]) -> list[Comparison]:
    """Each way of the second evaluation against the same way of the first, or against none where it lacks it.

    Raises ValueError where they share no item, or an item is not the same question in both.
    """
    ways_a, ways_b = _by_way(first), _by_way(second)
    pairs = [(way if way in ways_a else NONE, way) for way in ways_b]
    return [
        comparison for a, b in pairs if a in ways_a for comparison in _compared(task, (a, b), ways_a[a], ways_b[b])
    ]  # fmt: skip


def _by_way(rows: Sequence[ItemRow]) -> dict[str, list[ItemRow]]:
    by_way = {way: [row for row in rows if row["thoughts"] == way] for way in WAYS}
    return {way: rows for way, rows in by_way.items() if rows}


def _compared(
    task: str, ways: tuple[str, str], first: Sequence[ItemRow], second: Sequence[ItemRow]
) -> Iterator[Comparison]:
    shared = {row["item"] for row in first} & {row["item"] for row in second}
    if not shared:
        raise ValueError(f"{task}: the two evaluations have no item in common, so nothing can be paired")
    first, second = (sorted((row for row in rows if row["item"] in shared), key=_order) for rows in (first, second))
    _check_same_questions(task, first, second)
    for column in first[0]:
        if column in second[0] and column not in DESCRIPTIVE and isinstance(first[0][column], bool | float):
            yield _comparison(task, column, ways, first, second)


def _order(row: ItemRow) -> tuple[str, int]:
    return row["item"], row["draw"]


def _check_same_questions(task: str, first: Sequence[ItemRow], second: Sequence[ItemRow]) -> None:
    asked = {row["item"]: row.get("question") for row in first}
    other = next((row for row in second if asked[row["item"]] != row.get("question")), None)
    if other is not None:
        raise ValueError(
            f"{task}: item {other['item']} is {asked[other['item']]!r} in one evaluation and {other.get('question')!r} "
            "in the other: were they read from different files?"
        )


def _comparison(
    task: str, column: str, ways: tuple[str, str], first: Sequence[ItemRow], second: Sequence[ItemRow]
) -> Comparison:
    a, b = measure.per_item(first, column), measure.per_item(second, column)
    once = len(a) == len(first) and len(b) == len(second)
    if isinstance(first[0][column], bool) and once:
        p, test = mcnemar(int((a > b).sum()), int((b > a).sum())), "McNemar, exact"
    else:
        p, test = sign_flips(b - a, seed=0), "sign flips"
    low, high = intervals.bootstrap(b - a, seed=0)
    return Comparison(task, column, ways, len(a), float(a.mean()), float(b.mean()), low, high, p, test)
