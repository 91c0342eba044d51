import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
import tolerances
from reference import sequential
from tolerances import EXACT

from qstar.methods.latro import LaTRO, leave_one_out
from qstar.methods.protocol import Models
from qstar.methods.quiet_star import QuietStar
from qstar.thoughts import anchors as where
from qstar.thoughts.fill import Inner

METHOD = LaTRO(thought_len=2, num_thoughts=3, lookahead=2, beta=0.3, temperature=0.8, positions=4)
HOW = sequential.Mixing("none", "thought", 1.0)


def setting():
    model, params = tiny.thinker_of(tiny.EXACT, mixing="none")
    return model, params, tiny.weights_of(model, 3, jnp.float64), tiny.packed()


@functools.cache
def evaluated():
    """Loss and metrics, and the loss's gradient in the weights before training."""
    model, params, before, batch = setting()

    def loss(before):
        return METHOD.loss(Models(model.bind(params), model.bind(before), METHOD), batch, jax.random.key(5))

    return jax.jit(jax.value_and_grad(loss, has_aux=True))(before)


def test_loss_and_metrics_equal_the_equation(x64):
    _, params, before, batch = setting()
    (loss, metrics), _ = evaluated()
    chooses, fills = jax.random.split(jax.random.key(5))
    anchors = np.asarray(where.draw(batch, 4, chooses))
    draws = jax.random.split(fills)[1]
    tokens, _ = sequential.sample(params, tiny.EXACT, 1.0, batch, anchors, draws, 2, 3, 0.8)
    now = sequential.talk(params, tiny.EXACT, 1.0, batch, anchors, tokens, 2, "logprobs", 0.8, how=HOW)
    old = sequential.talk(before, tiny.EXACT, 1.0, batch, anchors, tokens, 2, "logprobs", 0.8, how=HOW)
    marks = sequential.counts(batch, anchors, 2)
    terms, ratios = [], []
    for b, a in np.ndindex(2, 4):
        true = np.flatnonzero(marks[b, a])
        if not len(true):
            continue
        answer = [sum(now.mixed[b, r, a, n] for n in true) for r in range(3)]
        ratio = [now.thought[b, r, a].sum() - old.thought[b, r, a].sum() for r in range(3)]
        reward = [answer[r] - 0.3 * ratio[r] for r in range(3)]
        for r in range(3):
            advantage = reward[r] - np.mean([reward[q] for q in range(3) if q != r])
            terms.append(-(advantage * now.thought[b, r, a].sum() + answer[r]))
            ratios.append(ratio[r])
    assert len(terms) > 12
    assert float(loss) == pytest.approx(np.mean(terms), abs=tolerances.POLICY)
    assert metrics["kl"].value() == pytest.approx(np.mean(ratios), abs=tolerances.REWARD)
    assert abs(np.mean(ratios)) > 0.1


# --- exactness, on a vocabulary of three tokens: all pairs of the nine thoughts of two tokens ---------------------

LM = dataclasses.replace(tiny.EXACT, vocab=3, layers=1, remat="none")
BATCH = tiny.batch(tokens=[[0, 2, 1, 1, 0]], segment=[[1, 1, 1, 1, 1]])
ANCHORS = np.array([[0, 2]])
EVERY = np.array(list(itertools.product(range(3), repeat=2)))  # [9 T]
PAIRS = np.array(list(itertools.product(range(9), repeat=2)))
PAIR = LaTRO(thought_len=2, num_thoughts=2, lookahead=2, beta=0.3, positions=0)


def objective(params, before):
    """Sum over anchors of E_z [log p(y | x, z)] - beta KL(pi || pi_0), by the sequential reference."""
    thoughts = np.broadcast_to(EVERY[None, :, None], (1, 9, 2, 2))
    talk = lambda params: sequential.talk(params, LM, 1.0, BATCH, ANCHORS, thoughts, 2, "logprobs", how=HOW)  # noqa: E731
    now, old = talk(params), talk(before)
    policy, prior = now.thought.sum(-1), old.thought.sum(-1)
    np.testing.assert_allclose(np.exp(policy).sum(1), 1, rtol=0, atol=2 * EXACT)  # two tokens each
    return (np.exp(policy) * (now.mixed.sum(-1) - 0.3 * (policy - prior))).sum()


def expected_loss(model, params, before):
    """Mean over independent pairs of thoughts of the loss, each with its probability, held constant."""

    def one(members, slot):
        models = Models(model.bind(params), model.bind(before), PAIR)
        tokens = jnp.asarray(EVERY)[members][None, :, None]
        anchors = jax.lax.dynamic_slice_in_dim(jnp.asarray(ANCHORS), slot, 1, 1)
        context = tiny.context(models.policy, BATCH, anchors)
        inner = Inner(models.policy.lm.embed(tokens), tokens)
        loss, _ = PAIR.judged(models, context, inner)
        chance = jnp.exp(PAIR.thinking.talk(models.policy, context, inner).thought.sum())
        return jax.lax.stop_gradient(chance) * loss.value

    return jax.vmap(jax.vmap(one, (0, None)), (None, 0))(jnp.asarray(PAIRS), jnp.arange(2)).sum()


def test_the_expected_gradient_is_that_of_likelihood_less_divergence(x64):
    model, params = tiny.thinker_of(LM, mixing="none")
    before = tiny.weights_of(model, 3, jnp.float64)
    gradient = jax.jit(jax.grad(lambda params: expected_loss(model, params, before)))(params)
    for seed in (1, 2):
        direction = tiny.weights_of(model, seed, jnp.float64)
        moved = lambda step, way=direction: jax.tree.map(  # noqa: E731
            lambda weight, along: np.asarray(weight) + step * along, params, way
        )
        expected = -(objective(moved(1e-5), before) - objective(moved(-1e-5), before)) / 2e-5
        found = sum(np.vdot(g, d) for g, d in zip(*map(jax.tree.leaves, (gradient, direction)), strict=True))
        assert abs(expected) > 1e-2
        assert found == pytest.approx(expected, abs=tolerances.difference(LM, 1e-5, expected))


def test_on_one_position_it_is_quiet_star_up_to_clamp_divergence_and_baseline(x64):
    """N (NLL + T / N REINFORCE): Quiet-STaR has means over N tokens and T log-probs where LaTRO has sums."""
    model, params = tiny.thinker_of(tiny.EXACT, mixing="none")
    batch = tiny.batch(tokens=[[3, 7, 1, 9, 4, 0]], segment=[[1] * 6], mask=[[0, 0, 0, 1, 1, 0]])  # y: two tokens
    twin = LaTRO(thought_len=3, num_thoughts=2, lookahead=2, beta=0.0, positions=0)
    quiet = QuietStar(
        thought_len=3,
        num_thoughts=2,
        lookahead=2,
        mixing="none",
        base_weight=0.0,
        beta=3 / 2,
        baseline="leave_one_out",
        clamp=False,
        reinforce_temperature=1.0,
    )
    anchors, tokens = jnp.array([[2]]), jnp.array([[[[4, 0, 7]], [[1, 4, 12]]]])

    def given(thinker):
        return tiny.context(thinker, batch, anchors), Inner(thinker.lm.embed(tokens), tokens)

    def latro(params):
        models = Models(model.bind(params), model.bind(params), twin)
        return twin.judged(models, *given(models.policy))[0].value

    def quiet_star(params):
        thinker = model.bind(params)
        return 2 * quiet.objective(quiet.thinking.talk(thinker, *given(thinker)), batch)[0]

    value, found = jax.jit(jax.value_and_grad(latro))(params)
    twins, expected = jax.jit(jax.value_and_grad(quiet_star))(params)
    assert float(value) == pytest.approx(float(twins), abs=tolerances.POLICY)
    for (path, leaf), other in zip(jax.tree_util.tree_leaves_with_path(found), jax.tree.leaves(expected), strict=True):
        assert tiny.relative_error(leaf, other) < 100 * tolerances.gradient(LM), path  # advantages cancel


def test_every_rationale_is_held_against_the_others():
    reward = jnp.array([[[1.0], [2.0], [6.0]]])
    np.testing.assert_allclose(leave_one_out(reward)[0, :, 0], [-3.0, -1.5, 4.5], rtol=tolerances.rounding(3))


def test_no_gradient_reaches_the_model_before_training(x64):
    _, found = evaluated()
    assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(found)) == 0


def test_the_reference_is_the_model_before_training_for_good():
    assert dataclasses.asdict(METHOD.reference) == {"decay": 1.0, "run": ""}


def test_settings_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match=r"method.beta = -1: expected 0 or a positive number"):
        dataclasses.replace(METHOD, beta=-1)
    with pytest.raises(ValueError, match=r"method.num_thoughts = 1: expected an integer of at least 2"):
        dataclasses.replace(METHOD, num_thoughts=1)
