import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tolerances
from tolerances import rounding

from qstar.ops import attention, chunk, vocabulary

VOCAB, WIDTH = 5, 4
TABLE = jnp.asarray(np.random.default_rng(0).standard_normal((VOCAB, WIDTH)), jnp.float32)
HIDDEN = jnp.asarray(np.random.default_rng(1).standard_normal((2, 3, 7, WIDTH)), jnp.float32)
TARGETS = jnp.asarray(np.random.default_rng(2).integers(0, VOCAB, (2, 3, 7)))


@pytest.fixture(params=["small", "large"])
def drawing(request, monkeypatch):
    """Both ways to draw, the second in blocks that do not divide the vocabulary."""
    if request.param == "large":
        monkeypatch.setattr(vocabulary, "LARGE", 0)
        monkeypatch.setattr(vocabulary, "BLOCK", 3)


def head(hidden, table=TABLE):
    return jnp.einsum("...d,vd->...v", hidden, table)


def expected_logprobs(temperature, forbidden):
    logits = np.array(HIDDEN, np.float64) @ np.array(TABLE, np.float64).T / temperature
    logits[..., list(forbidden)] = -np.inf
    logits -= np.log(np.exp(logits).sum(-1, keepdims=True))
    return np.take_along_axis(logits, np.asarray(TARGETS)[..., None], -1)[..., 0]


@pytest.mark.parametrize("budget", [2**20, 1, 2 * 3 * VOCAB * 4 * 2])  # one slice; slices of one; of two, one padded
@pytest.mark.parametrize(("temperature", "forbidden"), [(1.0, ()), (3.0, (1, 4))])
def test_logprobs_are_those_of_the_softmax_whatever_the_slices(monkeypatch, budget, temperature, forbidden):
    monkeypatch.setattr(chunk, "BUDGET_BYTES", budget)
    found = np.asarray(vocabulary.logprobs(head, HIDDEN, TARGETS, 2, VOCAB, temperature, forbidden))
    allowed = ~np.isin(np.asarray(TARGETS), forbidden)
    expected = expected_logprobs(temperature, forbidden)[allowed]
    np.testing.assert_allclose(
        found[allowed], expected, rtol=0, atol=tolerances.logprobs(VOCAB, size=np.abs(expected).max())
    )
    assert np.isfinite(found).all()


@pytest.mark.parametrize("budget", [1, 2 * 3 * VOCAB * 4 * 2])
def test_gradients_of_logprobs_do_not_depend_on_the_slices(monkeypatch, budget):
    def total(hidden, table):
        weights = jnp.arange(42.0).reshape(2, 3, 7)
        return jnp.sum(weights * vocabulary.logprobs(lambda h: head(h, table), hidden, TARGETS, 2, VOCAB))

    whole = jax.grad(total, (0, 1))(HIDDEN, TABLE)
    monkeypatch.setattr(chunk, "BUDGET_BYTES", budget)
    for found, expected in zip(jax.grad(total, (0, 1))(HIDDEN, TABLE), whole, strict=True):
        bound = rounding(42 + WIDTH + VOCAB, size=np.abs(expected).max())
        np.testing.assert_allclose(found, expected, rtol=0, atol=bound)


@pytest.mark.parametrize("budget", [1, 2 * 3 * VOCAB * 4 * 2])
def test_draws_do_not_depend_on_the_slices(drawing, monkeypatch, budget):
    whole = vocabulary.sample(head, HIDDEN, jax.random.key(0), VOCAB)
    monkeypatch.setattr(chunk, "BUDGET_BYTES", budget)
    sliced = vocabulary.sample(head, HIDDEN, jax.random.key(0), VOCAB)
    np.testing.assert_array_equal(sliced[0], whole[0])
    np.testing.assert_allclose(
        sliced[1], whole[1], rtol=0, atol=tolerances.logprobs(VOCAB, size=np.abs(whole[1]).max())
    )


def test_sliced_draws_reuse_no_key_under_jit(drawing, monkeypatch):
    monkeypatch.setattr(chunk, "BUDGET_BYTES", 240)
    draw = jax.jit(lambda hidden, key: vocabulary.sample(head, hidden, key, VOCAB)[0])
    np.testing.assert_array_equal(
        draw(HIDDEN, jax.random.key(0)), vocabulary.sample(head, HIDDEN, jax.random.key(0), VOCAB)[0]
    )


def test_the_draw_of_an_anchor_does_not_depend_on_the_anchors_after_it(drawing):
    many, _ = vocabulary.sample(head, HIDDEN, jax.random.key(0), VOCAB)
    few, _ = vocabulary.sample(head, HIDDEN[:, :, :4], jax.random.key(0), VOCAB)
    np.testing.assert_array_equal(few, many[:, :, :4])


PROBABILITIES = np.array([0.5, 0.25, 0.15, 0.1])


def draws(key, temperature=1.0, forbidden=()):
    """20,000 draws where the hidden state is the log of `PROBABILITIES` and the head the identity."""
    hidden = jnp.broadcast_to(jnp.log(jnp.asarray(PROBABILITIES, jnp.float32)), (4, 50, 100, 4))
    return vocabulary.sample(lambda h: h, hidden, key, 4, temperature, forbidden)


def chi_square(tokens, probabilities):
    tokens = np.asarray(tokens)
    expected = probabilities * tokens.size
    return float(np.sum((np.bincount(tokens.ravel(), minlength=len(probabilities)) - expected) ** 2 / expected))


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_draws_follow_the_softmax(drawing, temperature):
    sharpened = PROBABILITIES ** (1 / temperature)
    tokens, _ = draws(jax.random.key(0), temperature)
    assert chi_square(tokens, sharpened / sharpened.sum()) < 16.3  # 99.9% of chi-square with 3 degrees of freedom


def test_draws_of_rows_samples_and_anchors_are_independent(drawing):
    tokens = np.asarray(draws(jax.random.key(1))[0])
    for axis in range(3):
        first, second = np.split(np.moveaxis(tokens, axis, 0), 2)
        pairs = 4 * first + second
        joint = np.outer(PROBABILITIES, PROBABILITIES).ravel()
        assert chi_square(pairs, joint) < 37.7  # 99.9% with 15 degrees of freedom


def test_logprobs_of_draws_are_those_of_the_distribution_drawn_from(drawing):
    tokens, logprobs = draws(jax.random.key(0), 0.5, forbidden=(0,))
    sharpened = np.array([0, 0.25**2, 0.15**2, 0.1**2])
    np.testing.assert_allclose(np.exp(logprobs), (sharpened / sharpened.sum())[np.asarray(tokens)], rtol=rounding(10))


def test_temperature_zero_takes_the_likeliest_token_with_its_own_logprob(drawing):
    tokens, logprobs = draws(jax.random.key(0), 0.0)
    assert np.all(tokens == 0)
    np.testing.assert_allclose(np.exp(logprobs), 0.5, rtol=rounding(10))


def test_forbidden_tokens_never_occur(drawing):
    assert set(np.unique(draws(jax.random.key(0), 1.0, (0, 2))[0])) == {1, 3}
    assert np.all(draws(jax.random.key(0), 0.0, (0,))[0] == 1)


def test_one_number_draws_the_token_that_it_falls_on(monkeypatch):
    monkeypatch.setattr(vocabulary, "BLOCK", 3)
    logits = jnp.log(jnp.array([0.25, 0.0, 0.125, 0.125, 0.0, 0.0, 0.0, 0.5, 0.0, 0.0]))
    borders = {0.0: 0, 0.249: 0, 0.25: 2, 0.374: 2, 0.375: 3, 0.499: 3, 0.5: 7, 1 - 2**-23: 7}
    found = vocabulary.inverted(jnp.broadcast_to(logits, (len(borders), 10)), jnp.array(list(borders)))
    assert found.tolist() == list(borders.values())


def test_what_has_no_probability_is_not_drawn_however_sums_are_rounded(monkeypatch):
    monkeypatch.setattr(vocabulary, "BLOCK", 7)
    rng = np.random.default_rng(0)
    logits = jnp.asarray(np.where(rng.random((2000, 300)) < 0.9, attention.MASKED, rng.normal(0, 8, (2000, 300))))
    near = np.cumsum(np.asarray(jax.nn.softmax(logits)), -1)[:, rng.integers(0, 300, 9)]  # on the borders themselves
    for uniform in np.clip(near.T, 0, 1 - 2**-23):
        tokens = vocabulary.inverted(logits, jnp.asarray(uniform))
        assert np.all(np.take_along_axis(np.asarray(logits), np.asarray(tokens)[:, None], 1) > attention.MASKED)


def test_draws_of_a_large_vocabulary_follow_its_softmax():
    logits = jnp.asarray(np.random.default_rng(0).normal(0, 2, 5000), jnp.float32)
    probabilities = np.asarray(jax.nn.softmax(logits), np.float64)
    tokens, _ = vocabulary.sample(lambda h: h, jnp.broadcast_to(logits, (5, 10, 100, 5000)), jax.random.key(0), 5000)
    order = np.argsort(probabilities)[::-1]
    groups = np.empty(5000, int)  # 50 groups of about equal probability
    groups[order] = np.minimum(np.cumsum(probabilities[order]) * 50, 49).astype(int)
    expected = np.bincount(groups, probabilities, 50)
    used = expected > 0
    found = np.bincount(groups[np.asarray(tokens).ravel()], minlength=50)
    assert np.sum((found - 5000 * expected)[used] ** 2 / (5000 * expected[used])) < 85.4  # 99.9%, at most 49 degrees


@pytest.mark.parametrize("temperature", [1e-7, 1e-38, 1e-45])
def test_thoughts_at_the_smallest_temperatures_are_the_likeliest_tokens(drawing, temperature):
    tokens, logprobs = vocabulary.sample(head, HIDDEN, jax.random.key(0), VOCAB, temperature, (2,))
    likeliest = np.where(np.arange(VOCAB) == 2, -np.inf, head(HIDDEN)).argmax(-1)
    np.testing.assert_array_equal(tokens, likeliest)
    np.testing.assert_allclose(logprobs, 0, atol=rounding(4))  # log of probability 1; all else is exactly 0
    again = vocabulary.logprobs(head, HIDDEN, jnp.asarray(likeliest), 2, VOCAB, temperature, (2,))
    np.testing.assert_allclose(again, 0, atol=rounding(4))
