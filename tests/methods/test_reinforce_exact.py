"""The policy gradient against the exact one, on a vocabulary of three tokens: instead of drawing thoughts, all nine
thoughts of two tokens are scored, and each contributes with its probability."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
import tolerances
from reference import sequential
from tolerances import EXACT

from qstar.methods.quiet_star import QuietStar
from qstar.thoughts.fill import Inner

LM = dataclasses.replace(tiny.EXACT, vocab=3, layers=1, remat="none")
BATCH = tiny.batch(tokens=[[0, 2, 1, 1, 0]], segment=[[1, 1, 1, 1, 1]])
ANCHORS = np.array([[0, 2]])
EVERY = np.broadcast_to(np.array(list(itertools.product(range(3), repeat=2)))[None, :, None], (1, 9, 2, 2))
ONE = QuietStar(
    thought_len=2, lookahead=2, num_thoughts=1, baseline="base", clamp=False, reinforce_temperature=1.0, beta=1.0
)
SINGLES = np.arange(9)[:, None]
PAIRS = np.array(list(itertools.product(range(9), repeat=2)))


def expected_reward_slope(params, direction):
    """Derivative along `direction` of the mean over anchors of sum_i p_i r_i, the rewards r_i held: central differences
    of the sequential reference."""
    scored = lambda params: sequential.talk(params, LM, 1.0, BATCH, ANCHORS, EVERY, 2, ONE.mix)  # noqa: E731
    reward, _ = sequential.credit(scored(params), sequential.counts(BATCH, ANCHORS, 2), "base", clamp=False)

    def expected(step):
        moved = jax.tree.map(lambda weight, way: np.asarray(weight) + step * way, params, direction)
        probability = np.exp(scored(moved).thought.sum(-1))
        np.testing.assert_allclose(probability.sum(1), 1, rtol=0, atol=2 * EXACT)  # two tokens each
        return (probability * reward).sum(1).mean()

    return (expected(1e-5) - expected(-1e-5)) / 2e-5


def expected_policy_loss(model, params, method, groups, behaviour=None):
    """Mean over anchors of the sum over `groups` [n R] of thoughts of p(group) * policy loss of that group; the policy
    loss is what the whole loss gains from one more unit of beta. p is that of the log-probs `behaviour`, or the
    policy's own."""
    thinker = model.bind(params)
    inner = Inner(thinker.lm.embed(jnp.asarray(EVERY)), jnp.asarray(EVERY), behaviour)
    talk = method.thinking.talk(thinker, tiny.context(thinker, BATCH, ANCHORS), inner)
    drawn_from = talk.thought if behaviour is None else behaviour
    probability = jax.lax.stop_gradient(jnp.exp(drawn_from.sum(-1)))[0]

    def contribution(members, slot):
        at = lambda x: jax.lax.dynamic_slice_in_dim(x, slot, 1, axis=x.ndim - 2)  # noqa: E731
        of = lambda x: at(x[:, members])  # noqa: E731
        chosen = talk.replace(
            base=at(talk.base),
            counts=at(talk.counts),
            mixed=of(talk.mixed),
            thought=of(talk.thought),
            weight=of(talk.weight),
            behaviour=None if talk.behaviour is None else of(talk.behaviour),
        )
        more, less = (dataclasses.replace(method, beta=beta).objective(chosen, BATCH)[0] for beta in (2.0, 1.0))
        return jnp.prod(probability[members, slot]) * (more - less)

    over_groups = jax.vmap(contribution, (0, None))
    return jax.vmap(over_groups, (None, 0))(jnp.asarray(groups), jnp.arange(2)).sum(1).mean()


@pytest.mark.parametrize(
    ("method", "groups", "share"),
    [
        (ONE, SINGLES, 1.0),
        # Thoughts drawn independently: leave-one-out is unbiased, and the mean of R is (R - 1) / R of it.
        (dataclasses.replace(ONE, num_thoughts=2, baseline="leave_one_out"), PAIRS, 1.0),
        pytest.param(dataclasses.replace(ONE, num_thoughts=2, baseline="mean"), PAIRS, 0.5, marks=pytest.mark.slow),
    ],
    ids=["base", "leave_one_out", "mean"],
)
def test_the_policy_gradient_is_that_of_the_expected_reward_over_thought_length(x64, method, groups, share):
    model, params = tiny.thinker_of(LM)
    gradient = jax.jit(jax.grad(lambda params: expected_policy_loss(model, params, method, groups)))(params)
    for seed in (1, 2):
        direction = tiny.weights_of(model, seed, jnp.float64)
        found = sum(np.vdot(g, d) for g, d in zip(*map(jax.tree.leaves, (gradient, direction)), strict=True))
        exact = -share * expected_reward_slope(params, direction) / method.thought_len
        assert abs(exact) > 1e-3
        assert found == pytest.approx(exact, abs=tolerances.difference(LM, 1e-5, exact))


def test_importance_weights_give_the_rewards_gradient_one_token_at_a_time(x64):
    """Thoughts are sampled at temperature 1, the policy has temperature 2. For thoughts of two tokens that is the sum
    of two expected rewards: one token from the policy, the other one as it was sampled."""
    model, params = tiny.thinker_of(LM)
    method = dataclasses.replace(ONE, reinforce_temperature=2.0, importance_weights=True)
    scored = lambda params, hot: sequential.talk(params, LM, 1.0, BATCH, ANCHORS, EVERY, 2, ONE.mix, hot)  # noqa: E731
    sampled = scored(params, 1.0)
    reward, _ = sequential.credit(sampled, sequential.counts(BATCH, ANCHORS, 2), "base", clamp=False)

    def expected(step, direction):
        moved = jax.tree.map(lambda weight, way: np.asarray(weight) + step * way, params, direction)
        policy = scored(moved, 2.0).thought
        one_changed = [sampled.thought.sum(-1) - sampled.thought[..., t] + policy[..., t] for t in (0, 1)]
        return sum((np.exp(logprob) * reward).sum(1).mean() for logprob in one_changed)

    behaviour = jnp.asarray(sampled.thought)
    gradient = jax.jit(
        jax.grad(lambda params: expected_policy_loss(model, params, method, SINGLES, behaviour)),
    )(params)
    for seed in (1, 2):
        direction = tiny.weights_of(model, seed, jnp.float64)
        found = sum(np.vdot(g, d) for g, d in zip(*map(jax.tree.leaves, (gradient, direction)), strict=True))
        exact = -(expected(1e-5, direction) - expected(-1e-5, direction)) / 2e-5 / method.thought_len
        assert abs(exact) > 1e-3
        assert found == pytest.approx(exact, abs=tolerances.difference(LM, 1e-5, exact))
