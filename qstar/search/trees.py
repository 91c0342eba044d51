"""The trees of a search while it runs: one for each problem, grown by calls for all of them at once.

Strategies ask a `Trees` to extend, complete and score nodes. Here is the one place that calls `propose` and `value`,
holds what they return to their contracts, keeps the account and never goes over the budget.
"""

import dataclasses
import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from qstar.search.interface import Answer, Budget, Candidate, Cost, Key, Node, Propose, Solution, Solutions, Value
from qstar.typing import Float


class Trees:
    """What was proposed so far, its scores and its cost."""

    def __init__(
        self,
        prompts: Sequence[object],
        propose: Propose,
        value: Mapping[str, Value],
        answer: Answer,
        key: Key,
        budget: Budget,
    ):
        if not len(prompts):
            raise ValueError("prompts is empty: expected at least one problem to search")
        self.propose, self.scorers, self.answer, self.key, self.budget = propose, dict(value), answer, key, budget
        self.nodes: list[list[Node]] = [[] for _ in prompts]
        self.prompts = [self._add(problem, Candidate(prompt, 0, False)) for problem, prompt in enumerate(prompts)]
        self.scores: dict[str, dict[Node, float]] = {name: {} for name in self.scorers}
        self.value: dict[Node, float] = {}
        self.visits: dict[Node, int] = {}
        self._answers: dict[Node, str | None] = {}
        self._draws: dict[Node, int] = defaultdict(int)
        self._costs = [Cost() for _ in prompts]

    @property
    def guide(self) -> str:
        """Name of the scorer that guides the search."""
        return next(iter(self.scorers))

    def _add(self, problem: int, candidate: Candidate, parent: Node | None = None, **fields) -> Node:
        depth = 0 if parent is None else parent.depth + 1
        node = Node(problem, len(self.nodes[problem]), depth, candidate, parent, **fields)
        self.nodes[problem].append(node)
        return node

    def _charge(self, problem: int, **amounts: int) -> None:
        self._costs[problem] += Cost(**amounts)

    # --- growing --------------------------------------------------------------------------------------------------

    def affordable(self, problem: int) -> float:
        """Candidates that may still be proposed for a problem."""
        spent, limits = self._costs[problem], self.budget
        by_count = math.inf if limits.candidates is None else limits.candidates - spent.candidates
        by_tokens = math.inf if limits.tokens is None else (limits.tokens - spent.generated) // limits.step_tokens
        return min(by_count, by_tokens)

    def extend(
        self, prefixes: Sequence[Node], k: int, *, sampled: bool = True, rollout: bool = False
    ) -> list[list[Node]]:
        """Children of every prefix, in one call; none where the budget of its problem does not reach for k of them.

        Args:
            prefixes: of any problems; those of a problem in the order in which they are to have the budget. A prefix
                that is there several times is continued as often.
            sampled: False: the likeliest steps.
            rollout: what is proposed estimates the value of a prefix.
        """
        rows = self._granted(prefixes, k)
        children: list[list[Node]] = [[] for _ in prefixes]
        if not rows:
            return children
        asked = []
        for row in rows:
            asked.append(dataclasses.replace(prefixes[row], draws=self._draws[prefixes[row]]))
            self._draws[prefixes[row]] += sampled
        proposed = self.propose(asked, k, self.key if sampled else None)
        if len(proposed) != len(rows):
            raise ValueError(f"propose returned candidates for {len(proposed)} prefixes; it was asked for {len(rows)}")
        for row, candidates in zip(rows, proposed, strict=True):
            self._check(prefixes[row], candidates, k)
            children[row] = [
                self._add(prefixes[row].problem, candidate, prefixes[row], rollout=rollout) for candidate in candidates
            ]
            spent = sum(candidate.tokens for candidate in candidates)
            self._charge(prefixes[row].problem, candidates=len(candidates), generated=spent)
        for problem in {prefixes[row].problem for row in rows}:
            self._charge(problem, propose_calls=1)
        return children

    def _granted(self, prefixes: Sequence[Node], k: int) -> list[int]:
        left = {node.problem: self.affordable(node.problem) for node in prefixes}
        granted = []
        for row, node in enumerate(prefixes):
            if left[node.problem] >= k:
                left[node.problem] -= k
                granted.append(row)
        return granted

    def _check(self, prefix: Node, candidates: Sequence[Candidate], k: int) -> None:
        where = f"propose, node {prefix.id} of problem {prefix.problem}"
        if not 1 <= len(candidates) <= k:
            raise ValueError(f"{where}: {len(candidates)} candidates; expected from 1 to {k}")
        limit = self.budget.step_tokens
        for candidate in candidates:
            if candidate.tokens < 0 or (limit is not None and candidate.tokens > limit):
                raise ValueError(
                    f"{where}: a step of {candidate.tokens} tokens; expected from 0 to budget.step_tokens = {limit}"
                )
            if candidate.logprobs is not None and np.shape(candidate.logprobs) != (candidate.tokens,):
                raise ValueError(
                    f"{where}: logprobs of shape {np.shape(candidate.logprobs)} for a step of {candidate.tokens} tokens"
                )

    def complete(self, nodes: Sequence[Node], *, steps: int, sampled: bool = True, rollout: bool = False) -> list[Node]:
        """The end of each node's continuation by one step after another: finished, or where budget or steps end."""
        ends = list(nodes)
        live = list(range(len(ends)))
        for _ in range(steps):
            live = [row for row in live if not ends[row].finished]
            children = self.extend([ends[row] for row in live], 1, sampled=sampled, rollout=rollout)
            live = [row for row, extended in zip(live, children, strict=True) if extended]
            for row, extended in zip(live, filter(None, children), strict=True):
                ends[row] = extended[0]
            if not live:
                break
        return ends

    def restart(self, problem: int, attempts: Sequence[Node]) -> Node:
        """The prompt of a problem again, with earlier solutions to show."""
        return self._add(problem, self.prompts[problem].candidate, attempts=tuple(attempts))

    # --- scores and answers ---------------------------------------------------------------------------------------

    def score(self, nodes: Sequence[Node], name: str | None = None) -> Float[np.ndarray, "N"]:
        """Of a scorer, the guide by default, which is asked once about each node."""
        name = self.guide if name is None else name
        known = self.scores[name]
        new = list(dict.fromkeys(node for node in nodes if node not in known))
        if new:
            known.update(zip(new, self._checked(name, new), strict=True))
            for node in new:
                self._charge(node.problem, scored=node.solution_tokens)
            for problem in {node.problem for node in new}:
                self._charge(problem, value_calls=1)
        return np.array([known[node] for node in nodes], float)

    def _checked(self, name: str, nodes: Sequence[Node]) -> list[float]:
        scores = np.asarray(self.scorers[name](nodes), float)
        if scores.shape != (len(nodes),):
            raise ValueError(
                f"scorer {name}: scores of shape {scores.shape}; expected {(len(nodes),)}, one for each node"
            )
        wrong = np.flatnonzero(~np.isfinite(scores))
        if len(wrong):
            node = nodes[wrong[0]]
            raise ValueError(
                f"scorer {name}: {scores[wrong[0]]} for node {node.id} of problem {node.problem}; expected a finite one"
            )
        return scores.tolist()

    def answer_of(self, node: Node) -> str | None:
        """None where the node is not finished."""
        if node not in self._answers:
            self._answers[node] = self.answer(node) if node.finished else None
        return self._answers[node]

    def solutions(self, choose: Callable[[int], Node]) -> Solutions:
        """The end of the search.

        Args:
            choose: the solution of a problem.
        """
        chosen = [choose(problem) for problem in range(len(self.prompts))]
        ends = [node for nodes in self.nodes for node in nodes if node.finished]
        for name in list(self.scorers)[1:]:
            self.score(ends, name)
        return Solutions(tuple(self._solution(problem, node) for problem, node in enumerate(chosen)))

    def _solution(self, problem: int, chosen: Node) -> Solution:
        nodes = self.nodes[problem]
        used = {step for node in nodes if node.finished for step in node.path}
        discarded = sum(node.candidate.tokens for node in nodes if node not in used)
        return Solution(
            nodes=tuple(nodes),
            answers=tuple(self.answer_of(node) for node in nodes),
            scores={
                name: np.array([known.get(node, math.nan) for node in nodes]) for name, known in self.scores.items()
            },
            value=np.array([self.value.get(node, math.nan) for node in nodes]),
            visits=np.array([self.visits.get(node, 0) for node in nodes]),
            chosen=chosen,
            cost=self._costs[problem] + Cost(discarded=discarded),
        )
