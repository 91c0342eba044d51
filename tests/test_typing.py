"""Signatures of arrays are checked when they are called."""

import numpy as np
import pytest

from qstar import typing
from qstar.typing import Float, typed


@typed
def scaled(values: Float[np.ndarray, "B S"], by: Float[np.ndarray, "S"]) -> Float[np.ndarray, "B S"]:
    """Doc."""
    return (values * by)[: 1 if by[0] == 0 else None]


def test_shapes_that_fit_pass():
    assert scaled(np.ones((2, 3)), np.full(3, 2.0)).tolist() == [[2.0] * 3] * 2
    assert (scaled.__name__, scaled.__doc__) == ("scaled", "Doc.")


@pytest.mark.parametrize("by", [np.ones(4), np.ones(3, np.int32), [1.0, 1.0, 1.0]], ids=["size", "type", "no_array"])
def test_arguments_that_do_not_fit_are_refused(by):
    with pytest.raises(Exception, match=r"Type-check error whilst checking the parameters of \S*scaled"):
        scaled(np.ones((2, 3)), by)


def test_a_result_that_does_not_fit_is_refused():
    with pytest.raises(Exception, match=r"Type-check error whilst checking the return value of \S*scaled"):
        scaled(np.ones((2, 3)), np.zeros(3))


def test_checks_are_written_once_and_not_before_the_first_call(monkeypatch):
    written = []
    monkeypatch.setattr(typing, "jaxtyped", lambda function, **_: written.append(function.__name__) or function)
    double = typed(lambda x: 2 * x)
    assert written == []
    assert (double(2), double(3), written) == (4, 6, ["<lambda>"])
