"""The way into a search."""

from collections.abc import Mapping, Sequence

from qstar.search.interface import Answer, Budget, Key, Propose, Solutions, Value
from qstar.search.strategy import Strategy
from qstar.search.trees import Trees


def search(
    strategy: Strategy,
    prompts: Sequence[object],
    propose: Propose,
    value: Mapping[str, Value],
    answer: Answer,
    key: Key,
    budget: Budget | None = None,
) -> Solutions:
    """Solutions of all prompts by a strategy.

    Args:
        prompts: the state of every problem before its first step.
        value: scorers. The first one guides the search; all others, an oracle among them, are asked about finished
            solutions when the search is over, and change nothing. Strategies without a verifier take none.
        budget: limits for each problem; None: there are none.

    Raises:
        ValueError: for a budget below the first round's candidates, no prompts, a strategy whose scorer is missing;
            and during the search, for what breaks the contracts of `propose` and `value`.
    """
    budget = Budget() if budget is None else budget
    budget.check(strategy.branching)
    if strategy.guided and not value:
        raise ValueError(
            f"value is empty: {strategy} expects a scorer; Majority, Confidence and CoTDecoding expect none"
        )
    return strategy(Trees(prompts, propose, value, answer, key, budget))
