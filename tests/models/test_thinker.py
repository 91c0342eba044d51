import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
import tolerances
from tolerances import rounding

from qstar.models import lm as language_model
from qstar.models import thinker
from qstar.models.thinker import ThinkerConfig, Tokens

SEVEN = Tokens(delimiter=7)


def test_a_thinker_keeps_its_language_model_and_starts_delimiters_as_one_token():
    lm = tiny.lm_of()[1]
    params = thinker.from_lm(
        ThinkerConfig(tiny.LM, delimiter_scale=4.0, pause=True, tokens=SEVEN), lm, jax.random.key(0)
    )
    assert params["lm"] is lm
    row = np.asarray(lm["embedding"][7])
    np.testing.assert_array_equal(params["start"], row / 4)
    np.testing.assert_array_equal(params["end"], row / 4)
    np.testing.assert_array_equal(params["pause"], row)
    assert not np.any(params["mixing"]["last"])
    assert np.any(params["mixing"]["first"])


def test_a_language_model_of_another_shape_is_refused():
    lm = tiny.lm_of(dataclasses.replace(tiny.LM, ff=24))[1]
    with pytest.raises(ValueError, match=r"blocks/gate is \(2, 16, 24\), expected \(2, 16, 20\)"):
        thinker.from_lm(ThinkerConfig(tiny.LM, tokens=SEVEN), lm, jax.random.key(0))


def test_columns_are_start_thought_end_and_true_tokens_with_scaled_delimiters():
    model, params = tiny.thinker_of(delimiter_scale=4.0)
    inner, true = jnp.full((1, 2, 3, 2, 16), 5.0), jnp.full((1, 2, 3, 1, 16), 6.0)
    found = np.asarray(model.bind(params).columns_input(inner, true))
    assert found.shape == (1, 2, 3, 5, 16)
    for r, a in np.ndindex(2, 3):
        np.testing.assert_allclose(found[0, r, a, 0], 4 * params["start"], rtol=rounding(1))
        assert np.all(found[0, r, a, 1:3] == 5)
        np.testing.assert_allclose(found[0, r, a, 3], 4 * params["end"], rtol=rounding(1))
        assert np.all(found[0, r, a, 4] == 6)


def by_hand(**kinds):
    """A thinker of width two with a mixing head of literal numbers."""
    model, params = tiny.thinker_of(dataclasses.replace(tiny.LM, width=2), **kinds)
    return model.bind(
        params
        | {
            "mixing": {
                "first": jnp.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, -1.0]]),
                "first_bias": jnp.array([0.5, -1.0]),
                "second": jnp.array([[1.0, -1.0], [2.0, 1.0]]),
                "second_bias": jnp.array([-1.0, 3.0]),
                "last": jnp.array([[2.0], [-1.0]]) / 10,
            }
        }
    )


def test_output_of_the_mixing_head_by_hand():
    # [1 + 3 + 0.5, 2 - 4 - 1] -> [4.5, 0] -> [3.5, -1.5] -> 7; the other way round [4.5, 4 - 2 - 1] -> [5.5, -0.5].
    mixing = by_hand().mixing
    base, thought = jnp.array([1.0, 2.0]), jnp.array([3.0, 4.0])
    assert mixing(base, thought) == pytest.approx(0.7, rel=rounding(4))
    assert mixing(thought, base) == pytest.approx(1.1, rel=rounding(4))


@pytest.mark.parametrize(
    ("kinds", "at_zero", "at_07"),
    [
        # The head gives 0 before the first step, and 0.7 with the weights above. On the base's side w is the share
        # of the base. 1 / (1 + exp(-0.7)) = 0.668188; at a quarter the odds 1/3 become exp(0.7) / 3 or exp(-0.7) / 3.
        ({}, 0, 0.7),
        ({"mixing_side": "base"}, 1, 0.3),
        ({"mixing_side": "base", "mixing_start": 0.0}, 0, -0.7),
        ({"mixing_start": 0.25}, 0.25, 0.95),
        ({"mixing": "sigmoid"}, 0.5, 0.668188),
        ({"mixing": "sigmoid", "mixing_side": "base"}, 0.5, 1 - 0.668188),
        ({"mixing": "sigmoid", "mixing_start": 0.25}, 0.25, 0.401646),
        ({"mixing": "sigmoid", "mixing_side": "base", "mixing_start": 0.25}, 0.25, 0.142020),
        ({"mixing": "none"}, 1, 1),
        ({"mixing": "none", "mixing_side": "base"}, 1, 1),
    ],
    ids=str,
)
def test_share_of_the_thought_by_kind_side_and_start(kinds, at_zero, at_07):
    base, thought = jnp.array([[1.0, 2.0]]), jnp.array([[3.0, 4.0]])
    lm = dataclasses.replace(tiny.LM, width=2)
    cfg = ThinkerConfig(lm, **kinds, tokens=SEVEN)
    fresh = thinker.definition(cfg).bind(thinker.from_lm(cfg, tiny.lm_of(lm)[1], jax.random.key(0)))
    assert fresh.share(base, thought).tolist() == pytest.approx([at_zero], rel=rounding(4))
    if kinds.get("mixing") != "none":
        assert by_hand(**kinds).share(base, thought).tolist() == pytest.approx([at_07], abs=5e-7 + rounding(4))


def test_without_a_mixing_head_there_are_no_weights_of_one():
    assert set(thinker.definition(ThinkerConfig(tiny.LM, mixing="none")).abstract) == {"lm", "start", "end"}


@pytest.mark.parametrize("mixing", ["raw", "sigmoid"])
def test_from_one_start_the_sides_differ_only_in_the_sign_of_the_last_layer(mixing):
    model, params = tiny.thinker_of(mixing=mixing, mixing_start=0.25)
    other, _ = tiny.thinker_of(mixing=mixing, mixing_start=0.25, mixing_side="base")
    turned = params | {"mixing": params["mixing"] | {"last": -params["mixing"]["last"]}}
    base, thought = np.random.default_rng(0).normal(size=(2, 5, 16)).astype("float32")
    shares = model.bind(params).share(base, thought)
    np.testing.assert_array_equal(shares, other.bind(turned).share(base, thought))
    assert np.ptp(shares) > 0.01


def test_first_steps_of_a_weight_near_one_are_not_lost_to_rounding():
    model, params = tiny.thinker_of(mixing_side="base", mixing_start=0.0)
    tiny_steps = params | {"mixing": params["mixing"] | {"last": params["mixing"]["last"] * 1e-9}}
    base, thought = np.random.default_rng(0).normal(size=(2, 5, 16)).astype("float32")
    found, large = (np.asarray(model.bind(p).share(base, thought)) for p in (tiny_steps, params))
    np.testing.assert_allclose(found, large * 1e-9, rtol=rounding(16))


def test_delimiters_begin_at_random_with_the_size_of_embeddings_or_as_their_mean():
    lm = tiny.lm_of()[1]
    table = np.asarray(lm["embedding"])
    cfg = ThinkerConfig(tiny.LM, delimiter_scale=4.0, pause=True)
    mean = thinker.from_lm(cfg, lm, jax.random.key(0), "mean")
    np.testing.assert_allclose(
        mean["start"], table.mean(0) / 4, rtol=0, atol=rounding(13, size=np.abs(table).mean() / 4)
    )
    np.testing.assert_allclose(mean["end"], table.mean(0) / 4, rtol=0, atol=rounding(13, size=np.abs(table).mean() / 4))
    np.testing.assert_allclose(mean["pause"], table.mean(0), rtol=0, atol=rounding(13, size=np.abs(table).mean()))
    many = [thinker.from_lm(cfg, lm, jax.random.key(k), "random") for k in range(40)]
    drawn = np.array([[4 * p["start"], 4 * p["end"], p["pause"]] for p in many])
    np.testing.assert_allclose(drawn.std(axis=(0, 2)), table.std(), rtol=tolerances.spread(640))
    assert np.abs(np.corrcoef(drawn.transpose(1, 0, 2).reshape(3, -1)) - np.eye(3)).max() < 0.2


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
