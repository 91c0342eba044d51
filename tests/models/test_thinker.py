import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from qstar.models import lm as language_model
from qstar.models import thinker
from qstar.models.thinker import ThinkerConfig


def test_thinker_from_a_language_model_keeps_it_and_begins_its_delimiters_as_one_token():
    lm = tiny.lm_of()[1]
    params = thinker.from_lm(ThinkerConfig(tiny.LM, delimiter_scale=4.0, pause=True), lm, 7, jax.random.key(0))
    assert params["lm"] is lm
    row = np.asarray(lm["embedding"][7])
    np.testing.assert_array_equal(params["start"], row / 4)
    np.testing.assert_array_equal(params["end"], row / 4)
    np.testing.assert_array_equal(params["pause"], row)
    assert not np.any(params["mixing"]["last"])
    assert np.any(params["mixing"]["first"])


def test_a_language_model_of_another_shape_is_refused():
    lm = tiny.lm_of(dataclasses.replace(tiny.LM, ff=24))[1]
    with pytest.raises(ValueError, match=r"blocks/gate is \(2, 16, 24\), wanted \(2, 16, 20\)"):
        thinker.from_lm(ThinkerConfig(tiny.LM), lm, 7, jax.random.key(0))


def test_columns_are_start_thought_end_and_true_tokens_with_scaled_delimiters():
    model, params = tiny.thinker_of(delimiter_scale=4.0)
    inner, true = jnp.full((1, 2, 3, 2, 16), 5.0), jnp.full((1, 2, 3, 1, 16), 6.0)
    found = np.asarray(model.bind(params).columns_input(inner, true))
    assert found.shape == (1, 2, 3, 5, 16)
    for r, a in np.ndindex(2, 3):
        np.testing.assert_allclose(found[0, r, a, 0], 4 * params["start"], rtol=1e-6)
        assert np.all(found[0, r, a, 1:3] == 5)
        np.testing.assert_allclose(found[0, r, a, 3], 4 * params["end"], rtol=1e-6)
        assert np.all(found[0, r, a, 4] == 6)


def test_mixing_weight_by_hand():
    model, params = tiny.thinker_of(dataclasses.replace(tiny.LM, width=2))
    params |= {
        "mixing": {
            "first": jnp.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, -1.0]]),
            "first_bias": jnp.array([0.5, -1.0]),
            "second": jnp.array([[1.0, -1.0], [2.0, 1.0]]),
            "second_bias": jnp.array([-1.0, 3.0]),
            "last": jnp.array([[2.0], [-1.0]]),
        }
    }
    # [1 + 3 + 0.5, 2 - 4 - 1] -> [4.5, 0] -> [3.5, -1.5] -> 7; the other way round [4.5, 4 - 2 - 1] -> [5.5, -0.5].
    mixing = model.bind(params).mixing
    base, thought = jnp.array([1.0, 2.0]), jnp.array([3.0, 4.0])
    assert mixing(base, thought) == 7
    assert mixing(thought, base) == 11


def test_weights_by_name_and_only_pausing_thinkers_have_a_pause():
    shapes = {name: leaf.shape for name, leaf in thinker.definition(ThinkerConfig(tiny.LM)).abstract["mixing"].items()}
    assert shapes == {
        "first": (32, 16), "first_bias": (16,), "second": (16, 16), "second_bias": (16,), "last": (16, 1)
    }  # fmt: skip
    assert set(thinker.definition(ThinkerConfig(tiny.LM)).abstract) == {"lm", "start", "end", "mixing"}
    assert "pause" in thinker.definition(ThinkerConfig(tiny.LM, pause=True)).abstract


def test_the_language_model_inside_is_the_language_model():
    inside = thinker.definition(ThinkerConfig(tiny.LM)).abstract["lm"]
    alone = language_model.definition(tiny.LM).abstract
    assert jax.tree.map(lambda leaf: leaf.shape, inside) == jax.tree.map(lambda leaf: leaf.shape, alone)


def test_a_scale_of_zero_is_refused():
    with pytest.raises(ValueError, match="delimiter_scale = 0"):
        ThinkerConfig(tiny.LM, delimiter_scale=0)
