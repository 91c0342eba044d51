import numpy as np
import pytest

from qstar.evals import intervals


def test_wilson_matches_published_values():
    # Newcombe (1998), Statistics in Medicine 17:857, table I, method 3.
    assert intervals.wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert intervals.wilson(15, 148) == pytest.approx((0.0624, 0.1605), abs=5e-5)
    assert intervals.wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)
    assert intervals.wilson(1, 29) == pytest.approx((0.0061, 0.1718), abs=5e-5)


def test_wilson_of_all_successes_mirrors_none():
    assert intervals.wilson(20, 20) == pytest.approx((0.8389, 1.0), abs=5e-5)


@pytest.mark.parametrize(("successes", "n"), [(1, 0), (3, 2), (-1, 2), (0, 0)])
def test_wilson_refuses_impossible_counts(successes, n):
    with pytest.raises(ValueError, match="expected 0 <= successes <= n"):
        intervals.wilson(successes, n)


def test_bootstrap_covers_the_mean_with_the_width_of_the_normal_interval():
    values = np.arange(400) / 399  # mean 0.5, standard deviation 0.28940
    low, high = intervals.bootstrap(values, seed=0)
    assert low < 0.5 < high
    assert high - low == pytest.approx(2 * 1.96 * 0.28940 / 20, rel=0.05)  # 2,000 resamples: a few per cent


def test_bootstrap_is_a_function_of_its_seed():
    values = np.asarray([0.0, 0.1, 0.7, 0.9])
    assert intervals.bootstrap(values, seed=1) == intervals.bootstrap(values, seed=1)
    assert intervals.bootstrap(np.full(5, 0.25), seed=0) == (0.25, 0.25)
    with pytest.raises(ValueError, match="no values"):
        intervals.bootstrap(np.zeros(0), seed=0)


def test_a_ratio_s_interval_draws_numerator_and_denominator_together():
    # Every pair has the ratio 2, whatever its size.
    sizes = np.asarray([1.0, 5.0, 30.0])
    assert intervals.bootstrap_ratio(2 * sizes, sizes, seed=0) == (2.0, 2.0)
    # Two of each: the drawn ratios are 1, 3 and (10 + 3) / 11.
    assert intervals.bootstrap_ratio(np.asarray([10.0, 3.0]), np.asarray([10.0, 1.0]), seed=0) == (1.0, 3.0)
    rng = np.random.default_rng(1)
    above, below = rng.uniform(0, 2, 500), rng.uniform(1, 3, 500)
    low, high = intervals.bootstrap_ratio(above, below, seed=0)
    # Delta method: the deviation of a - r b over mean(b) sqrt(n).
    ratio = above.sum() / below.sum()
    half = 1.96 * np.std(above - ratio * below) / below.mean() / np.sqrt(500)
    assert (low, high) == pytest.approx((ratio - half, ratio + half), abs=0.1 * half)
    with pytest.raises(ValueError, match="no values"):
        intervals.bootstrap_ratio(np.zeros(0), np.zeros(0), seed=0)


def test_a_mean_over_seeds_has_student_s_interval():
    mean, half = intervals.student([0.8, 0.9, 1.0])
    assert mean == pytest.approx(0.9)
    assert half == pytest.approx(4.302653 * 0.1 / 3**0.5)  # standard deviation 0.1, two degrees of freedom
    assert intervals.student([0.5])[0] == 0.5 and np.isnan(intervals.student([0.5])[1])
    with pytest.raises(ValueError, match="of no values"):
        intervals.student([])
