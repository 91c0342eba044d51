"""Beam search, lookahead and Monte-Carlo tree search by recursion over a dictionary of paths, one problem at a time.

`children` is path -> {step: probability}, `values` is path -> number; a path without children is finished. A policy
proposes the first k steps of a path, in order.
"""

import math


def steps(children, path, k):
    return [(*path, step) for step in list(children[path])[:k]]


def greedy(children, path, count):
    """`path` and `count` more steps, each the likeliest."""
    if count == 0 or path not in children:
        return path
    likeliest = max(children[path], key=children[path].get)
    return greedy(children, (*path, likeliest), count - 1)


def beam(children, values, root, n, m, rounds, lookahead=0):
    """Every path that is proposed, in order, with its rank."""
    ranks = {}

    def play(pool, left):
        for path in pool:
            ranks.setdefault(path, values[greedy(children, path, lookahead)])
        order = list(ranks)
        kept = sorted(pool, key=lambda path: (-ranks[path], order.index(path)))[: n // m]
        if left > 1 and any(path in children for path in kept):
            play([new for path in kept for new in (steps(children, path, m) if path in children else [path])], left - 1)

    play(steps(children, root, n), rounds)
    return ranks


class Tree:
    """Monte-Carlo tree search, one simulation after another."""

    def __init__(self, children, values, *, k, depth, rule, rolled, c=2.0, c_init=1.25, c_base=19652.0):
        self.children, self.values, self.k, self.depth = children, values, k, depth
        self.rule, self.rolled, self.c, self.c_init, self.c_base = rule, rolled, c, c_init, c_base
        self.visits, self.totals, self.expanded = {}, {}, {}

    def estimate(self, path):
        """By the scorer, or by the score at the end of the first steps to come."""
        if self.rolled and path in self.children and len(path) - 1 < self.depth:
            return self.estimate(steps(self.children, path, 1)[0])
        return self.values[path]

    def prior(self, parent, child):
        # A step has two tokens of equal log-prob, so that its mean probability is the root of the step's.
        roots = [math.sqrt(self.children[parent][path[-1]]) for path in self.expanded[parent]]
        return math.sqrt(self.children[parent][child[-1]]) / sum(roots)

    def rank(self, parent, child):
        above, count = self.visits.get(parent, 0), self.visits.get(child, 0)
        mean = self.totals[child] / count if count else self.values[child]
        if self.rule == "uct":
            return (mean + self.c * math.sqrt(math.log(above) / count) if count else math.inf), self.values[child]
        growth = math.log((above + self.c_base + 1) / self.c_base) + self.c_init
        return mean + self.prior(parent, child) * math.sqrt(above) / (1 + count) * growth, self.values[child]

    def simulate(self, path):
        """The value that is backed up through `path`."""
        leaf = path not in self.children or len(path) - 1 == self.depth
        if leaf or (len(path) > 1 and not self.visits.get(path)):
            value = self.estimate(path)
        else:
            self.expanded.setdefault(path, steps(self.children, path, self.k))
            value = self.simulate(max(self.expanded[path], key=lambda child: self.rank(path, child)))
        self.visits[path] = self.visits.get(path, 0) + 1
        self.totals[path] = self.totals.get(path, 0.0) + value
        return value
