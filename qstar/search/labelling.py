"""Labels of steps from completions: how often a prefix of a solution still leads to the right answer.

A labeller is given solutions, and `complete(prefixes, k)` that writes k completions of every prefix and grades them.
What it returns has a label for every step: True and False, a share, or None where nothing is known.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, ClassVar

from qstar import settings
from qstar.settings import Count, Positive, Range, Whole

Label = bool | float | None
Outcomes = tuple[bool, ...]
"""Of the completions of a prefix, in the order in which they were written: is the answer right?"""


@dataclass(frozen=True)
class Solution:
    """A solution whose answer was graded."""

    problem: int  # index of the question
    prompt: str
    steps: tuple[str, ...]
    ids: tuple[tuple[int, ...], ...]  # tokens of every step
    right: bool  # its answer
    source: str = ""  # where it comes from

    @property
    def tokens(self) -> int:
        return sum(map(len, self.ids))


@dataclass(frozen=True)
class Prefix:
    """The first steps of a solution."""

    solution: Solution
    count: int  # of these

    @property
    def ids(self) -> tuple[int, ...]:
        return tuple(id for step in self.solution.ids[: self.count] for id in step)


@dataclass(frozen=True)
class Labelled:
    solution: Solution
    labels: tuple[Label, ...]  # of every step
    outcomes: tuple[Outcomes | None, ...]  # after every step; the last step's is the solution's own
    given: bool = True  # False: a completion that a search wrote, and labelled as well


Complete = Callable[[Sequence[Prefix], int], Sequence[Sequence[Solution]]]
"""k completions of every prefix: solutions that begin with it."""


@dataclass(frozen=True)
class MonteCarlo:
    """k completions from every step (Math-Shepherd, Wang et al. 2024, equations 3 and 4).

    A hard label is True where any of them is right, a soft one is the share of them that is. The last step is labelled
    by the solution's own answer.
    """

    kind: ClassVar[str] = "monte_carlo"
    follows: ClassVar[bool] = False  # whether it looks at the steps of completions, not at their answers alone

    k: Count = 8  # completions from every step
    soft: bool = False  # fractions instead of true and false
    smaller: tuple[Count, ...] = ()  # also write files with the labels from fewer completions

    def __post_init__(self):
        object.__setattr__(self, "smaller", tuple(self.smaller))
        settings.check(self, "label")
        over = [k for k in self.smaller if k >= self.k]
        if over:
            raise ValueError(f"label.smaller = {list(self.smaller)}: {over[0]} is no smaller than label.k = {self.k}")

    def __call__(self, solutions: Sequence[Solution], complete: Complete) -> list[Labelled]:
        prefixes = [Prefix(solution, count) for solution in solutions for count in range(1, len(solution.steps))]
        written = iter(complete(prefixes, self.k) if prefixes else ())
        labelled = []
        for solution in solutions:
            before = tuple(tuple(completion.right for completion in next(written)) for _ in solution.steps[1:])
            outcomes = (*before, (solution.right,))
            labelled.append(Labelled(solution, estimates(outcomes, self.k, self.soft), outcomes))
        return labelled


def estimates(outcomes: Sequence[Outcomes | None], k: int, soft: bool) -> tuple[Label, ...]:
    """Labels of steps from the first k completions after each."""
    return tuple(
        None if right is None else sum(right[:k]) / len(right[:k]) if soft else any(right[:k]) for right in outcomes
    )


@dataclass(frozen=True)
class OmegaPRM:
    """The first wrong step by halving (Luo et al. 2024, section 3.3): k completions of the prefix up to the middle; any
    right one makes it right, and the first wrong step comes later.

    Every wrong solution that is given is searched. So are `searches` more for each question: completions that a search
    wrote of a prefix s and that are wrong, where 0 < MC(s) < 1, the largest Q + U first:

        Q(s, r) = alpha^(1 - MC(s)) beta^(tokens of r / length)        U(s) = c_puct sqrt(sum of N) / (1 + N(s))

    with r what was written after s. N(s) is counted when s is selected, and the pair (s, r) is not selected again.
    Nothing is backed up to the prompt.

    Differs from the paper: halves are counted in the task's steps, down to one, not in tokens down to a shortest piece;
    the first rollouts are the given solutions, all of which are searched, instead of k of the prompt.
    """

    kind: ClassVar[str] = "omega"

    k: Count = 8  # completions of a prefix
    # fractions, for completed prefixes only; other steps before the first wrong one: null
    soft: bool = False
    searches: Whole = 0  # searches of completions per question, in addition to the given solutions
    alpha: Annotated[float, Range(0, 1, open_low=True)] = 0.5  # in Q: the base of 1 - MC
    beta: Annotated[float, Range(0, 1, open_low=True)] = 0.9  # in Q: the base of the length
    length: Count = 500  # in Q: tokens that a length is measured in
    c_puct: Positive = 0.125  # weight of U

    def __post_init__(self):
        settings.check(self, "label")

    @property
    def follows(self) -> bool:
        """Whether it looks at the steps of completions, not at their answers alone."""
        return self.searches > 0

    def __call__(self, solutions: Sequence[Solution], complete: Complete) -> list[Labelled]:
        """All questions at once: each round completes one prefix of every question that is searched."""
        trees = {problem: _Tree(self) for problem in dict.fromkeys(solution.problem for solution in solutions)}
        for solution in solutions:
            trees[solution.problem].add(solution)
        while live := [tree for tree in trees.values() if tree.advance()]:
            written = complete([tree.asked for tree in live], self.k)
            for tree, completions in zip(live, written, strict=True):
                tree.learn(completions)
        given = {id(entry.solution): entry for tree in trees.values() for entry in tree.labelled if entry.given}
        more = [entry for tree in trees.values() for entry in tree.labelled if not entry.given]
        return [given[id(solution)] for solution in solutions] + more


@dataclass(frozen=True)
class _Pair:
    """A prefix and a wrong solution that begins with it."""

    state: tuple[int, ...]  # token ids of the prefix
    count: int  # steps of it
    share: float  # of right completions of it
    rollout: Solution
    given: bool


@dataclass
class _Tree:
    """What is known of one question, and the search that is under way in it."""

    cfg: OmegaPRM
    given: list[Solution] = field(default_factory=list)
    waiting: list[_Pair] = field(default_factory=list)
    pool: list[_Pair] = field(default_factory=list)
    visits: Counter = field(default_factory=Counter)
    labelled: list[Labelled] = field(default_factory=list)
    searched: int = 0  # besides what was given
    pair: _Pair | None = None
    low: int = 0  # steps that are known to be right
    high: int = 0  # a number of steps that is known to be wrong
    outcomes: dict[int, Outcomes] = field(default_factory=dict)

    def add(self, solution: Solution) -> None:
        self.given.append(solution)
        if solution.right:
            last = (*[None] * (len(solution.steps) - 1), (True,))
            labels = estimates(last, 1, True) if self.cfg.soft else (True,) * len(solution.steps)
            self.labelled.append(Labelled(solution, labels, last))
        else:
            self.waiting.append(_Pair((), 0, 0.0, solution, True))

    def advance(self) -> bool:
        """Go on to a prefix that is to be completed; False where none is left."""
        while True:
            if self.pair is None and not self._select():
                return False
            if self.high - self.low > 1:
                return True
            self._finish()

    @property
    def asked(self) -> Prefix:
        return Prefix(self.pair.rollout, (self.low + self.high) // 2)

    def learn(self, written: Sequence[Solution]) -> None:
        """The completions of the prefix that was asked for."""
        prefix, right = self.asked, tuple(completion.right for completion in written)
        self.outcomes[prefix.count] = right
        if any(right):
            self.low = prefix.count
        else:
            self.high = prefix.count
        if any(right) and not all(right):
            share = sum(right) / len(right)
            wrong = (rollout for rollout in written if not rollout.right and len(rollout.steps) > prefix.count)
            self.pool += [_Pair(prefix.ids, prefix.count, share, rollout, False) for rollout in wrong]

    def _select(self) -> bool:
        share = sum(solution.right for solution in self.given) / len(self.given)
        if self.waiting:
            pair = max(self.waiting, key=lambda candidate: self._worth(candidate, share))
            self.waiting.remove(pair)
        elif self.pool and self.searched < self.cfg.searches:
            pair = max(self.pool, key=lambda candidate: self._worth(candidate, candidate.share))
            self.pool.remove(pair)
            self.searched += 1
        else:
            return False
        self.visits[pair.state] += 1
        self.pair, self.low, self.high = pair, pair.count, len(pair.rollout.steps)
        self.outcomes = {self.high: (False,)}
        return True

    def _worth(self, pair: _Pair, share: float) -> float:
        cfg = self.cfg
        written = pair.rollout.tokens - len(pair.state)
        quality = cfg.alpha ** (1 - share) * cfg.beta ** (written / cfg.length)
        return quality + cfg.c_puct * math.sqrt(self.visits.total()) / (1 + self.visits[pair.state])

    def _finish(self) -> None:
        steps = range(1, len(self.pair.rollout.steps) + 1)
        outcomes = tuple(self.outcomes.get(count) for count in steps)
        hard = tuple(count < self.high for count in steps)
        soft = estimates(outcomes, self.cfg.k, True)
        # After the first wrong step everything is wrong; before it only what was completed has a share.
        labels = tuple(0.0 if not right else share for right, share in zip(hard, soft, strict=True))
        self.labelled.append(Labelled(self.pair.rollout, labels if self.cfg.soft else hard, outcomes, self.pair.given))
        self.pair = None
