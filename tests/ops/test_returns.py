import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import returns as slow
from tolerances import rounding

from qstar.ops import returns

MASK = np.array([[0, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1], [0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 1]], bool)


def drawn(seed, shape=MASK.shape):
    return np.random.default_rng(seed).normal(size=shape)


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 0.95), (0.9, 1.0), (0.9, 0.0), (1.0, 1.0)])
def test_advantages_and_returns_are_those_of_the_loops(x64, gamma, lam):
    reward, value = drawn(0), drawn(1)
    found = returns.gae(jnp.asarray(reward), jnp.asarray(value), jnp.asarray(MASK), gamma, lam)
    np.testing.assert_allclose(found, slow.gae(reward, value, MASK, gamma, lam), rtol=0, atol=rounding(64, np.float64))
    found = returns.discounted(jnp.asarray(reward), jnp.asarray(MASK), gamma)
    np.testing.assert_allclose(found, slow.discounted(reward, MASK, gamma), rtol=0, atol=rounding(64, np.float64))


def test_masked_rewards_and_values_count_nowhere():
    reward, value = jnp.asarray(drawn(0), jnp.float32), jnp.asarray(drawn(1), jnp.float32)
    outside = jnp.where(MASK, 0, 1e6)
    mask = jnp.asarray(MASK)
    same = returns.gae(reward + outside, value + outside, mask, 0.9, 0.9)
    np.testing.assert_array_equal(same, returns.gae(reward, value, mask, 0.9, 0.9))
    assert not np.any(np.asarray(same)[~MASK])


def test_whitened_values_have_mean_0_and_variance_1_where_they_count(x64):
    values = jnp.asarray(drawn(2) * 3 + 5)
    found = np.asarray(returns.whitened(values, jnp.asarray(MASK)))
    assert abs(found[MASK].mean()) < rounding(64, np.float64)
    assert found[MASK].var() == pytest.approx(1, abs=1e-8)  # the epsilon under the root
    assert not np.any(found[~MASK])


@pytest.mark.parametrize("leave_one_out", [False, True])
@pytest.mark.parametrize("spread", returns.SPREADS)
def test_group_advantages_are_those_of_the_loops(x64, leave_one_out, spread):
    reward = drawn(3, (5, 4))
    found = returns.group_advantage(jnp.asarray(reward), leave_one_out, spread, 1e-4)
    expected = slow.group_advantage(reward, leave_one_out, spread, 1e-4)
    np.testing.assert_allclose(found, expected, rtol=rounding(64, np.float64), atol=rounding(64, np.float64))


def test_one_right_of_eight_by_population_and_by_sample(x64):
    reward = jnp.array([[1.0] + [0.0] * 7])
    by = {
        spread: float(returns.group_advantage(reward, spread=spread, epsilon=0.0)[0, 0]) for spread in returns.SPREADS
    }
    assert by == {"none": 0.875, "population": pytest.approx(7**0.5), "sample": pytest.approx((49 / 8) ** 0.5)}


def test_equal_rewards_earn_exactly_nothing():
    reward = jnp.full((1, 3), 0.1) + jnp.array([[0.0], [1.0]])
    for spread in returns.SPREADS:
        assert not np.any(returns.group_advantage(reward, leave_one_out=True, spread=spread))


def test_a_single_sample_has_no_group():
    with pytest.raises(ValueError, match="two or more samples"):
        returns.group_advantage(jnp.ones((2, 1)))
    with pytest.raises(ValueError, match="spread = 'range'"):
        returns.group_advantage(jnp.ones((2, 2)), spread="range")


def test_they_compile():
    assert jax.jit(returns.whitened)(jnp.ones((2, 3)), jnp.ones((2, 3), bool)).shape == (2, 3)
