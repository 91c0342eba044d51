"""What a graded sample weighs."""

import math

import pytest

from qstar.recipes.weighting import weights


@pytest.mark.parametrize(
    ("right", "kind", "baseline", "expected"),
    [
        ([1, 0, 1, 0], "pg", False, [0.25, 0, 0.25, 0]),
        ([1, 0, 0, 0], "pg", True, [0.1875, -0.0625, -0.0625, -0.0625]),
        ([1, 0, 1, 1], "ml", False, [1 / 3, 0, 1 / 3, 1 / 3]),
        ([1, 0, 0, 0], "ml", True, [0.75, -0.25, -0.25, -0.25]),
        ([1, 0], "deviation", True, [0.5, -0.5]),
        ([1, 0, 0, 0], "deviation", True, [0.75 / math.sqrt(3), *[-0.25 / math.sqrt(3)] * 3]),
        ([1, 1], "pg", False, [0.5, 0.5]),
        ([1, 1], "deviation", False, [0.5, 0.5]),
        ([1], "ml", False, [1.0]),
        ([0, 0], "ml", False, [0, 0]),
        ([0, 0], "deviation", True, [0, 0]),
        ([1, 1], "deviation", True, [0, 0]),
    ],
)
def test_weights_by_hand(right, kind, baseline, expected):
    assert weights([bool(one) for one in right], kind, baseline) == pytest.approx(expected)


def test_what_has_no_weight_is_refused():
    with pytest.raises(ValueError, match="weighting = 'raft': choose one of pg, deviation, ml"):
        weights([True], "raft", False)
    with pytest.raises(ValueError, match="without samples"):
        weights([], "pg", False)
