import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
import tolerances
from reference import sequential
from tolerances import EXACT, rounding

from qstar.methods import rlp
from qstar.methods.protocol import Models
from qstar.methods.rlp import RLP
from qstar.models.thinker import Tokens
from qstar.thoughts import anchors as where

METHOD = RLP(thought_len=2, num_thoughts=3, temperature=0.7, positions=4)
BEFORE = 3  # seed of the reference's weights


@functools.cache
def setting():
    """Definition, weights, weights of the reference, and batch."""
    model, params = tiny.thinker_of(tiny.EXACT, mixing="none", tokens=Tokens(forbidden=(1,)))
    return model, params, tiny.weights_of(model, BEFORE, jnp.float64), tiny.packed()


@functools.cache
def evaluated():
    """Metrics, and the loss's gradients in the weights and in those of the reference."""
    model, params, before, batch = setting()

    def loss(params, before):
        return METHOD.loss(Models(model.bind(params), model.bind(before), METHOD), batch, jax.random.key(5))

    gradients, metrics = jax.jit(jax.grad(loss, (0, 1), has_aux=True))(params, before)
    return metrics, *gradients


@functools.cache
def judged_by_hand():
    """Anchors, tokens, their log-probs, rewards and advantages, and which thoughts count, position by position."""
    _, params, before, batch = setting()
    chooses, fills = jax.random.split(jax.random.key(5))
    anchors = np.asarray(where.draw(batch, 4, chooses))
    draws = jax.random.split(fills)[1]
    tokens, sampled = sequential.sample(params, tiny.EXACT, 1.0, batch, anchors, draws, 2, 3, 0.7, (1,))
    how = sequential.Mixing("none", "thought", 1.0)
    scored = sequential.talk(params, tiny.EXACT, 1.0, batch, anchors, tokens, 1, "logprobs", 0.7, (1,), how)
    old = sequential.talk(before, tiny.EXACT, 1.0, batch, anchors, tokens, 1, "logprobs", 0.7, (1,), how)
    marks = sequential.counts(batch, anchors, 1)[..., 0]
    reward, advantage = np.zeros((2, 3, 4)), np.zeros((2, 3, 4))
    for b, a in zip(*np.nonzero(marks), strict=True):
        reward[b, :, a] = [scored.mixed[b, r, a, 0] - old.base[b, a, 0] for r in range(3)]
        advantage[b, :, a] = [
            reward[b, r, a] - np.mean([reward[b, q, a] for q in range(3) if q != r]) for r in range(3)
        ]
    return anchors, tokens, sampled, reward, advantage, marks


def test_the_reward_is_the_gain_over_the_reference_without_a_thought(x64):
    metrics, _, _ = evaluated()
    _, _, _, reward, _, marks = judged_by_hand()
    judged = np.broadcast_to(marks[:, None], reward.shape)
    assert metrics["reward"].value() == pytest.approx(reward[judged].mean(), abs=tolerances.REWARD)
    assert metrics["helped"].value() == pytest.approx((reward[judged] > 0).mean())
    assert float(metrics["reward"].count) == judged.sum() > 12


def test_the_gradient_is_that_of_the_thoughts_log_probs_times_their_advantages(x64):
    model, params, _, batch = setting()
    _, grad, _ = evaluated()
    anchors, tokens, sampled, _, advantage, marks = judged_by_hand()
    how = sequential.Mixing("none", "thought", 1.0)

    def loss(step, direction):
        moved = jax.tree.map(lambda weight, way: np.asarray(weight) + step * way, params, direction)
        scored = sequential.talk(moved, tiny.EXACT, 1.0, batch, anchors, tokens, 1, "logprobs", 0.7, (1,), how)
        ratio = np.exp(scored.thought - sampled)
        return np.mean(
            [-(ratio[b, r, a] * advantage[b, r, a]).mean() for b, r, a in np.ndindex(2, 3, 4) if marks[b, a]]
        )

    direction = tiny.weights_of(model, 7, jnp.float64)
    expected = (loss(1e-5, direction) - loss(-1e-5, direction)) / 2e-5
    found = sum(np.vdot(g, d) for g, d in zip(*map(jax.tree.leaves, (grad, direction)), strict=True))
    assert abs(expected) > 1e-3
    assert found == pytest.approx(expected, abs=tolerances.difference(tiny.EXACT, 1e-5, expected))


def test_only_thoughts_learn(x64):
    _, grad, through = evaluated()
    # The end stands behind the last token that is drawn: it is read by the reward, through which no gradient flows.
    assert np.all(grad["end"] == 0)
    assert np.abs(grad["start"]).max() > 1e-3
    changed = [np.abs(leaf).max() for leaf in jax.tree.leaves(through)]
    assert max(changed) == 0


def test_advantages_sum_to_zero_and_are_not_clamped():
    reward = jnp.array([[[1.0], [2.0], [6.0]]])
    np.testing.assert_allclose(rlp.advantages(reward)[0, :, 0], [-3.0, -1.5, 4.5], rtol=rounding(3))


@pytest.mark.parametrize(
    ("advantage", "ratio", "expected", "slope"),
    [
        (2.0, 1.0, 2.0, 2.0),
        (2.0, 1.15, 2.3, 2.3),  # within the upper clip
        (2.0, 1.5, 2.4, 0.0),  # beyond it: no gradient
        (2.0, 0.5, 1.0, 1.0),  # below the lower one, but the minimum is the unclipped term
        (-2.0, 0.5, -1.4, 0.0),
        (-2.0, 0.8, -1.6, -1.6),
        (-2.0, 1.5, -3.0, -3.0),
    ],
)
def test_the_surrogate_stops_where_a_token_has_moved_far_enough(advantage, ratio, expected, slope):
    def of(logprob):
        shape = (1, 1, 1, 1)
        found = rlp.surrogate(
            logprob.reshape(shape), jnp.zeros(shape), jnp.full(shape[:3], advantage), clip_low=0.3, clip_high=0.2
        )
        return found.sum()

    value, gradient = jax.value_and_grad(of)(jnp.log(jnp.array(ratio)))
    assert float(value) == pytest.approx(expected, rel=rounding(4))
    assert float(gradient) == pytest.approx(slope, rel=rounding(4))


def test_the_surrogate_passes_no_gradient_to_advantages_and_to_what_was_sampled():
    shape = (1, 2, 1, 3)
    logprobs, advantage = jnp.full(shape, -1.0), jnp.array([[[2.0], [-1.0]]])
    grads = jax.grad(lambda *args: rlp.surrogate(*args, 0.2, 0.2).sum(), (0, 1, 2))(logprobs, logprobs, advantage)
    np.testing.assert_allclose(grads[0][0, :, 0], [[2.0] * 3, [-1.0] * 3], rtol=rounding(3))
    assert np.all(grads[1] == 0) and np.all(grads[2] == 0)


def test_the_loss_of_thoughts_of_an_older_policy_is_clipped_on_either_side(x64):
    """Thoughts given as if they had been drawn where each token was 1.5 times, or half, as likely."""
    model, params, before, batch = setting()
    method = dataclasses.replace(METHOD, clip_low=0.3, clip_high=0.1)
    _, _, _, _, advantage, marks = judged_by_hand()

    @jax.jit
    def judged(params, ratio):
        models = Models(model.bind(params), model.bind(before), method)
        context, drawn = method.drawn(models.policy, batch, jax.random.key(5))
        older = drawn.replace(logprobs=drawn.logprobs - jnp.log(ratio))
        return method.judged(models, context, older)[0].value

    thoughts = [advantage[b, r, a] for b, r, a in np.ndindex(2, 3, 4) if marks[b, a]]
    for ratio, clipped in ((1.5, 1.1), (0.5, 0.7)):
        expected = -np.mean([min(ratio * one, clipped * one) for one in thoughts])
        assert float(judged(params, ratio)) == pytest.approx(expected, abs=tolerances.POLICY)


def test_the_reference_is_a_moving_average_of_its_decay():
    assert dataclasses.asdict(RLP(reference_decay=0.75).reference) == {"decay": 0.75, "run": ""}
    assert RLP().reference.decay == 0.999


def test_one_position_of_every_row_thinks_and_it_has_a_token_to_predict():
    batch = tiny.packed()
    drawn = np.array([where.draw(batch, 1, jax.random.key(k))[:, 0] for k in range(60)])
    # The last token of a document, those before masked ones and padding have none.
    assert set(drawn[:, 0]) == {0, 1, 2, 4, 6, 7}
    assert set(drawn[:, 1]) == {0, 1, 2, 3, 4}
    np.testing.assert_array_equal(where.draw(batch, 0, jax.random.key(0)), [list(range(9))] * 2)
    # Rows with fewer have all of theirs, and others behind.
    five = np.asarray(where.draw(batch, 6, jax.random.key(1)))
    assert set(five[0]) == {0, 1, 2, 4, 6, 7} and {0, 1, 2, 3, 4} < set(five[1])


def test_predictions_follow_the_thought_alone(x64):
    model, params, _, batch = setting()
    anchors = jnp.array([[1, 7], [0, 4]])
    predicted = lambda thinker: METHOD.think(  # noqa: E731
        thinker, tiny.context(thinker, batch, anchors), jax.random.key(0), greedy=True
    )[1].mixed[:, 0]
    found = jax.jit(lambda p: predicted(model.bind(p)))(params)
    tokens, _ = sequential.sample(params, tiny.EXACT, 1.0, batch, np.asarray(anchors), jax.random.key(0), 2, 1, 0, (1,))
    for b, a in np.ndindex(2, 2):
        first = sequential.document(batch, b, int(anchors[b, a]))[0]
        embedded = sequential.sequence(
            sequential.as_numpy(params), 1.0, batch, b, int(anchors[b, a]), tokens[b, 0, a], []
        )
        lm = sequential.as_numpy(params)["lm"]
        hidden = sequential.hidden_states(lm, tiny.EXACT, embedded)
        assert len(hidden) == int(anchors[b, a]) - first + 1 + 4
        expected = sequential.log_softmax(sequential.logits(lm, hidden[-1]))
        np.testing.assert_allclose(found[b, a], expected, rtol=0, atol=EXACT)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_thoughts": 1}, "method.num_thoughts = 1: expected an integer of at least 2"),
        ({"lookahead": 2}, "method.lookahead = 2: RLP judges a thought by one token"),
        ({"temperature": 0.0}, "method.temperature = 0.0: expected a positive number"),
        ({"positions": -1}, "method.positions = -1: expected 0 or a positive integer"),
        ({"clip_low": 1.5}, "method.clip_low = 1.5"),
        ({"reference_decay": 2.0}, "method.reference_decay = 2.0: expected a number from 0 up to 1"),
        ({"thought_len": 0}, "method.thought_len = 0: expected a positive integer"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(METHOD, **settings)
