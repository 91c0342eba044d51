import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tolerances import rounding

from qstar.ops import rotary
from qstar.ops.rotary import Scaling


def turned(x, position, theta):
    return rotary.rotate(x, jnp.array([position]), rotary.frequencies(x.shape[-1], theta, None, np.float32))


def test_rotary_embedding_turns_pairs_by_position_times_frequency():
    x = jnp.array([[[1.0, 0.0, 0.0, 2.0]]])  # one row, one head; pairs (0, 2) and (1, 3)
    found = turned(x, 3, 100.0)
    # Angles 3 * 100^0 = 3 and 3 * 100^(-1/2) = 0.3.
    np.testing.assert_allclose(found[0, 0], [np.cos(3), -2 * np.sin(0.3), np.sin(3), 2 * np.cos(0.3)], rtol=rounding(3))


def test_rotary_frequencies_are_those_of_transformers_to_the_last_bit():
    x = jnp.concatenate([jnp.ones((1, 1, 32)), jnp.zeros((1, 1, 32))], axis=-1)
    found = turned(x, 1, 1e5)[0, 0, 32:]
    # LlamaRotaryEmbedding.inv_freq (theta 1e5, head size 64) at pairs 27, 28, 31: so small that their sine is they.
    expected = [float.fromhex(bits) for bits in ("0x1.faeba8p-15", "0x1.61bea4p-15", "0x1.e0d6dap-17")]
    np.testing.assert_array_equal(found[jnp.array([27, 28, 31])], np.array(expected, np.float32))


def test_rotated_scores_depend_on_the_distance_alone():
    query, key = jax.random.normal(jax.random.key(1), (2, 1, 1, 8))
    near = turned(query, 5, 1e4) * turned(key, 2, 1e4)
    far = turned(query, 105, 1e4) * turned(key, 102, 1e4)
    # Angles of up to 105 radians are rounded.
    size = 105 * np.linalg.norm(query) * np.linalg.norm(key)
    np.testing.assert_allclose(near.sum(), far.sum(), rtol=0, atol=rounding(1, size=size))


def test_linear_scaling_turns_every_pair_slower():
    found = rotary.frequencies(4, 100.0, Scaling(8.0), np.float64)
    np.testing.assert_allclose(found, [0.125, 0.0125], rtol=rounding(4, "float64"))


def test_llama3_scaling_spares_fast_pairs_slows_slow_ones_and_fades_between():
    scaling = Scaling(4.0, low=1.0, high=3.0, original_len=40)
    found = rotary.frequencies(6, 1000.0, scaling, np.float64)
    # Turns within 40 positions: 6.4, 0.64, 0.064 at frequencies 1, 0.1, 0.01: above 3, then below 1.
    np.testing.assert_allclose(found, [1.0, 0.025, 0.0025], rtol=rounding(8, "float64"))
    turns = 400 * 0.1 / (2 * np.pi) / 10
    between = rotary.frequencies(4, 100.0, Scaling(4.0, low=turns / 2, high=turns * 3 / 2, original_len=40), np.float64)
    # Half way: half of it whole, half of it a quarter.
    np.testing.assert_allclose(between[1], 0.1 * (0.5 + 0.5 / 4), rtol=rounding(8, "float64"))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"factor": 0.0}, "rope_scaling.factor = 0.0: expected a positive number"),
        ({"factor": 8.0, "low": 1.0}, "low, high and original_len come together"),
        ({"factor": 8.0, "low": 4.0, "high": 1.0, "original_len": 8}, r"low = 4.0, high = 1.0"),
    ],
)
def test_impossible_scalings_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        Scaling(**wrong)
