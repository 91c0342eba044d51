from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tolerances import rounding

from qstar.training.optim import OptimConfig, held, optimizer, schedule

# A tree with the names of a thinker's weights: language model, delimiters, mixing head.
PARAMS = {
    "lm": {
        "embedding": jnp.full((2, 2), 2.0),
        "norm": {"scale": jnp.full(2, 2.0)},
        "blocks": {"query": jnp.full((1, 2, 1, 2), 2.0), "attention_norm": {"scale": jnp.full((1, 2), 2.0)}},
    },
    "start": jnp.full(2, 2.0),
    "end": jnp.full(2, 2.0),
    "pause": jnp.full(2, 2.0),
    "mixing": {"first": jnp.full((2, 2), 2.0), "first_bias": jnp.full(2, 2.0)},
}


def one_update(gradient, **settings):
    exact = {"beta1": 0.5, "beta2": 0.5, "eps": 1e-30}  # powers of two: no rounding in the bias corrections
    settings = {"lr": 0.5, "warmup_steps": 0, "clip": 0.0, "weight_decay": 0.0} | exact | settings
    tx = optimizer(OptimConfig(**settings), steps=10)
    updates, _ = tx.update(gradient, tx.init(PARAMS), PARAMS)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): np.unique(leaf).tolist()
            for path, leaf in jax.tree_util.tree_leaves_with_path(updates)}  # fmt: skip


def test_learning_rates_of_the_parts_have_the_configured_ratios():
    # Adam's first step is lr * sign(gradient), whatever the gradient's size.
    gradient = jax.tree.map(lambda p: jnp.full_like(p, 3.0), PARAMS)
    assert one_update(gradient, delimiter_lr_scale=4.0, mixing_lr_scale=2.0) == {
        "lm/embedding": [-0.5],
        "lm/norm/scale": [-0.5],
        "lm/blocks/query": [-0.5],
        "lm/blocks/attention_norm/scale": [-0.5],
        "start": [-2.0],
        "end": [-2.0],
        "pause": [-2.0],
        "mixing/first": [-1.0],
        "mixing/first_bias": [-1.0],
    }


def test_a_scale_of_zero_freezes_its_part_and_its_gradient_does_not_count():
    gradient = jax.tree.map(lambda p: jnp.full_like(p, 3.0), PARAMS)
    frozen = one_update(gradient, lm_lr_scale=0.0, delimiter_lr_scale=0.0, weight_decay=0.25)
    assert {name for name, update in frozen.items() if update != [0.0]} == {"mixing/first", "mixing/first_bias"}
    # The norm of a gradient of 3 in the six weights of the head is 54 ** 0.5: at that bound nothing is clipped.
    settings = {"lm_lr_scale": 0.0, "delimiter_lr_scale": 0.0, "eps": 1.0, "clip": 54**0.5}
    assert one_update(gradient, **settings)["mixing/first"] == pytest.approx([-0.5 * 3 / (3 + 1)])


def test_weights_decay_but_not_norms_biases_and_delimiters():
    nothing = jax.tree.map(jnp.zeros_like, PARAMS)
    # lr 0.5 * decay 0.25 * weight 2, times the part's learning-rate scale.
    assert one_update(nothing, weight_decay=0.25, eps=1e-8, mixing_lr_scale=2.0) == {
        "lm/embedding": [-0.25],
        "lm/norm/scale": [0.0],
        "lm/blocks/query": [-0.25],
        "lm/blocks/attention_norm/scale": [0.0],
        "start": [0.0],
        "end": [0.0],
        "pause": [0.0],
        "mixing/first": [-0.5],
        "mixing/first_bias": [0.0],
    }


def test_adam_after_two_steps_by_hand():
    cfg = OptimConfig(lr=0.1, warmup_steps=0, clip=0.0, weight_decay=0.0, beta1=0.5, beta2=0.75, eps=1e-8)
    tx = optimizer(cfg, steps=10)
    params = {"lm": {"w": jnp.array([0.0])}}
    state = tx.init(params)
    for gradient in (1.0, 3.0):
        updates, state = tx.update({"lm": {"w": jnp.array([gradient])}}, state, params)
        params = optax.apply_updates(params, updates)
    # Moments: m = 0.5 then 1.75, over 1 - 0.5^2; v = 0.25 then 2.4375, over 1 - 0.75^2. The first step is 1.
    second = (1.75 / 0.75) / np.sqrt(2.4375 / 0.4375)
    np.testing.assert_allclose(params["lm"]["w"], [-0.1 * (1 + second)], rtol=rounding(12))


def test_gradients_are_clipped_by_their_global_norm_before_adam():
    # With a large eps Adam's first step is lr * g / eps: proportional to the gradient that it is given.
    gradient = jax.tree.map(jnp.zeros_like, PARAMS)
    gradient |= {"start": jnp.array([3.0, 0.0]), "end": jnp.array([0.0, 4.0])}  # global norm 5
    settings = {"eps": 1e6, "delimiter_lr_scale": 1.0, "lr": 1e6}
    bound = 4 / 1e6 + rounding(8)  # the step is lr * g / (|g| + eps)
    assert one_update(gradient, **settings)["end"] == pytest.approx([-4.0, 0.0], rel=bound)
    assert one_update(gradient, clip=1.0, **settings)["end"] == pytest.approx([-0.8, 0.0], rel=bound)
    assert one_update(gradient, clip=1.0, **settings)["start"] == pytest.approx([-0.6, 0.0], rel=bound)
    assert one_update(gradient, clip=10.0, **settings)["end"] == pytest.approx([-4.0, 0.0], rel=bound)


# --- weights in bfloat16 ------------------------------------------------------------------------------------------


def steps_of(begin, grads, **settings):
    """The weights after a step with each gradient, and the last state."""
    cfg = OptimConfig(**({"warmup_steps": 0, "clip": 0.0, "weight_decay": 0.0} | settings))
    tx, params = optimizer(cfg, steps=10), held({"lm": {"w": jnp.asarray(begin)}}, cfg)
    state, found = tx.init(params), []

    @jax.jit
    def step(params, state, gradient):
        updates, state = tx.update({"lm": {"w": gradient.astype(params["lm"]["w"].dtype)}}, state, params)
        return optax.apply_updates(params, updates), state

    for gradient in grads:
        params, state = step(params, state, jnp.asarray(gradient))
        found.append(params["lm"]["w"])
    return found, state


@pytest.mark.parametrize(("name", "lr", "decay"), [("fast", 1e-3, 0.0), ("paper", 1e-6, 1e-3)])
def test_steps_on_bfloat16_weights_equal_those_of_torch(name, lr, decay):
    golden = np.load(Path(__file__).parent.parent / "golden" / "adamw_bfloat16.npz")
    settings = {"lr": lr, "weight_decay": decay, "weights": "bfloat16"}
    found, state = steps_of(golden["begin"], golden["grads"], **settings)
    adam = optax.tree.get(state, "ScaleByAdamState", filtering=lambda _, leaf: hasattr(leaf, "mu"))
    assert np.mean(golden[name][-1] != golden["begin"]) > 0.01
    expected = {"": golden[name][-1], "_mu": golden[f"{name}_mu"], "_nu": golden[f"{name}_nu"]}
    for part, ours in {"": found[-1], "_mu": adam.mu["lm"]["w"], "_nu": adam.nu["lm"]["w"]}.items():
        assert ours.dtype == jnp.bfloat16
        ours = np.asarray(ours, np.float32)
        # Bit for bit, but for near-ties that a fused multiply-add rounds the other way: two spacings in a few.
        assert np.mean(ours != expected[part]) < 0.02, part
        np.testing.assert_allclose(ours, expected[part], rtol=2**-6)


@pytest.mark.parametrize(
    ("weights", "spread", "low", "high"),
    [
        # A gradient of one sign is the best case: all steps add up. Weights of 0.02 are 1.2e-4 apart, a step is
        # 1e-6; only those near zero, where numbers lie closer, can follow.
        ("bfloat16", 0.02, 0.015, 0.025),
        ("bfloat16", 0.005, 0.06, 0.10),
        ("float32", 0.02, 0.99, 1.0),
    ],
)
def test_share_of_weights_that_can_change_in_a_hundred_steps_of_a_millionth(weights, spread, low, high):
    begin = np.asarray(np.random.default_rng(0).normal(size=20_000) * spread, np.float32)
    found, _ = steps_of(begin, [np.ones_like(begin)] * 100, lr=1e-6, weights=weights)
    before = np.asarray(jnp.asarray(begin, found[-1].dtype), np.float32)
    assert low <= np.mean(np.asarray(found[-1], np.float32) != before) <= high


# --- the rest -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        # Warm-up over four of twelve steps, whose first one already moves; then eight steps of the schedule.
        ({"schedule": "constant"}, {0: 0.25, 1: 0.5, 3: 1.0, 4: 1.0, 11: 1.0}),
        ({"schedule": "linear"}, {0: 0.25, 3: 1.0, 4: 1.0, 8: 0.5, 12: 0.0}),
        ({"schedule": "linear", "final_lr": 0.2}, {8: 0.6, 12: 0.2, 20: 0.2}),
        ({"schedule": "cosine"}, {3: 1.0, 4: 1.0, 6: (1 + 0.5**0.5) / 2, 8: 0.5, 12: 0.0}),
        ({"schedule": "cosine", "final_lr": 0.2}, {8: 0.6, 12: 0.2}),
        ({"schedule": "constant", "warmup_steps": 0}, {0: 1.0, 5: 1.0}),
        ({"schedule": "linear", "warmup_steps": 1}, {0: 1.0, 1: 1.0, 12: 0.0}),
    ],
)
def test_schedules_at_literal_steps(settings, expected):
    rate = schedule(OptimConfig(**({"lr": 2.0, "warmup_steps": 4} | settings)), steps=12)
    assert {step: float(rate(step)) for step in expected} == pytest.approx(
        {step: 2 * share for step, share in expected.items()}, abs=rounding(6, size=2)
    )


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"schedule": "step"}, r"optim.schedule = 'step': choose one of constant, linear, cosine"),
        ({"lr": 0.0}, r"optim.lr = 0.0: expected a positive number"),
        ({"mixing_lr_scale": -1.0}, r"optim.mixing_lr_scale = -1.0"),
        ({"lm_lr_scale": -1.0}, r"optim.lm_lr_scale = -1.0"),
        ({"clip": -1.0}, r"optim.clip = -1.0: expected 0 or a positive number"),
        ({"ema": 1.0}, r"optim.ema = 1.0: expected a number from 0"),
        ({"weights": "float16"}, r"optim.weights = 'float16': choose one of float32, bfloat16"),
        ({"weights": "bfloat16", "ema": 0.9}, r"optim.ema = 0.9 with optim.weights = 'bfloat16'"),
    ],
)
def test_illegal_values_are_named(wrong, message):
    with pytest.raises(ValueError, match=message):
        OptimConfig(**wrong)
