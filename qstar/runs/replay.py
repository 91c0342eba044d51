"""A stored search run again without a model: the same strategy over the steps, scores and answers that are stored.

What is proposed at a node is a function of the node and of how often it was continued, so a search of less budget
proposes a part of what a larger one did, and chooses with the scores that are stored. That holds for whole solutions
(the first n of N) and for a strategy that a budget of tokens or candidates ends early. A smaller n of a search by steps
is another search, whose steps are not stored: it is refused. So is a smaller budget under which lookahead has to rank a
step whose rollout is not affordable, or a beam or particles keep others than before: it asks for scores, or steps,
that the larger search did not need. A search that goes on where only a part of a round was affordable, as revisions do,
has other node numbers from there on than one of that budget from scratch, and draws by them: its table has other draws.
"""

import dataclasses
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from qstar import config as configs
from qstar.config import SolveConfig
from qstar.evals import at_k
from qstar.evals.intervals import bootstrap, wilson
from qstar.reports.searches import Line
from qstar.search import run as searches
from qstar.search.best_of_n import BestOfN
from qstar.search.interface import Budget, Candidate, Key, Node, Solution, Value
from qstar.search.strategy import Strategy

COLUMNS = (
    "batch", "problem", "question", "written", "logprobs", "answer", "correct", "generated_tokens", "place"
)  # fmt: skip
"""Columns of the store that are read."""
ORACLE, LOGPROB = NO_MODEL = ("oracle", "logprob")  # scorers that are no run
HALVES = 8  # budgets of a table at most, where none are given


@dataclass(frozen=True)
class Tree:
    """The rows of a question, by node, and the children of each by how often it had been continued."""

    rows: Mapping[int, dict]
    children: Mapping[tuple[int, int], Sequence[int]]


Stored = Mapping[int, Sequence[Tree]]
"""The trees of every batch, in the order in which they were searched."""


def trees(rows: Sequence[dict]) -> Stored:
    batches: dict[int, dict[str, list[dict]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        batches[row["batch"]][row["problem"]].append(row)
    return {batch: [_tree(nodes) for nodes in problems.values()] for batch, problems in sorted(batches.items())}


def _tree(rows: Sequence[dict]) -> Tree:
    children: dict[tuple[int, int], list[int]] = defaultdict(list)
    for row in rows:
        if row["place"]["parent"] >= 0:
            children[row["place"]["parent"], row["place"]["draw"]].append(row["place"]["node"])
    return Tree({row["place"]["node"]: row | {"scores": dict(row["place"]["scores"])} for row in rows}, children)


def solutions(
    cfg: SolveConfig, strategy: Strategy, stored: Stored, most: Mapping[int, int], tokens: int
) -> Iterator[tuple[Tree, Solution]]:
    """Every question that is stored, with what a strategy makes of it.

    Args:
        most: tokens of the longest solution in each batch.
        tokens: that may be written for a question; 0: any number.
    """
    for number, batch in stored.items():
        yield from zip(batch, solved(cfg, strategy, budget(cfg, most[number], tokens), batch, number), strict=True)


def solved(cfg: SolveConfig, strategy: Strategy, limits: Budget, batch: Sequence[Tree], number: int) -> list[Solution]:
    """What a strategy makes of the stored trees of a batch. Raises ValueError where it asks for steps that are not."""

    def propose(prefixes: Sequence[Node], k: int, key: Key | None) -> list[list[Candidate]]:
        return [_candidates(batch[node.problem], node, k, key) for node in prefixes]

    def scorer(name: str) -> Value:
        return lambda nodes: np.array([_score(batch[node.problem], node, name) for node in nodes])

    def answer(node: Node) -> str | None:
        return batch[node.problem].rows[node.state]["answer"] or None

    value = {name: scorer(name) for name in cfg.scorer}
    return list(searches.search(strategy, [0] * len(batch), propose, value, answer, (cfg.seed, number), limits))


def _candidates(tree: Tree, node: Node, k: int, key: Key | None) -> list[Candidate]:
    stored = tree.children.get((node.origin.state, -1 if key is None else node.draws), ())[:k]
    if len(stored) < (k if key is not None else 1):  # of the likeliest there are as many as the vocabulary has
        raise ValueError(
            f"question {tree.rows[0]['problem']}: {len(stored)} steps are stored after node {node.state}, and this "
            f"search would take {k}: take another budget of tokens or a smaller search.n, or search with these settings"
        )
    return [_candidate(tree.rows[number]) for number in stored]


def _candidate(row: dict) -> Candidate:
    place, logprobs = row["place"], np.asarray(row["logprobs"], float)
    return Candidate(place["node"], row["generated_tokens"], place["final"], row["written"], logprobs, place["margin"])


def _score(tree: Tree, node: Node, name: str) -> float:
    """Raises ValueError where it was not asked about this node."""
    scores = tree.rows[node.state]["scores"]
    if name not in scores:
        raise ValueError(
            f"question {tree.rows[0]['problem']}: node {node.state} has no score by {name}, stored are scores by "
            f"{', '.join(scores) or 'none'}: take one that guided the search, or search with this one"
        )
    return scores[name]


# --- tables -------------------------------------------------------------------------------------------------------


def lines(cfg: SolveConfig, rows: Sequence[dict], batches: Sequence[dict]) -> list[Line]:
    """A line for every budget, the last one for all that was spent. Raises ValueError for budgets beyond that.

    Args:
        batches: the lines of batches.jsonl.
    """
    about, stored = {batch["batch"]: batch for batch in batches}, trees(rows)
    if not stored:
        raise ValueError("no candidates are stored yet: resume the search")
    most = {number: about[number]["most_tokens"] for number in stored}
    whole = _line(cfg, stored, most, cfg.search, cfg.max_tokens, "all")
    seconds = sum(about[number]["seconds"] for number in stored)
    smaller = [_smaller(cfg, stored, most, size) for size in cfg.budgets or _halves(cfg)]
    return [*smaller, dataclasses.replace(whole, seconds=seconds / whole.questions)]


def _halves(cfg: SolveConfig) -> list[int]:
    sizes, size = [], cfg.search.size or 0
    while size > 1 and len(sizes) < HALVES:
        size //= 2
        sizes.append(size)
    return sorted(sizes)


def _smaller(cfg: SolveConfig, stored: Stored, most: Mapping[int, int], size: int) -> Line:
    if cfg.search.stepwise:
        return _line(cfg, stored, most, cfg.search, size, f"{size} tokens")
    if cfg.search.size is None:
        raise ValueError(
            f"budgets = {list(cfg.budgets)}: {configs.given('search', cfg.search)} has no table at fewer solutions; "
            "leave it empty"
        )
    if size > cfg.search.size:
        raise ValueError(f"budgets: {size} solutions of a question, but {cfg.search.size} are stored")
    if cfg.subsets:
        return _over_subsets(cfg, stored, most, size)
    return _line(cfg, stored, most, cfg.search.resized(size), cfg.max_tokens, str(size))


def _over_subsets(cfg: SolveConfig, stored: Stored, most: Mapping[int, int], size: int) -> Line:
    """Best-of-N by the highest score, the mean over all subsets of `size` solutions; costs are the mean's as well."""
    if not isinstance(cfg.search, BestOfN) or cfg.search.select != "max":
        raise ValueError(
            f"subsets = true with {configs.given('search', cfg.search)}: the mean over subsets is that of the highest "
            "score: give search=best_of_n search.select=max"
        )
    guide, values, total = cfg.scorer[0], [], np.zeros(4)
    for tree, solution in solutions(cfg, cfg.search, stored, most, cfg.max_tokens):
        ends = solution.finished
        # Without an answer a solution is taken only where no other one has any, and is wrong then.
        scores = [_score(tree, node, guide) if tree.rows[node.state]["answer"] else -math.inf for node in ends]
        right = [tree.rows[node.state]["correct"] for node in ends]
        values.append(at_k.verifier_at(scores, right, min(size, len(ends))) if ends else 0.0)
        reading = np.array([0, 0, 0, tree.rows[0]["place"]["flops"]], float)  # once, for any number of solutions
        total += reading + (spent(tree, solution) - reading) * size / cfg.search.n
    low, high = bootstrap(np.array(values), seed=0)
    mean = total / len(values)
    return Line(f"{_named(cfg.search)}, all subsets", str(size), len(values), float(np.mean(values)), low, high,
                *mean.tolist())  # fmt: skip


def budget(cfg: SolveConfig, most: int, tokens: int) -> Budget:
    """Of a question whose solutions have at most so many tokens, of which `tokens` may be written (0: any number)."""
    step = min(cfg.step_tokens, most) if cfg.search.stepwise else most
    return Budget(cfg.max_candidates or None, tokens or None, step)


def _line(
    cfg: SolveConfig, stored: Stored, most: Mapping[int, int], strategy: Strategy, tokens: int, name: str
) -> Line:
    right, total = [], np.zeros(4)
    for tree, solution in solutions(cfg, strategy, stored, most, tokens):
        right.append(tree.rows[solution.chosen.state]["correct"])
        total += spent(tree, solution)
    low, high = wilson(sum(right), len(right))
    mean = total / len(right)
    return Line(_named(strategy), name, len(right), sum(right) / len(right), low, high, *mean.tolist())


def _named(strategy: Strategy) -> str:
    return configs.choice("search", type(strategy))


def spent(tree: Tree, solution: Solution) -> np.ndarray:
    """Candidates, tokens written, tokens scored and FLOPs, reading the prompt included."""
    total = np.array([-1, 0, 0, 0], float)  # the prompt is no candidate
    for number, node in enumerate(solution.nodes):
        if node.attempts:  # shown to a revision, which is charged for reading them
            continue
        row, place = tree.rows[node.state], tree.rows[node.state]["place"]
        asked = [name for name, of in solution.scores.items() if not math.isnan(of[number])]
        share = _models(asked) / max(_models(row["scores"]), 1)  # another strategy may have asked more of them
        total += 1, row["generated_tokens"], share * place["scored_tokens"], place["flops"]
        total[3] += share * place["scoring_flops"]
    return total


def _models(scorers: Iterable[str]) -> int:
    return sum(name not in NO_MODEL for name in scorers)
