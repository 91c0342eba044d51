import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tolerances import rounding

from qstar.structs import Talk
from qstar.thoughts.credit import credit, importance, reinforce


def talk_of(base, mixed):
    """base [A N], mixed [R A N] of one row."""
    base, mixed = jnp.array([base], jnp.float32), jnp.array([mixed], jnp.float32)
    return Talk(jnp.zeros((1, 3)), base, mixed, jnp.zeros((*mixed.shape[:3], 2)), jnp.zeros_like(mixed), base > -99)


# Two anchors, N = 2, R = 3. The second target of the second anchor does not count.
TALK = talk_of(
    base=[[-4.0, -2.0], [-3.0, -1.0]],
    mixed=[[[-3.0, -2.0], [-3.0, -9.0]], [[-2.0, -1.0], [-1.0, -9.0]], [[-5.0, -4.0], [-5.0, -9.0]]],
)
COUNTS = jnp.array([[[True, True], [True, False]]])


def test_reward_is_the_gain_in_log_likelihood_of_the_targets_that_count():
    assert credit(TALK, COUNTS, "base", False).reward.tolist() == [[[1, 0], [3, 2], [-3, -2]]]


@pytest.mark.parametrize(
    ("baseline", "clamp", "expected"),
    [
        ("base", False, [[1, 0], [3, 2], [-3, -2]]),
        ("base", True, [[1, 0], [3, 2], [0, 0]]),
        ("mean", False, [[2 / 3, 0], [8 / 3, 2], [-10 / 3, -2]]),  # means 1/3 and 0
        ("mean", True, [[2 / 3, 0], [8 / 3, 2], [0, 0]]),
        # Of (e, e^3, e^-3) / 3 and (1, e^2, e^-2) / 3 the sums are 7.61787, 2.84146, their logs 2.030497, 1.044319.
        ("log_mean", False, [[-1.030497, -1.044319], [0.969503, 0.955681], [-5.030497, -3.044319]]),
        ("log_mean", True, [[0, 0], [0.969503, 0.955681], [0, 0]]),
        ("leave_one_out", False, [[1, 0], [4, 3], [-5, -3]]),  # 1 - (3 - 3)/2, 3 - (1 - 3)/2, -3 - (1 + 3)/2
        ("leave_one_out", True, [[1, 0], [4, 3], [0, 0]]),
    ],
)
def test_advantage(baseline, clamp, expected):
    # Six digits are given of numbers up to 5.
    found = credit(TALK, COUNTS, baseline, clamp).advantage
    np.testing.assert_allclose(found, [expected], rtol=0, atol=5e-7 + rounding(4, size=5))


def test_no_gradient_flows_through_credit():
    def total(mixed):
        earned = credit(TALK.replace(mixed=mixed, base=mixed[:, 0]), COUNTS, "mean", False)
        return jnp.sum(earned.advantage**2) + jnp.sum(earned.reward**2)

    assert not np.any(jax.grad(total)(TALK.mixed))


LOGPROBS = jnp.array([[[[-1.0, -3.0], [-2.0, -2.0]], [[-4.0, -6.0], [-1.0, -1.0]]]])  # [B R A T]
ADVANTAGE = jnp.array([[[0.5, 2.0], [-1.0, 7.0]]])


def test_reinforce_is_the_mean_over_judged_thoughts_of_advantage_times_mean_logprob():
    # Anchor 0: -0.5 * -2 = 1 and 1 * -5 = -5. Anchor 1: -2 * -2 = 4 and -7 * -1 = 7.
    assert reinforce(LOGPROBS, ADVANTAGE, jnp.array([[True, True]])).mean == pytest.approx(7 / 4)
    assert reinforce(LOGPROBS, ADVANTAGE, jnp.array([[True, False]])).mean == pytest.approx(-2.0)
    assert reinforce(LOGPROBS, ADVANTAGE, jnp.array([[False, False]])).mean == 0


def test_reinforces_gradient_by_a_logprob_is_minus_its_share_of_the_advantage():
    where = jnp.array([[True, True]])
    mean = lambda *args: reinforce(*args).mean  # noqa: E731
    gradient = jax.grad(mean)(LOGPROBS, ADVANTAGE, where)
    # Four thoughts of two tokens.
    np.testing.assert_allclose(gradient, -np.repeat(ADVANTAGE[..., None], 2, axis=-1) / 8, rtol=rounding(3))
    assert not np.any(jax.grad(mean, 1)(LOGPROBS, ADVANTAGE, where))


def test_importance_weights_are_ratios_of_probabilities_a_token_and_constants():
    thought = jnp.log(jnp.array([[[[0.5, 0.25]], [[0.1, 1.0]]]]))
    behaviour = jnp.log(jnp.array([[[[0.25, 0.5]], [[0.1, 0.125]]]]))
    np.testing.assert_allclose(importance(thought, behaviour), [[[[2, 0.5]], [[1, 8]]]], rtol=rounding(6))
    assert not np.any(jax.grad(lambda thought: importance(thought, behaviour).sum())(thought))


def test_importance_weights_of_what_was_all_but_impossible_are_finite():
    assert np.isfinite(importance(jnp.zeros((1, 1, 1, 1)), jnp.full((1, 1, 1, 1), -200.0))).all()


def test_weights_multiply_each_token_of_reinforce_and_take_no_gradient():
    where, weights = jnp.array([[True, False]]), jnp.array([[[[2.0, 0.5], [9, 9]], [[1.0, 3.0], [9, 9]]]])
    # -0.5 * (2 * -1 + 0.5 * -3) / 2 = 0.875 and 1 * (-4 - 18) / 2 = -11.
    assert reinforce(LOGPROBS, ADVANTAGE, where, weights).mean == pytest.approx((0.875 - 11) / 2)
    assert not np.any(jax.grad(lambda *args: reinforce(*args).mean, 3)(LOGPROBS, ADVANTAGE, where, weights))
