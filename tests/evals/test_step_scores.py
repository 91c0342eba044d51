"""Scores of steps against the truth, on numbers that can be added by hand."""

import math

import numpy as np
import pytest

from qstar.evals import step_scores


def test_the_calibration_error_is_the_mean_gap_of_the_bins():
    scores = np.array([0.1, 0.2, 0.2, 0.9])
    right = np.array([False, True, False, True])
    # Two bins: 0.1, 0.2, 0.2 with one of three right, 0.9 with one of one.
    assert step_scores.ece(scores, right, bins=2) == pytest.approx((3 * (1 / 3 - 0.5 / 3) + 0.1) / 4)


def test_scores_that_are_shares_have_no_calibration_error():
    scores = np.repeat([0.25, 0.75], 4)
    right = np.array([True, False, False, False, True, True, True, False])
    assert step_scores.ece(scores, right) == 0


def test_a_border_belongs_to_the_bin_above_it_and_one_to_the_last():
    cells = step_scores.reliability(np.array([0.0, 0.5, 1.0]), np.array([True, False, True]), bins=2)
    assert [cell.count for cell in cells] == [1, 2]
    assert [cell.right for cell in cells] == [1.0, 0.5]
    assert math.isnan(step_scores.reliability(np.array([0.9]), np.array([True]), bins=2)[0].score)


def test_the_brier_score_is_the_mean_squared_difference():
    assert step_scores.brier(np.array([0.5, 1.0, 0.0]), np.array([True, True, True])) == pytest.approx(1.25 / 3)


@pytest.mark.parametrize("scores", [[], [1.5], [np.nan]])
def test_scores_that_are_no_probabilities_are_refused(scores):
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        step_scores.ece(np.array(scores, float), np.ones(len(scores), bool))


def test_first_errors_count_wrong_and_right_solutions_apart():
    truth = [[True, True, True], [True, False, False], [False, True], [True]]
    judged = [[True, True, True], [True, False, True], [True, False], [False]]
    errors = step_scores.first_errors(judged, truth)
    assert (errors.wrong, errors.right) == (0.5, 0.5)
    assert errors.f1 == 0.5


def test_naming_nothing_has_no_f1():
    errors = step_scores.first_errors([[True, True], [True]], [[True, False], [True]])
    assert (errors.wrong, errors.right, errors.f1) == (0.0, 1.0, 0.0)


def test_as_many_judgements_as_steps_are_expected():
    with pytest.raises(ValueError, match="solution 0 has 2 steps and 1 judgement"):
        step_scores.first_errors([[True]], [[True, False]])
