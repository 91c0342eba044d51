"""Estimates held against enumerated expectations over three tokens; aggregations against numbers worked out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tolerances import rounding

from qstar.ops import surrogates

P = jnp.log(jnp.array([0.5, 0.3, 0.2]))  # logits of the policy; the sampled token is one of three
Q = jnp.log(jnp.array([0.2, 0.3, 0.5]))  # of the reference
MASK = jnp.array([[True, True, False, False], [True, True, True, True], [False] * 4])


def logprobs(logits):
    return jax.nn.log_softmax(logits)


def divergence(logits, other):
    return jnp.sum(jnp.exp(logprobs(logits)) * (logprobs(logits) - logprobs(other)))


def expected(function, logits):
    """Mean over the policy's tokens, drawn with constant probabilities."""
    return jnp.sum(jax.lax.stop_gradient(jnp.exp(logprobs(P))) * function(logprobs(logits)))


def test_expectations_of_the_estimates(x64):
    p, q = P.astype(jnp.float64), Q.astype(jnp.float64)
    values = {
        kind: float(expected(lambda lp, kind=kind: surrogates.kl(lp, logprobs(q), kind), p))
        for kind in surrogates.KL_ESTIMATES
    }
    true = float(divergence(p, q))
    assert true == pytest.approx(0.27489, abs=1e-5)  # five digits
    # Logits and the probabilities of the mean are float32: a log, a softmax of three and an exp.
    assert values["k1"] == pytest.approx(true, abs=rounding(6))
    assert values["k3"] == pytest.approx(true, abs=rounding(6))
    # Half the mean square of log(p / q), which is not the divergence.
    assert values["k2"] == pytest.approx(0.5 * 0.7 * np.log(2.5) ** 2, abs=rounding(6))


@pytest.mark.parametrize(
    ("kind", "of"),
    [
        ("k1", lambda logits: 0.0 * logits.sum()),
        ("k2", lambda logits: divergence(logits, Q)),
        ("k3", lambda logits: divergence(Q, logits)),
    ],
)
def test_gradients_of_the_estimates_in_a_loss(kind, of):
    found = jax.grad(lambda logits: expected(lambda lp: surrogates.kl(lp, logprobs(Q), kind), logits))(P)
    np.testing.assert_allclose(found, jax.grad(of)(P), rtol=0, atol=rounding(32))


def test_k1_in_the_reward_is_a_price_on_the_divergence():
    reward = -surrogates.kl(logprobs(P), logprobs(Q), "k1")
    found = jax.grad(lambda logits: expected(lambda lp: lp * reward, logits))(P)
    np.testing.assert_allclose(found, -jax.grad(lambda logits: divergence(logits, Q))(P), rtol=0, atol=rounding(32))


def test_ratios_are_one_at_the_first_step_and_where_masked():
    old = jnp.log(jnp.linspace(0.1, 0.9, 12).reshape(3, 4))
    for kind in surrogates.RATIOS:
        assert np.all(np.asarray(surrogates.ratio(old, old, MASK, kind)) == 1)
        other = surrogates.ratio(old + jnp.where(MASK, 0, 5.0), old, MASK, kind)
        assert np.all(np.asarray(other) == 1)


def test_a_sequence_s_ratio_is_the_geometric_mean_of_its_tokens_ratios():
    old = jnp.zeros((3, 4))
    new = jnp.log(jnp.array([[2.0, 8.0, 5.0, 5.0], [1.0, 1.0, 1.0, 16.0], [3.0, 3.0, 3.0, 3.0]]))
    found = surrogates.ratio(new, old, MASK, "sequence")
    np.testing.assert_allclose(found, [[4, 4, 1, 1], [2, 2, 2, 2], [1, 1, 1, 1]], rtol=rounding(16))
    gradient = jax.grad(lambda lp: surrogates.ratio(lp, old, MASK, "sequence")[0, 0])(new)
    np.testing.assert_allclose(gradient, [[2, 2, 0, 0], [0] * 4, [0] * 4], rtol=rounding(16))


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "slope"),
    [
        (1.1, 1.0, -1.1, -1.0),
        (1.5, 1.0, -1.3, 0.0),  # clipped above
        (0.5, 1.0, -0.5, -1.0),  # below, where more is better: not clipped
        (0.5, -1.0, 0.8, 0.0),  # clipped below
        (1.5, -1.0, 1.5, 1.0),
        (9.0, -1.0, 3.0, 0.0),  # the second clip
    ],
)
def test_the_surrogate_is_clipped_where_going_on_would_pay(ratio, advantage, loss, slope):
    one = lambda value: surrogates.clipped_surrogate(  # noqa: E731
        jnp.full((1, 1), value), jnp.full((1, 1), advantage), 0.2, 0.3, 3.0
    )[0, 0]
    found, gradient = jax.value_and_grad(one)(ratio)
    assert float(found) == pytest.approx(loss, rel=rounding(8))
    assert float(gradient) == pytest.approx(slope, rel=rounding(8))


def test_aggregations_by_hand():
    values = jnp.array([[1.0, 3.0, 9.0, 9.0], [2.0, 2.0, 2.0, 2.0], [7.0] * 4])
    mean = lambda how, constant=1.0: float(surrogates.aggregated(values, MASK, how, constant).mean)  # noqa: E731
    assert mean("token_mean") == pytest.approx(12 / 6)
    assert mean("sequence_mean_token_mean") == pytest.approx((2 + 2) / 2)
    assert mean("sequence_sum_over_constant", 8.0) == pytest.approx((4 / 8 + 8 / 8) / 2)


@pytest.mark.parametrize("how", surrogates.AGGREGATIONS)
def test_aggregations_add_over_micro_batches_and_leave_masked_tokens_alone(how):
    values = jnp.arange(12.0).reshape(3, 4)
    whole = surrogates.aggregated(values, MASK, how, 4.0)
    parts = [surrogates.aggregated(values[i : i + 1], MASK[i : i + 1], how, 4.0) for i in range(3)]
    assert float(sum(part.sum for part in parts)) == pytest.approx(float(whole.sum), rel=rounding(16))
    assert sum(int(part.count) for part in parts) == int(whole.count)
    gradient = jax.grad(lambda v: surrogates.aggregated(v, MASK, how, 4.0).mean)(values)
    assert not np.any(np.asarray(gradient)[~np.asarray(MASK)])
    assert np.all(np.asarray(gradient)[np.asarray(MASK)] > 0)


@pytest.mark.parametrize(
    "call",
    [
        lambda: surrogates.kl(P, Q, "k4"),
        lambda: surrogates.ratio(MASK.astype(float), MASK.astype(float), MASK, "word"),
        lambda: surrogates.aggregated(MASK.astype(float), MASK, "mean"),
    ],
)
def test_unknown_names_are_refused(call):
    with pytest.raises(ValueError, match="expected one of"):
        call()
