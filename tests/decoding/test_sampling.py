import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tolerances
from reference import naive_decoding, sequential
from tolerances import rounding

from qstar.decoding import sampling
from qstar.decoding.sampling import Choice, Sampling
from qstar.ops import vocabulary

# Tokens 0 to 5 with these probabilities; 1 and 4 are alike.
PROBS = [0.05, 0.2, 0.4, 0.02, 0.2, 0.13]
LOGITS = np.log(PROBS).astype(np.float32)


def kept(top_k, top_p, logits=LOGITS):
    return set(np.flatnonzero(np.asarray(sampling.likely(jnp.asarray(logits)[None], top_k, top_p))[0] > -1e29))


@pytest.mark.parametrize(
    ("top_k", "top_p", "expected"),
    [
        (0, 1.0, {0, 1, 2, 3, 4, 5}),
        (1, 1.0, {2}),
        (2, 1.0, {1, 2, 4}),  # a tie with the second
        (3, 1.0, {1, 2, 4}),
        (4, 1.0, {1, 2, 4, 5}),
        (6, 1.0, {0, 1, 2, 3, 4, 5}),
        (99, 1.0, {0, 1, 2, 3, 4, 5}),
        (0, 0.01, {2}),
        (0, 0.39, {2}),
        (0, 0.41, {1, 2, 4}),  # a tie again
        (0, 0.79, {1, 2, 4}),  # 0.8 together
        (0, 0.81, {1, 2, 4, 5}),
        (0, 0.92, {1, 2, 4, 5}),  # 0.93 together
        (0, 0.94, {0, 1, 2, 4, 5}),
        (0, 0.99, {0, 1, 2, 3, 4, 5}),
        (3, 0.49, {2}),  # 0.4 of the 0.8 that top-k left is half
        (3, 0.51, {1, 2, 4}),
    ],
)
def test_top_k_and_top_p_by_hand(top_k, top_p, expected):
    assert kept(top_k, top_p) == expected


def test_top_k_and_top_p_are_those_of_a_sorted_list():
    rng = np.random.default_rng(0)
    for _ in range(20):  # a program each
        logits = np.round(3 * rng.standard_normal(50), 1).astype(np.float32)  # rounded: with ties
        top_k, top_p = int(rng.integers(0, 50)), float(rng.uniform(0.01, 0.999))
        assert kept(top_k, top_p, logits) == set(naive_decoding.likely(logits.astype(np.float64), top_k, top_p))


def drawn(choice, count=20000):
    keys = jax.random.split(jax.random.key(1), count)
    return sampling.choose(jnp.broadcast_to(LOGITS[None], (count, 6)), keys, choice)


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        (Choice(), PROBS),
        (Choice(top_k=3), [0, 0.25, 0.5, 0, 0.25, 0]),
        (Choice(top_p=0.79, forbidden_ids=(2,)), [0, 0.2 / 0.53, 0, 0, 0.2 / 0.53, 0.13 / 0.53]),  # of 0.6 in all
        (Choice(temperature=0.5, top_k=4), [0, 0.04 / 0.2569, 0.16 / 0.2569, 0, 0.04 / 0.2569, 0.0169 / 0.2569]),
    ],
)
@pytest.mark.parametrize("large", [vocabulary.LARGE, 0])
def test_tokens_are_drawn_from_the_distribution_of_the_stored_behaviour_logprobs(choice, expected, large, monkeypatch):
    monkeypatch.setattr(vocabulary, "LARGE", large)
    found, expected = drawn(choice), np.array(expected)
    share = np.bincount(np.asarray(found.token), minlength=6) / 20000
    assert np.all(np.abs(share - expected) <= 4 * np.sqrt(expected * (1 - expected) / 20000))
    np.testing.assert_allclose(np.exp(found.behaviour), expected[found.token], rtol=rounding(10))
    # The model's own is another matter.
    np.testing.assert_allclose(np.exp(found.logprob), np.array(PROBS)[found.token], rtol=rounding(10))


def test_the_likeliest_token_has_behaviour_zero_and_a_margin_over_allowed_tokens():
    found = drawn(Choice(temperature=0.0), 2)
    assert found.token.tolist() == [2, 2]
    assert found.behaviour.tolist() == [0.0, 0.0]
    np.testing.assert_allclose(found.logprob, np.log(0.4), rtol=rounding(10))
    np.testing.assert_allclose(found.margin, np.log(2), rtol=rounding(10))
    held = drawn(Choice(temperature=0.0, forbidden_ids=(1, 2, 4)), 2)
    assert held.token.tolist() == [5, 5]
    np.testing.assert_allclose(held.margin, np.log(13 / 5), rtol=rounding(10))
    tied = drawn(Choice(temperature=0.0, forbidden_ids=(2,)), 2)
    np.testing.assert_allclose(tied.margin, 0, atol=rounding(2, size=np.log(5)))


def test_a_token_that_is_kept_is_drawn_by_the_same_noise_with_and_without_filters():
    free, held = drawn(Choice(), 500).token, drawn(Choice(top_k=4), 500).token
    stay = np.isin(free, [1, 2, 4, 5])
    np.testing.assert_array_equal(free[stay], held[stay])
    assert 0 < np.mean(stay) < 1


COLDEST = (1e-3, 1e-6, 9e-7, 1e-30, 1e-38, 1e-45, 5e-324)


@pytest.mark.parametrize("vocab", [6, 1000])  # drawn by Gumbel noise, and by inversion
@pytest.mark.parametrize("temperature", COLDEST)
def test_the_likeliest_token_is_drawn_down_to_the_smallest_temperature(temperature, vocab):
    rng = np.random.default_rng(3)
    logits = (5 * rng.standard_normal((20, vocab)) - 40).astype(np.float32)
    likeliest = int(logits[0].argmax())
    for extreme in ({}, {"top_k": 1}, {"top_k": vocab}, {"top_p": 5e-324}, {"top_p": 1 - 1e-16}):
        choice = Choice(temperature=temperature, forbidden_ids=(likeliest,), **extreme)
        found = sampling.choose(jnp.asarray(logits), jax.random.split(jax.random.key(0), 20), choice)
        allowed = np.where(np.arange(vocab) == likeliest, -np.inf, logits)
        np.testing.assert_array_equal(found.token, allowed.argmax(-1))
        np.testing.assert_allclose(found.behaviour, 0, atol=rounding(4))  # log of probability 1; all else is exactly 0
        assert np.isfinite(found.logprob).all()


@pytest.mark.parametrize("temperature", [1e13, 1e30, 3e38, 1e300])
def test_forbidden_tokens_are_not_drawn_at_the_highest_temperatures(temperature):
    found = drawn(Choice(temperature=temperature, forbidden_ids=(2, 3)), 500)
    assert set(found.token.tolist()) == {0, 1, 4, 5}
    np.testing.assert_allclose(found.behaviour, np.log(1 / 4), rtol=rounding(10))


@pytest.mark.parametrize("temperature", [1e12, 1e13, 1e38, 3e38, 1e300])
@pytest.mark.parametrize("large", [vocabulary.LARGE, 0])
def test_top_k_keeps_the_likeliest_tokens_at_the_highest_temperatures(temperature, large, monkeypatch):
    monkeypatch.setattr(vocabulary, "LARGE", large)
    for top_p in (1.0, 0.999):
        found = drawn(Choice(temperature=temperature, top_k=2, top_p=top_p, forbidden_ids=(1,)), 500)
        assert set(found.token.tolist()) == {2, 4}
        np.testing.assert_allclose(found.behaviour, np.log(1 / 2), rtol=rounding(10))


def test_log_probs_are_those_of_a_softmax():
    rng = np.random.default_rng(1)
    logits = rng.standard_normal((7, 30)).astype(np.float32)
    found = sampling.choose(jnp.asarray(logits), jax.random.split(jax.random.key(0), 7), Choice())
    expected = [
        sequential.log_softmax(row)[token] for row, token in zip(logits.astype(float), found.token, strict=True)
    ]
    np.testing.assert_allclose(
        found.logprob, expected, rtol=0, atol=tolerances.logprobs(30, size=np.abs(expected).max())
    )
    np.testing.assert_array_equal(found.logprob, found.behaviour)  # nothing is left out: the same operations


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"temperature": -0.1}, "sampling.temperature = -0.1"),
        ({"temperature": float("nan")}, "sampling.temperature = nan"),
        ({"top_k": -1}, "sampling.top_k = -1"),
        ({"top_p": 0.0}, "sampling.top_p = 0.0"),
        ({"top_p": 1.5}, "sampling.top_p = 1.5"),
        ({"max_new_tokens": 0}, "sampling.max_new_tokens = 0"),
        ({"stop": "ab"}, r"sampling.stop = 'ab'"),
        ({"stop": ("a", "")}, r"sampling.stop: \[''\] cannot end a text"),
        ({"stop": ("\ufffd",)}, "cannot end a text"),
    ],
)
def test_settings_that_cannot_be_are_refused_by_name(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(Sampling(), **change)
