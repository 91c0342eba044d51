import jax
import jax.numpy as jnp
import numpy as np

from qstar.ops import masked


def test_mean_counts_marked_entries_only():
    values = jnp.array([[1.0, 2.0], [4.0, jnp.nan]])
    assert masked.mean(values, jnp.array([[True, False], [True, False]])) == 2.5


def test_mean_of_nothing_is_zero_with_zero_gradient():
    value, gradient = jax.value_and_grad(masked.mean)(jnp.array([1.0, 2.0]), jnp.array([False, False]))
    assert value == 0
    assert gradient.tolist() == [0, 0]


def test_gradient_of_a_mean_skips_unmarked_entries():
    gradient = jax.grad(masked.mean)(jnp.array([1.0, 2.0, 3.0, 4.0]), jnp.array([True, False, True, False]))
    assert gradient.tolist() == [0.5, 0, 0.5, 0]


def test_total_sums_the_last_axis():
    values = jnp.array([[1.0, 2.0, 4.0], [8.0, 16.0, 32.0]])
    where = jnp.array([[True, False, True], [False, False, False]])
    np.testing.assert_array_equal(masked.total(values, where), [5.0, 0.0])
