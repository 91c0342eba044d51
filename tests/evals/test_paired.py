"""Tests of two answers to the same items."""

import numpy as np
import pytest

from qstar.evals import paired


def rows(thoughts, exact, score, draw=0, question="q"):
    return [
        {
            "item": f"i{n}",
            "thoughts": thoughts,
            "draw": draw,
            "question": question,
            "exact": bool(e),
            "score": s,
            "weight": 0.5,
            "cut": 0,
        }
        for n, (e, s) in enumerate(zip(exact, score, strict=True))
    ]


def test_mcnemar_is_the_exact_binomial_test_of_discordant_pairs():
    # Twice the tail of a fair coin: 2 * (1 + 10 + 45) / 1024, and 2 * (1 + 6) / 64.
    assert paired.mcnemar(2, 8) == pytest.approx(112 / 1024)
    assert paired.mcnemar(8, 2) == pytest.approx(112 / 1024)
    assert paired.mcnemar(5, 1) == pytest.approx(14 / 64)
    assert paired.mcnemar(3, 3) == 1.0
    assert paired.mcnemar(0, 0) == 1.0


def test_sign_flips_count_the_patterns_that_give_as_large_a_mean():
    # Of the eight patterns of 1, 2, 3 only two, all signs equal, reach 6. Three standard errors of 10,000 permutations,
    # and of 4,000 below; numpy draws the same ones everywhere.
    assert paired.sign_flips(np.array([1.0, 2.0, 3.0]), seed=0) == pytest.approx(2 / 8, abs=0.015)
    # 4 or -4 from 1, 2, 3 with one sign turned: the patterns of sum 4 or 6 are four.
    assert paired.sign_flips(np.array([-1.0, 2.0, 3.0]), seed=0) == pytest.approx(4 / 8, abs=0.015)
    assert paired.sign_flips(np.array([0.1] * 3), seed=0, permutations=4000) == pytest.approx(2 / 8, abs=0.03)
    assert paired.sign_flips(np.zeros(5), seed=0) == 1.0
    assert paired.sign_flips(np.full(60, 0.5), seed=0) == 1 / 10_001


def test_sign_flips_of_no_difference_are_uniform():
    rng = np.random.default_rng(0)
    found = np.array([paired.sign_flips(rng.normal(size=30), seed=1, permutations=300) for _ in range(200)])
    assert [np.mean(found < p) for p in (0.1, 0.5, 0.9)] == pytest.approx(
        [0.1, 0.5, 0.9], abs=0.1
    )  # three standard errors


def test_thinking_is_held_against_not_thinking_on_the_same_items():
    none = rows("none", [1, 0, 0, 0, 0, 0, 0, 0], [0.5] * 8)
    greedy = rows("greedy", [0, 1, 1, 1, 1, 1, 0, 0], [0.7] * 4 + [0.5] * 4)[::-1]  # the order does not matter
    exact, score = paired.within("cups", [*none, *greedy])
    assert (exact.task, exact.column, exact.ways, exact.n) == ("cups", "exact", ("none", "greedy"), 8)
    assert (exact.first, exact.second, exact.difference) == (1 / 8, 5 / 8, 4 / 8)
    assert (exact.p, exact.test) == (pytest.approx(14 / 64), "McNemar, exact")
    assert (score.column, score.test) == ("score", "sign flips")
    assert score.difference == pytest.approx(0.1)
    assert 0 <= score.low < 0.1 < score.high <= 0.2
    assert score.p == pytest.approx(2 / 16, abs=0.015)  # four items that differ


def test_with_several_draws_an_item_counts_once():
    none = rows("none", [0, 0], [0.2, 0.2])
    sampled = [*rows("sampled", [1, 0], [0.2, 0.4], 0), *rows("sampled", [1, 1], [0.4, 0.4], 1)]
    exact, score = paired.within("cups", none + sampled)
    assert (exact.n, exact.second, exact.test) == (2, 0.75, "sign flips")
    assert score.second == pytest.approx((0.3 + 0.4) / 2)


def test_two_evaluations_are_paired_way_by_way_or_against_no_thoughts():
    control = rows("none", [0, 1], [0.1, 0.2])
    mine = [*rows("none", [1, 1], [0.2, 0.2]), *rows("greedy", [1, 1], [0.3, 0.3])]
    assert [(one.ways, one.column) for one in paired.between("cups", control, mine)] == [
        (("none", "none"), "exact"), (("none", "none"), "score"),
        (("none", "greedy"), "exact"), (("none", "greedy"), "score"),
    ]  # fmt: skip
    assert [one.ways for one in paired.between("cups", mine, mine)][::2] == [("none", "none"), ("greedy", "greedy")]
    assert [one.ways for one in paired.between("cups", mine, control)] == [("none", "none")] * 2


def test_only_items_that_both_answered_are_paired():
    one, two = rows("none", [0, 1, 1], [0.1, 0.2, 0.3]), rows("none", [1, 1, 0], [0.3, 0.2, 0.9])
    found = paired.between("cups", one[:2], two[1:])
    assert [(each.n, each.first, each.second) for each in found] == [(1, 1.0, 1.0), (1, 0.2, 0.2)]


def test_items_that_cannot_be_paired_are_refused():
    one = rows("none", [0, 1], [0.1, 0.2])
    with pytest.raises(ValueError, match="cups: the two evaluations have no item in common"):
        paired.between("cups", one[:1], one[1:])
    with pytest.raises(ValueError, match=r"cups: item i0 is 'q' in one evaluation and 'other' in the other"):
        paired.between("cups", one, rows("none", [0, 1], [0.1, 0.2], question="other"))
    assert paired.within("cups", one) == []
