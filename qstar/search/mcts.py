"""Monte-Carlo tree search over steps: UCT as in rStar and rStar-Math, PUCT as in AlphaZero and TS-LLM.

A node's actions are k steps that are proposed once, equal ones merged. A simulation

    selects    from the prompt down, the child that the rule ranks highest, to one that was not visited yet;
               a visited node without children is expanded on the way: expansion, the expensive part, waits for
               a second visit
    evaluates  that child: by the scorer, by a rollout to the end, or by the mean of both
    backs up   the value along its path: visits += 1, total += value

    UCT   Q + c sqrt(ln N_parent / N)                                          rStar, rStar-Math: c = 2
    PUCT  Q + P sqrt(N_parent) / (1 + N) (ln((N_parent + c_base + 1) / c_base) + c_init)

with Q = total / N and P the siblings' exp(mean log-prob of the step), normalised. The value of a finished solution is
its score, or (rStar) the share of the problem's finished solutions that have its answer: never the gold answer.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, ClassVar

import numpy as np

from qstar.search import choose
from qstar.search.interface import Node, Solutions
from qstar.search.strategy import Strategy
from qstar.search.trees import Trees
from qstar.settings import Count, NonNegative, OneOf, Positive, Share

RULES = ("uct", "puct")
EVALUATIONS = ("scorer", "rollouts", "both")
TERMINALS = ("scorer", "agreement")
SELECTS = ("visits", *choose.SELECTS)


@dataclass(frozen=True)
class MCTS(Strategy):
    """Numbers are rStar-Math's by default.

    Differs from the paper: the solution is the end of the most visited path, as AlphaZero chooses, where rStar-Math
    takes the finished solution of the highest score (select=max). A simulation adds one node and is completed by a
    rollout or a score, where those of rStar and rStar-Math expand a node at every depth down to an end. Of children
    that were never visited UCT takes the one of the highest score first; PUCT takes that score for Q, where AlphaZero's
    is 0.
    """

    n: Count = 16  # simulations
    k: Count = 8  # steps proposed at a node
    depth: Count = 16  # maximal number of steps in a solution
    rule: Annotated[str, OneOf(RULES)] = "uct"  # rule that selects a child
    c: NonNegative = 2.0  # of UCT
    c_init: NonNegative = 1.25  # of PUCT
    c_base: Positive = 19652.0  # of PUCT
    root_noise: Share = 0.0  # share of Dirichlet noise in the priors after the prompt; AlphaZero's self-play: 0.25
    dirichlet: Positive = 0.3  # its concentration
    evaluate: Annotated[str, OneOf(EVALUATIONS)] = "scorer"  # value of a node at its first visit
    terminal: Annotated[str, OneOf(TERMINALS)] = "scorer"  # value of a finished solution
    # Simulations of a problem that are evaluated together. Each counts as a visit of value 0 until it is backed up, and
    # fewer go together where they would need the same node.
    batch: Count = 1
    # The solution: the most visited child from the prompt down, then the best of k steps to the end; or a choice among
    # all finished solutions, rollouts included.
    select: Annotated[str, OneOf(SELECTS)] = "visits"

    stepwise: ClassVar[bool] = True

    @property
    def guided(self) -> bool:
        return self.evaluate != "rollouts" or self.terminal == "scorer" or self.select in ("max", "weighted", "vote")

    @property
    def branching(self) -> int:
        return self.k

    def __call__(self, trees: Trees) -> Solutions:
        return _Search(self, trees).run()


@dataclass
class _Statistics:
    """Of a node in the tree."""

    prior: float = 1.0
    score: float | None = None  # by the guide; None: there is no scorer
    children: list[Node] = field(default_factory=list)
    visits: int = 0
    total: float = 0.0
    pending: int = 0  # simulations on their way through it

    @property
    def mean(self) -> float:
        """Pending simulations count with value 0."""
        return self.total / (self.visits + self.pending)

    @property
    def rank(self) -> float:
        """Before any visit."""
        return self.prior if self.score is None else self.score


class _Search:
    """The statistics of all trees while simulations run."""

    def __init__(self, cfg: MCTS, trees: Trees):
        self.cfg, self.trees = cfg, trees
        self.of = {prompt: _Statistics() for prompt in trees.prompts}
        self.left = [cfg.n] * len(trees.prompts)  # simulations of each problem

    def run(self) -> Solutions:
        while any(self.left):
            self._round()
        ends = self._descents() if self.cfg.select == "visits" else []
        for node, statistics in self.of.items():
            self.trees.visits[node] = statistics.visits
            if statistics.visits:
                self.trees.value[node] = statistics.mean
        return self.trees.solutions(lambda problem: self._choose(problem, ends))

    # --- simulations ----------------------------------------------------------------------------------------------

    def _round(self) -> None:
        """Some simulations of every problem that has any left."""
        paths = [path for prompt in self.trees.prompts for path in self._selected(prompt)]
        grown = self._expand([path[-1] for path in paths if self._expandable(path[-1])])
        for path in paths:
            for node in path:
                self.of[node].pending -= 1
        complete = []
        for path in paths:
            if path[-1] in grown and not grown[path[-1]]:
                self.left[path[-1].problem] = 0  # the budget is used up
                continue
            complete.append([*path, self._best(path[-1])] if path[-1] in grown else path)
        for path, value in zip(complete, self._values([path[-1] for path in complete]), strict=True):
            for node in path:
                self.of[node].visits += 1
                self.of[node].total += value
            self.left[path[0].problem] = max(0, self.left[path[0].problem] - 1)

    def _selected(self, prompt: Node) -> list[list[Node]]:
        """Paths from the prompt to nodes that are to be evaluated, or expanded first; different where that costs."""
        paths, ends = [], set()
        for _ in range(min(self.cfg.batch, self.left[prompt.problem])):
            path = [prompt]
            while self.of[path[-1]].children:
                path.append(self._best(path[-1]))
            if path[-1] in ends and not path[-1].finished:
                break
            for node in path:
                self.of[node].pending += 1
            ends.add(path[-1])
            paths.append(path)
        return paths

    def _expandable(self, node: Node) -> bool:
        visited = node.parent is None or self.of[node].visits
        return bool(visited) and not node.finished and node.depth < self.cfg.depth

    def _best(self, node: Node) -> Node:
        """The child that the rule ranks highest; of equal ones that with the better score, then the first."""
        return max(
            self.of[node].children, key=lambda child: (self._rule(self.of[node], self.of[child]), self.of[child].rank)
        )

    def _rule(self, parent: _Statistics, child: _Statistics) -> float:
        visits, above = child.visits + child.pending, parent.visits + parent.pending
        if self.cfg.rule == "uct":
            return child.mean + self.cfg.c * math.sqrt(math.log(above) / visits) if visits else math.inf
        quality = child.mean if visits else (child.score or 0.0)
        growth = math.log((above + self.cfg.c_base + 1) / self.cfg.c_base) + self.cfg.c_init
        return quality + child.prior * math.sqrt(above) / (1 + visits) * growth

    def _expand(self, nodes: Sequence[Node]) -> dict[Node, list[Node]]:
        """The children of each, which have their priors and scores; none where the budget ended."""
        grown = dict(zip(nodes, map(_distinct, self.trees.extend(nodes, self.cfg.k)), strict=True))
        children = [child for some in grown.values() for child in some]
        scores = self.trees.score(children).tolist() if self.trees.scorers else [None] * len(children)
        by_child = dict(zip(children, scores, strict=True))
        for node, some in grown.items():
            self.of[node].children = some
            for child, prior in zip(some, self._priors(node, some), strict=True):
                self.of[child] = _Statistics(prior, by_child[child])
        return grown

    def _priors(self, node: Node, children: Sequence[Node]) -> list[float]:
        shares = priors(children)
        if not self.cfg.root_noise or node.parent is not None or not children:
            return shares.tolist()
        generator = np.random.default_rng(np.random.SeedSequence((*self.trees.key, node.problem)))
        noise = generator.dirichlet([self.cfg.dirichlet] * len(children))
        return ((1 - self.cfg.root_noise) * shares + self.cfg.root_noise * noise).tolist()

    # --- values ---------------------------------------------------------------------------------------------------

    def _values(self, nodes: Sequence[Node]) -> list[float]:
        """What is backed up."""
        if self.cfg.evaluate == "scorer":
            return [self._terminal(node) if node.finished else self.of[node].score for node in nodes]
        new = [node for node in nodes if not node.finished and node.depth < self.cfg.depth]
        ends = dict(zip(new, self._rollouts(new), strict=True))
        rolled = [self._terminal(ends.get(node, node)) for node in nodes]
        if self.cfg.evaluate == "rollouts":
            return rolled
        return [
            value if node.finished else (value + self.of[node].score) / 2
            for node, value in zip(nodes, rolled, strict=True)
        ]

    def _rollouts(self, nodes: Sequence[Node]) -> list[Node]:
        """Ends of one sampled continuation of each, of at most so many steps that all together has `depth`."""
        ends = list(nodes)
        for _ in range(self.cfg.depth):
            live = [row for row, end in enumerate(ends) if not end.finished and end.depth < self.cfg.depth]
            if not live:
                break
            for row, end in zip(live, self.trees.complete([ends[r] for r in live], steps=1, rollout=True), strict=True):
                ends[row] = end
        return ends

    def _terminal(self, node: Node) -> float:
        """Of the end of a path; 0 where it did not come to an end and nothing but agreement values it."""
        if self.cfg.terminal == "scorer":
            return float(self.trees.score([node])[0])
        answer = self.trees.answer_of(node)
        if answer is None:
            return 0.0
        ends = [self.trees.answer_of(end) for end in self.trees.nodes[node.problem] if end.finished]
        return ends.count(answer) / len(ends)

    # --- the solution ---------------------------------------------------------------------------------------------

    def _descents(self) -> list[Node]:
        """Of every problem the end of the most visited path, continued by the best of k steps."""
        ends = [self._most_visited(prompt) for prompt in self.trees.prompts]
        while True:
            live = [row for row, end in enumerate(ends) if not end.finished and end.depth < self.cfg.depth]
            grown = self._expand([ends[row] for row in live])
            live = [row for row in live if grown[ends[row]]]
            if not live:
                return ends
            for row in live:
                ends[row] = self._most_visited(ends[row])

    def _most_visited(self, node: Node) -> Node:
        while self.of[node].children:
            node = max(self.of[node].children, key=self._standing)
        return node

    def _standing(self, node: Node) -> tuple[float, float, float]:
        statistics = self.of[node]
        return statistics.visits, statistics.mean if statistics.visits else 0.0, statistics.rank

    def _choose(self, problem: int, ends: Sequence[Node]) -> Node:
        """Where the most visited path did not come to its end: among the finished solutions all the same.

        By the scores that they have: equal siblings, and ends of rollouts where only agreement values them, have none.
        """
        finished = [node for node in self.trees.nodes[problem] if node.finished]
        if self.cfg.select != "visits":
            return choose.by_rule(
                self.cfg.select, self.trees, finished or [self._most_visited(self.trees.prompts[problem])]
            )
        if self.trees.scorers:
            finished = [node for node in finished if node in self.trees.scores[self.trees.guide]]
        if ends[problem].finished or not finished:
            return ends[problem]
        return choose.by_rule("max" if self.trees.scorers else "majority", self.trees, finished)


def _distinct(siblings: Sequence[Node]) -> list[Node]:
    """Without those whose step another one has already."""
    steps, kept = set(), []
    for node in siblings:
        if node.candidate.step is None or node.candidate.step not in steps:
            kept.append(node)
            steps.add(node.candidate.step)
    return kept


def priors(siblings: Sequence[Node]) -> np.ndarray:
    """exp(mean log-prob of the step), normalised over siblings; uniform where a step has no log-probs."""
    logprobs = [node.candidate.logprobs for node in siblings]
    if any(step is None or not len(step) for step in logprobs):
        return np.full(len(siblings), 1 / max(1, len(siblings)))
    likely = np.exp([np.mean(step) for step in logprobs])
    return likely / likely.sum()
