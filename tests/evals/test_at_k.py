"""pass@k and Verifier@k against all subsets, one by one."""

import itertools

import numpy as np
import pytest

from qstar.evals.at_k import pass_at, verifier_at


def over_subsets(worth, count, k):
    return np.mean([worth(subset) for subset in itertools.combinations(range(count), k)])


@pytest.mark.parametrize("k", [1, 2, 3, 6])
def test_both_are_means_over_all_subsets(k):
    right, scores = [True, False, False, True, False, True], [0.1, 0.9, 0.5, 0.5, 0.5, 0.3]

    def best(subset):
        most = max(scores[i] for i in subset)
        return np.mean([right[i] for i in subset if scores[i] == most])

    assert pass_at(right, k) == pytest.approx(over_subsets(lambda subset: any(right[i] for i in subset), 6, k))
    assert verifier_at(scores, right, k) == pytest.approx(over_subsets(best, 6, k))


def test_scores_that_know_everything_reach_pass_at_k():
    right = [True, False, True, False, False]
    assert verifier_at([float(is_right) for is_right in right], right, 3) == pytest.approx(pass_at(right, 3))


@pytest.mark.parametrize("k", [0, 4])
def test_k_is_at_most_the_number_of_samples(k):
    with pytest.raises(ValueError, match=f"k = {k} of 3"):
        verifier_at([1, 2, 3], [True, False, True], k)


def test_a_score_that_is_nan_is_named():
    with pytest.raises(ValueError, match="score of sample 1 is NaN"):
        verifier_at([0.5, float("nan")], [True, False], 1)
