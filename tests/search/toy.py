"""A policy that is a dictionary: every path has its next steps with their log-probs, its value and its answer."""

import dataclasses
import itertools
import math

import numpy as np

from qstar.search.interface import Candidate, row_key


@dataclasses.dataclass
class Toy:
    """Paths are tuples of step names that begin with the name of the problem. A path without next steps is finished.

    `sampled`: steps are drawn with their probabilities; else the first k in order are proposed, which makes trees that
    can be written down.
    """

    children: dict  # path -> {step: probability}
    values: dict  # path -> number
    answers: dict  # path -> str or None
    sampled: bool = False
    tokens: int = 2  # a step
    margins: dict = dataclasses.field(default_factory=dict)  # path -> number
    calls: list = dataclasses.field(default_factory=list)  # (prefixes, k, key) of every call of propose
    scored: list = dataclasses.field(default_factory=list)  # nodes of every call of value

    def propose(self, prefixes, k, key):
        self.calls.append((tuple(prefixes), k, key))
        return [[self._candidate(prefix.state, step) for step in self._steps(prefix, k, key)] for prefix in prefixes]

    def _steps(self, prefix, k, key):
        steps = self.children[prefix.state]
        if key is None:
            return sorted(steps, key=lambda step: -steps[step])[:k]
        if not self.sampled:
            return list(steps)[:k]
        generator = np.random.default_rng(np.random.SeedSequence(row_key(key, prefix)))
        return [str(step) for step in generator.choice(list(steps), k, p=list(steps.values()))]

    def _candidate(self, path, step):
        logprobs = np.full(self.tokens, math.log(self.children[path][step]) / self.tokens)
        after = (*path, step)
        return Candidate(after, self.tokens, after not in self.children, step, logprobs, self.margins.get(after))

    def value(self, nodes):
        self.scored.append(tuple(nodes))
        return np.array([self.values[node.state] for node in nodes])

    def answer(self, node):
        return self.answers[node.state]


def lock(code="1201", **fields):
    """The right path is the code, digit by digit; the policy prefers 0. Values are 0.9 along the code, 0.1 off it."""
    children, values, answers = {}, {}, {}
    for length in range(len(code) + 1):
        for digits in itertools.product("012", repeat=length):
            path = ("lock", *digits)
            values[path] = 0.9 if code.startswith("".join(digits)) else 0.1
            if length < len(code):
                children[path] = {"0": 0.5, "1": 0.25, "2": 0.25}
            else:
                answers[path] = "".join(digits)
    return Toy(children, values, answers, **fields)


def random_toy(seed, problems=1, depth=4, width=3, **fields):
    """Trees of random shape below each problem's name, with values and probabilities in which ties are common."""
    generator = np.random.default_rng(seed)
    toy = Toy({}, {}, {}, **fields)

    def grow(path):
        toy.values[path] = float(generator.integers(5)) / 4
        if len(path) == 1 or (len(path) <= depth and generator.random() < 0.75):
            weights = generator.integers(1, 4, size=generator.integers(1, width + 1))
            toy.children[path] = {f"{step}": float(w / weights.sum()) for step, w in enumerate(weights)}
            for step in toy.children[path]:
                grow((*path, step))
        else:
            toy.answers[path] = (None, "a", "b", "c")[generator.integers(4)]
            toy.margins[path] = float(generator.integers(5)) / 4

    for problem in range(problems):
        grow((str(problem),))
    return toy
