"""What a search is given and what it returns.

A strategy is a frozen dataclass of hyper-parameters. `search.run` gives it prompts and three callables:

    propose(prefixes, k, key)   k next steps of every prefix
    value(nodes)                a score for every node; there may be several scorers, by name
    answer(node)                the answer of a finished solution, spelled so that equal answers are equal strings

and returns one `Solution` for every prompt: all that was proposed, as a tree, with its scores and its cost. A round of
a strategy is one call of `propose` for the live prefixes of all problems.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass, field
from typing import Any, Protocol

import numpy as np

from qstar import settings
from qstar.settings import Count
from qstar.typing import Float, Int

Key = tuple[int, ...]
"""Non-negative integers, as `numpy.random.SeedSequence` takes them."""


@dataclass(frozen=True)
class Candidate:
    """A step that was proposed."""

    state: Any  # what `propose` continues and `answer` reads: the text so far, token ids, a handle
    tokens: int  # generated for this step
    finished: bool  # True: the solution ends with this step
    step: str | None = None  # text of the step; siblings of equal text may be merged. None: it differs from all others
    logprobs: Float[np.ndarray, "T"] | None = None  # of the step's tokens, natural log
    margin: float | None = None  # mean over the answer's tokens of p(likeliest) - p(second likeliest)


@dataclass(frozen=True, eq=False)
class Node:
    """A prefix of a solution: a prompt, or one step more than its parent. Equal to itself only."""

    problem: int  # index of the prompt
    id: int  # index among the nodes of the problem
    depth: int  # steps after the prompt
    candidate: Candidate
    parent: "Node | None" = field(default=None, repr=False)  # None: a prompt
    attempts: tuple["Node", ...] = field(default=(), repr=False)  # of a prompt: earlier solutions to show, oldest first
    rollout: bool = False  # generated to estimate the value of another node
    draws: int = 0  # times that this prefix was continued before

    @property
    def state(self) -> Any:
        return self.candidate.state

    @property
    def finished(self) -> bool:
        return self.candidate.finished

    @property
    def path(self) -> "tuple[Node, ...]":
        """From the first step to this one; empty for a prompt."""
        steps, node = [], self
        while node.parent is not None:
            steps.append(node)
            node = node.parent
        return tuple(reversed(steps))

    @property
    def prompt(self) -> "Node":
        """The prompt that it starts from, whose `attempts` are shown."""
        return self.path[0].parent if self.parent is not None else self

    @property
    def origin(self) -> "Node":
        """What is continued here: of a prompt that shows attempts, the last of them."""
        return self.attempts[-1] if self.attempts else self

    @property
    def solution_tokens(self) -> int:
        """Generated from the prompt to here."""
        return sum(node.candidate.tokens for node in self.path)


class Propose(Protocol):
    def __call__(self, prefixes: Sequence[Node], k: int, key: Key | None) -> Sequence[Sequence[Candidate]]:
        """From 1 to k next steps of every prefix: of its `state`, after its prompt's `attempts` where there are any.

        Args:
            key: of the search. The randomness of a row is to be a function of `row_key(key, prefix)`: then a problem's
                solutions do not depend on the other problems of the batch. None: nothing is sampled. The k steps begin
                with the k likeliest tokens and go on with the likeliest ones, so that k = 1 is greedy decoding.
        """


Value = Callable[[Sequence[Node]], Float[np.ndarray, "B"]]
Answer = Callable[[Node], str | None]


def row_key(key: Key, prefix: Node) -> Key:
    """Of a prefix that is given to `propose`: another one for every prefix, and each time that it is continued."""
    return *key, prefix.problem, prefix.id, prefix.draws


@dataclass(frozen=True)
class Budget:
    """Hard limits for each problem, rollouts included; None: no limit.

    What might exceed a limit is not proposed: `step_tokens` are set aside for every step before its length is known.
    """

    candidates: Count | None = None
    tokens: Count | None = None  # generated
    step_tokens: Count | None = None  # most tokens of one step, as `propose` limits them

    def __post_init__(self):
        settings.check(self, "budget")
        if self.tokens is not None and self.step_tokens is None:
            raise ValueError(
                f"budget.tokens = {self.tokens} needs budget.step_tokens, the most tokens of one proposed step"
            )

    def check(self, branching: int) -> None:
        """Raise ValueError where the first round of a search, of so many candidates, is too much."""
        if self.candidates is not None and self.candidates < branching:
            raise ValueError(
                f"budget.candidates = {self.candidates}: the first round proposes {branching}; expected no fewer"
            )
        if self.tokens is not None and self.tokens < branching * self.step_tokens:
            raise ValueError(
                f"budget.tokens = {self.tokens}: the first round proposes {branching} steps or solutions of up to "
                f"{self.step_tokens} tokens; expected at least {branching * self.step_tokens}, or shorter ones"
            )


@dataclass(frozen=True)
class Cost:
    """Of one problem; adds. A call for several problems counts for each of them."""

    candidates: int = 0  # steps that were proposed
    generated: int = 0  # tokens of them
    discarded: int = 0  # tokens of them that are part of no finished solution
    scored: int = 0  # tokens that scorers were given, from the prompt's end to the node, each time
    propose_calls: int = 0
    value_calls: int = 0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(*(mine + others for mine, others in zip(astuple(self), astuple(other), strict=True)))


@dataclass(frozen=True)
class Solution:
    """All that a search did for one problem. Arrays have an entry for every node, by its id."""

    nodes: tuple[Node, ...]  # nodes[0] is the prompt
    answers: tuple[str | None, ...]  # None: not finished, or no answer
    scores: Mapping[str, Float[np.ndarray, "N"]]  # of every scorer; NaN where it was not asked
    value: Float[np.ndarray, "N"]  # that the strategy ranked by; NaN where it did not
    visits: Int[np.ndarray, "N"]  # of a tree search; else 0
    chosen: Node  # the solution; not finished where none came to its end
    cost: Cost

    @property
    def answer(self) -> str | None:
        return self.answers[self.chosen.id]

    @property
    def finished(self) -> tuple[Node, ...]:
        return tuple(node for node in self.nodes if node.finished)


@dataclass(frozen=True)
class Solutions:
    """One for every prompt, in their order."""

    solutions: tuple[Solution, ...]

    def __iter__(self):
        return iter(self.solutions)

    def __len__(self) -> int:
        return len(self.solutions)

    def __getitem__(self, problem: int) -> Solution:
        return self.solutions[problem]

    @property
    def answers(self) -> tuple[str | None, ...]:
        return tuple(solution.answer for solution in self.solutions)

    @property
    def cost(self) -> Cost:
        """Of all problems; its calls are those that each problem had a part in, added."""
        return sum((solution.cost for solution in self.solutions), Cost())
