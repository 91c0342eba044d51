import numpy as np
import pytest

from qstar.evals import intervals, paired


def test_wilson_matches_published_values():
    # Newcombe (1998), Statistics in Medicine 17:857, table I, method 3.
    assert intervals.wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert intervals.wilson(15, 148) == pytest.approx((0.0624, 0.1605), abs=5e-5)
    assert intervals.wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)
    assert intervals.wilson(1, 29) == pytest.approx((0.0061, 0.1718), abs=5e-5)


def test_the_interval_of_a_difference_matches_published_values():
    # Newcombe (1998), Statistics in Medicine 17:873, table II, method 10: his p1 - p2.
    for (second, first), expected in (
        (((56, 70), (48, 80)), (0.0524, 0.3339)),
        (((9, 10), (3, 10)), (0.1705, 0.8090)),
        (((5, 56), (0, 29)), (-0.0381, 0.1926)),
    ):
        a, b = ((right / n, *intervals.wilson(right, n)) for right, n in (first, second))
        assert intervals.difference(a, b) == pytest.approx(expected, abs=5e-5)


def test_wilson_of_all_successes_mirrors_none():
    assert intervals.wilson(20, 20) == pytest.approx((0.8389, 1.0), abs=5e-5)


@pytest.mark.parametrize(("successes", "n"), [(1, 0), (3, 2), (-1, 2), (0, 0)])
def test_wilson_refuses_impossible_counts(successes, n):
    with pytest.raises(ValueError, match="expected 0 <= successes <= n"):
        intervals.wilson(successes, n)


def test_a_single_item_says_nothing_about_how_far_others_are_from_it():
    single = np.ones(1)
    assert np.isnan([*intervals.bootstrap(single, seed=0), *intervals.bootstrap_ratio(single, single, seed=0)]).all()


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


# --- over bases and seeds ------------------------------------------------------------------------------------------


def test_runs_that_are_all_right_have_an_interval_that_has_width():
    # Three seeds of 500 questions: 1500 (1.960 / 4.303)^2 = 311.2 questions' worth, 0.025^(1 / 311.2) = 0.9882.
    low, high = intervals.share_across([1.0] * 3, 500)
    assert (low, high) == pytest.approx((0.98822, 1.0), abs=2e-5)
    assert intervals.share_across([0.0] * 3, 500) == pytest.approx((0.0, 1 - 0.98822), abs=2e-5)
    # Ten seeds that agree do not know more than their 500 questions say: Clopper-Pearson of 500 of 500.
    assert intervals.share_across([1.0] * 10, 500) == pytest.approx((0.02500 ** (1 / 500), 1.0), abs=1e-6)


def test_away_from_the_bounds_it_is_nearly_student_s():
    shares = [0.50, 0.60, 0.56, 0.41, 0.58, 0.45, 0.53, 0.49]
    mean, half = intervals.student(shares)
    assert intervals.share_across(shares, 400) == pytest.approx((mean - half, mean + half), abs=0.15 * half)


@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize("p", [0.9, 0.99, 1.0])
@pytest.mark.parametrize("spread", [0.0, 0.02])
def test_it_covers_the_share_with_few_seeds_near_and_at_the_bound(p, seeds, spread):
    """Simulated: every seed has a success rate of its own (beta, with this correlation between its answers)."""
    rng = np.random.default_rng(7)
    times, questions = 600, 200
    size = (times, seeds)
    rates = rng.beta(p * (1 / spread - 1), (1 - p) * (1 / spread - 1), size) if spread and p < 1 else np.full(size, p)
    shares = rng.binomial(questions, rates) / questions
    found = np.array([intervals.share_across(row, questions) for row in shares.tolist()])
    covered = ((found[:, 0] <= p) & (p <= found[:, 1])).mean()
    assert covered >= 0.93  # 0.95 less two standard errors of 600


def test_bases_are_what_varies_where_there_are_several():
    values = {(0, 0): 0.8, (0, 1): 1.0, (1, 0): 0.5, (2, 0): 0.4}
    found = intervals.across(values)
    mean, half = intervals.student([0.9, 0.5, 0.4])
    assert (found.mean, found.low, found.high) == pytest.approx((mean, mean - half, mean + half))
    assert (found.varied, found.share) == ("3 bases, 1 to 2 seeds of each", False)
    shares = intervals.across(values, questions=100)
    assert (shares.low, shares.high) == intervals.share_across([0.9, 0.5, 0.4], 100)


def test_seeds_vary_where_there_is_one_base_and_questions_where_there_is_one_run():
    found = intervals.across({(4, 0): 0.8, (4, 2): 0.9})
    assert (found.mean, found.high - found.mean) == pytest.approx(intervals.student([0.8, 0.9]))
    assert found.varied == "2 seeds of one base"
    one = intervals.across({(0, 0): 0.75}, questions=20)
    assert (one.low, one.high) == intervals.wilson(15, 20)
    assert one.varied == "20 questions to one run"
    alone = intervals.across({(0, 0): 0.75})
    assert np.isnan(alone.low) and alone.varied == "one run"
    with pytest.raises(ValueError, match="of no values"):
        intervals.across({})


def test_intervals_are_written_with_brackets_for_shares_alone():
    runs = {(0, 0): 0.8, (0, 1): 0.9, (0, 2): 1.0}
    assert intervals.across(runs).written() == "0.900 ± 0.248"
    assert intervals.across(runs).written("+") == "+0.900 ± 0.248"
    assert intervals.across({(0, 0): 1.0, (0, 1): 1.0, (0, 2): 1.0}, 500).written() == "1.000 [0.988, 1.000]"
    assert intervals.across({(0, 0): 743629.3}).written() == "7.4e+05"


def test_a_mean_over_seeds_has_student_s_interval():
    mean, half = intervals.student([0.8, 0.9, 1.0])
    assert mean == pytest.approx(0.9)
    assert half == pytest.approx(4.302653 * 0.1 / 3**0.5)  # standard deviation 0.1, two degrees of freedom
    assert intervals.student([0.5])[0] == 0.5 and np.isnan(intervals.student([0.5])[1])
    with pytest.raises(ValueError, match="of no values"):
        intervals.student([])


def test_what_is_drawn_does_not_depend_on_how_much_is_drawn_at_once(monkeypatch):
    values, weights = np.random.default_rng(0).normal(size=(2, 37))
    weights = abs(weights) + 1
    found = []
    for at_once in (2**20, 100, 1):
        monkeypatch.setattr(intervals, "DRAWN", at_once)
        assert sum(rows for rows, _ in intervals.draws(300, 37)) == 300
        found.append(
            (
                paired.sign_flips(values, seed=0, permutations=300),
                intervals.bootstrap(values, seed=0, resamples=300),
                intervals.bootstrap_ratio(values, weights, seed=0, resamples=300),
            )
        )
    assert found[0] == found[1] == found[2]
