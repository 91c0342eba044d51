"""Array types and the dimension key: the one place where the letters of a shape are defined.

B  sequences in a batch            D  model width            V  vocabulary
R  thoughts per position           F  feed-forward width     L  layers
S  text positions                  H  query heads            G  key/value heads
U  text positions as keys          K  size of one head       P  prompt length
J  text positions that have a next token (S - 1)
A  anchors: text positions that think (A = S when all do)
T  sampled tokens in a thought     N  true tokens scored after a thought (the paper's n_true)
Q  questions, each with R samples (then R counts samples of a question)
C  columns of an anchor: start + T + end + (N - 1)
E  columns as keys
"""

import functools
from collections.abc import Callable
from typing import Any

import jaxtyping
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree, jaxtyped

Key = PRNGKeyArray
Keys = jaxtyping.Key[Array, "B"]  # one a row
Params = dict[str, Any]
"""A nested plain dict of arrays."""


def typed(function: Callable) -> Callable:
    """The function with arguments and result checked against its annotations.

    The checks are written when it is first called: for everything that is imported they would take half a second.
    """

    @functools.cache
    def checked() -> Callable:
        from beartype import beartype

        return jaxtyped(function, typechecker=beartype)

    @functools.wraps(function)
    def call(*args, **kwargs):
        return checked()(*args, **kwargs)

    return call


__all__ = ["Array", "Bool", "Float", "Int", "Key", "Keys", "Params", "PyTree", "typed"]
