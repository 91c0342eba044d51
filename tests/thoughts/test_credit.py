import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qstar.structs import Talk
from qstar.thoughts.credit import credit, reinforce


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
    ("baseline", "clamp", "wanted"),
    [
        ("base", False, [[1, 0], [3, 2], [-3, -2]]),
        ("base", True, [[1, 0], [3, 2], [0, 0]]),
        ("mean", False, [[2 / 3, 0], [8 / 3, 2], [-10 / 3, -2]]),  # means 1/3 and 0
        ("mean", True, [[2 / 3, 0], [8 / 3, 2], [0, 0]]),
        ("leave_one_out", False, [[1, 0], [4, 3], [-5, -3]]),  # 1 - (3 - 3)/2, 3 - (1 - 3)/2, -3 - (1 + 3)/2
        ("leave_one_out", True, [[1, 0], [4, 3], [0, 0]]),
    ],
)
def test_advantage(baseline, clamp, wanted):
    np.testing.assert_allclose(credit(TALK, COUNTS, baseline, clamp).advantage, [wanted], atol=1e-6)


def test_no_gradient_flows_through_credit():
    def total(mixed):
        earned = credit(TALK.replace(mixed=mixed, base=mixed[:, 0]), COUNTS, "mean", False)
        return jnp.sum(earned.advantage**2) + jnp.sum(earned.reward**2)

    assert not np.any(jax.grad(total)(TALK.mixed))


LOGPROBS = jnp.array([[[[-1.0, -3.0], [-2.0, -2.0]], [[-4.0, -6.0], [-1.0, -1.0]]]])  # [B R A T]
ADVANTAGE = jnp.array([[[0.5, 2.0], [-1.0, 7.0]]])


def test_reinforce_is_the_mean_over_judged_thoughts_of_advantage_times_mean_logprob():
    # Anchor 0: -0.5 * -2 = 1 and 1 * -5 = -5. Anchor 1: -2 * -2 = 4 and -7 * -1 = 7.
    assert reinforce(LOGPROBS, ADVANTAGE, jnp.array([[True, True]])) == pytest.approx(7 / 4)
    assert reinforce(LOGPROBS, ADVANTAGE, jnp.array([[True, False]])) == pytest.approx(-2.0)
    assert reinforce(LOGPROBS, ADVANTAGE, jnp.array([[False, False]])) == 0


def test_gradient_of_reinforce_by_a_tokens_logprob_is_minus_its_share_of_the_advantage():
    where = jnp.array([[True, True]])
    gradient = jax.grad(reinforce)(LOGPROBS, ADVANTAGE, where)
    # Four thoughts of two tokens.
    np.testing.assert_allclose(gradient, -np.repeat(ADVANTAGE[..., None], 2, axis=-1) / 8, rtol=1e-6)
    assert not np.any(jax.grad(reinforce, 1)(LOGPROBS, ADVANTAGE, where))
