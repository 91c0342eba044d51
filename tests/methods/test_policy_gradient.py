"""Losses and advantages of policy gradients against loops over single tokens, and what they must not depend on."""

import dataclasses
import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rollouts
import small_runs
import tiny
from reference import policy_gradients as loops

from qstar.methods.policy_gradient import PolicyGradient
from qstar.methods.ppo import PPO
from qstar.methods.protocol import Models
from qstar.models import heads
from qstar.structs import Credited, Judged

KEY = jax.random.key(0)
GOLDEN = Path(__file__).resolve().parent.parent / "golden"
ARGUMENTS = ("data=rollouts", "task=cups", "eval=none", "control=false", "batch_size=16", "data.samples=4")


def preset(name):
    return small_runs.composed(f"method={name}", *ARGUMENTS).method


def models(seed=0, reference=1):
    definition, params = tiny.lm_of(tiny.EXACT, seed)
    kept = tiny.lm_of(tiny.EXACT, reference)[1]
    return params, lambda params: Models(definition.bind(params), definition.bind(kept))


def logprobs_of(params):
    """Of every text in a row of its own."""
    return rollouts.sampled(_next_logprobs(tiny.lm_of(tiny.EXACT)[0], params, rollouts.alone()))


@functools.partial(jax.jit, static_argnums=0)
def _next_logprobs(definition, params, rows):
    model = definition.bind(params)
    return model.next_logprobs(model.text(rows), rows.tokens)


def credited(method, batch, old_seed=2):
    """Rollouts that other weights sampled, so that no ratio is 1."""
    _, bound = models()
    sampler = tiny.lm_of(tiny.EXACT, old_seed)[1]
    return method.credited(batch, method.judged(bound(sampler), batch))


def expected(method, batch, params):
    """The loss by loops; advantages included."""
    reference, sampler = tiny.lm_of(tiny.EXACT, 1)[1], tiny.lm_of(tiny.EXACT, 2)[1]
    now, kept = logprobs_of(params), logprobs_of(reference)
    old = logprobs_of(sampler) if method.asks_old else now
    earned = rollouts.by_text(batch.reward)
    if method.kl_coef and method.kl_in == "reward":
        earned = [
            [r - method.kl_coef * loops.kl(method.kl, o, k) for r, o, k in zip(*each, strict=True)]
            for each in zip(earned, old, kept, strict=True)
        ]
    totals = [sum(row) for row in earned]
    if method.baseline in ("group", "leave_one_out"):
        scores = loops.group_advantages(
            totals, batch.samples, method.baseline == "leave_one_out", method.scale, method.epsilon
        )
    else:
        baseline = {"none": 0.0, "batch": sum(totals) / len(totals), "moving": 0.25}[method.baseline]
        scores = [total - baseline for total in totals]
    advantages = [[score] * len(row) for score, row in zip(scores, earned, strict=True)]
    if method.to_go:
        gone = [total - score for total, score in zip(totals, scores, strict=True)]
        advantages = [[v - b for v in row] for row, b in zip(loops.to_go(earned), gone, strict=True)]
    if method.whiten:
        advantages = loops.whitened(advantages)
    clip = (method.clip_low or None, method.clip_high or None)
    losses = loops.surrogate(now, old, advantages, *clip, method.ratio == "sequence", method.dual_clip or None)
    loss = loops.aggregated(losses, method.aggregation, method.constant or 1)
    if method.kl_coef and method.kl_in == "loss":
        distances = [
            [loops.kl(method.kl, n, k) for n, k in zip(*each, strict=True)] for each in zip(now, kept, strict=True)
        ]
        loss += method.kl_coef * loops.aggregated(distances, method.aggregation, method.constant or 1)
    return loss


OTHERS = {
    "moving": PolicyGradient(baseline="moving", clip_low=0.0, clip_high=0.0),
    "dual": PolicyGradient(baseline="group", scale="population", dual_clip=1.5),
    "to go": PolicyGradient(baseline="batch", to_go=True),
    "k2": PolicyGradient(kl_coef=0.3, kl="k2"),
}


def named(name):
    return OTHERS[name] if name in OTHERS else preset(name)


def slow(*names):
    return [pytest.param(name, marks=pytest.mark.slow) for name in names]


@pytest.mark.parametrize(  # trl's losses below tell the slow ones from grpo
    "name", ["reinforce", "rloo", "grpo", "gspo", "reinforce_pp", "maxrl", *OTHERS, *slow("dr_grpo", "dapo")]
)
def test_the_loss_is_that_of_loops_over_tokens(name, x64):
    """Of the first of two updates, which is held against what weights said that sampled, were they others."""
    method = dataclasses.replace(named(name), epochs=2)
    batch = rollouts.batch()
    params, bound = models()
    found, _ = credited(method, batch)
    loss, _ = method.loss(bound(params), found, KEY)
    np.testing.assert_allclose(loss, expected(method, batch, params), rtol=1e-9)


@pytest.mark.parametrize("name", ["grpo", "moving", *slow("dr_grpo")])
def test_the_log_probs_of_an_only_update_are_those_that_ratios_are_taken_to(name, x64):
    method = named(name)
    assert method.updates == 1
    batch = rollouts.batch()
    params, bound = models()
    found, told = credited(method, batch)
    assert found.judged.old is None
    loss, metrics = method.loss(bound(params), found, KEY)
    np.testing.assert_allclose(loss, expected(method, batch, params), rtol=1e-9)
    now = [logprob for text in logprobs_of(params) for logprob in text]
    np.testing.assert_allclose(metrics["entropy"].value(), -np.mean(now), rtol=1e-9)
    np.testing.assert_allclose(metrics["mismatch"].value(), np.mean(np.abs(np.array(now) + 1)), rtol=1e-9)
    assert not set(told) & set(metrics)


@pytest.mark.parametrize(  # but of reinforce_pp, which has no baseline; the others' are of a question as grpo's is
    "name", ["reinforce", "grpo", *slow("rloo", "gspo", "maxrl", "dr_grpo", "dapo")]
)
def test_equal_rewards_of_every_question_give_no_gradient(name, x64):
    method = dataclasses.replace(preset(name), kl_coef=0.0)
    found, _ = credited(method, rollouts.batch([0.3] * 6))
    params, bound = models()
    gradient = jax.grad(lambda params: method.loss(bound(params), found, KEY)[0])(params)
    assert all((np.asarray(leaf) == 0).all() for leaf in jax.tree.leaves(gradient))


@pytest.mark.parametrize("epochs", [1, 2])
def test_before_the_first_update_ratios_are_one_and_the_kl_is_zero(epochs):
    method = dataclasses.replace(preset("grpo"), epochs=epochs)
    definition, params = tiny.lm_of()
    same = Models(definition.bind(params), definition.bind(params))
    batch = rollouts.batch()
    found, told = jax.jit(lambda: method.credited(batch, method.judged(same, batch)))()
    _, metrics = jax.jit(lambda: method.loss(same, found, KEY))()
    metrics |= told
    assert metrics["kl"].value() == 0
    assert metrics["kl_term"].value() == 0
    assert metrics["clipped"].value() == 0


def test_no_gradient_depends_on_what_was_not_sampled(x64):
    """Prompts are read, but behaviour, advantages and rewards at their tokens and in the padding count nowhere."""
    method, batch = preset("grpo"), rollouts.batch()
    other = batch.replace(
        behaviour=jnp.where(batch.mask, batch.behaviour, 7.0), reward=jnp.where(batch.mask, batch.reward, 9.0)
    )
    params, bound = models()
    gradients = [
        jax.grad(lambda params, found=found: method.loss(bound(params), found, KEY)[0])(params)
        for found in (credited(method, batch)[0], credited(method, other)[0])
    ]
    for a, b in zip(*map(jax.tree.leaves, gradients), strict=True):
        np.testing.assert_array_equal(a, b)


def test_texts_that_are_left_out_count_nowhere(x64):
    method = preset("dapo")
    live = [1, 1, 1, 0, 0, 0]
    params, bound = models()
    found, told = credited(method, rollouts.batch(live=live))
    changed, _ = credited(method, rollouts.batch(REWARDS_OF_THE_DEAD, live=live))
    losses = [float(method.loss(bound(params), each, KEY)[0]) for each in (found, changed)]
    assert losses[0] == losses[1] != 0
    assert told["sampled_tokens"].value() == pytest.approx((4 + 2 + 5) / 3)


REWARDS_OF_THE_DEAD = [1.0, 0.0, 0.0, 5.0, -3.0, 2.0]


def test_the_gradient_is_the_enumerated_one_of_the_expected_reward(x64):
    """One token of three, every one of which is a rollout that weighs its probability: no sampling error is left."""
    logits = jnp.array([0.3, -1.0, 0.5])
    rewards = jnp.array([1.0, 0.2, -0.4])
    method = PolicyGradient(baseline="none", clip_low=0.0, clip_high=0.0)
    probability = jax.nn.softmax(logits)

    def loss(logits):
        logprobs = jax.nn.log_softmax(logits)
        losses = [
            method.policy_terms(logprobs[i].reshape(1, 1, 1), _one(logprobs[i], rewards[i]))[0][0].mean
            for i in range(3)
        ]
        return sum(p * each for p, each in zip(jax.lax.stop_gradient(probability), losses, strict=True))

    expected = -jax.grad(lambda logits: (jax.nn.softmax(logits) * rewards).sum())(logits)
    np.testing.assert_allclose(jax.grad(loss)(logits), expected, rtol=1e-12)


def _one(logprob, reward):
    batch = rollouts.batch()
    one = jax.tree.map(lambda x: x[:1, :1, :1] if x.ndim == 3 else x[:1, :1], batch)
    fields = {field.name: getattr(one, field.name) for field in dataclasses.fields(one)}
    old = jax.lax.stop_gradient(logprob).reshape(1, 1, 1)
    return Credited(**fields, judged=Judged(old), advantage=reward.reshape(1, 1, 1))


def test_the_entropy_in_the_reward_has_the_gradient_of_the_entropy(x64):
    """E[-log pi (score)] is the gradient of the entropy: by enumeration of a categorical."""
    logits = jnp.array([0.3, -1.0, 0.5])
    logprobs = jax.nn.log_softmax(logits)
    earned = -jax.lax.stop_gradient(logprobs)
    found = jax.grad(lambda logits: (jnp.exp(logprobs) * earned * jax.nn.log_softmax(logits)).sum())(logits)
    entropy = jax.grad(lambda x: -(jax.nn.softmax(x) * jax.nn.log_softmax(x)).sum())(logits)
    np.testing.assert_allclose(found, entropy, rtol=1e-12)
    method = PolicyGradient(baseline="none", entropy_coef=0.5)
    batch = rollouts.batch([0.0] * 6)
    found, _ = credited(method, batch)
    old = rollouts.by_text(found.judged.old)
    np.testing.assert_allclose(
        [row[0] for row in rollouts.by_text(found.advantage)], [-0.5 * sum(row) for row in old], rtol=1e-12
    )


def test_importance_weights_of_another_sampler_are_truncated(x64):
    method = PolicyGradient(baseline="none", truncation=1.5, clip_low=0.0, clip_high=0.0)
    batch = rollouts.batch(behaviour=-3.0)
    found, _ = credited(method, batch)
    params, bound = models(seed=2)  # ratio 1
    loss, told = method.loss(bound(params), found, KEY)
    weights = [[min(np.exp(old + 3.0), 1.5) for old in row] for row in logprobs_of(params)]
    tokens = [-w * reward for row, reward in zip(weights, rollouts.REWARDS, strict=True) for w in row]
    np.testing.assert_allclose(loss, sum(tokens) / len(tokens), rtol=1e-12)
    assert told["mismatch"].value() > 0.1


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"aggregation": "sequence_sum_over_constant"}, "method.constant = 0"),
        ({"kl_coef": 0.1, "kl": "k1"}, "method.kl_in=reward"),
        ({"dual_clip": 0.5}, "method.dual_clip = 0.5"),
        ({"baseline": "batch", "scale": "sample"}, "method.baseline=group"),
        ({"scale": "sample", "to_go": True}, "method.to_go=true"),
        ({"baseline": "mean"}, "method.baseline"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, named):
    with pytest.raises(ValueError, match=named):
        PolicyGradient(**settings)


# --- PPO ----------------------------------------------------------------------------------------------------------


def scorer(seed):
    definition = heads.definition(tiny.EXACT)
    return definition, tiny.weights_of(definition, seed, jnp.float64)


def ppo_expected(method, batch, weights):
    """Loss by loops, of log-probs and values under the weights now, those that sampled, and the reference."""
    now, old, kept = (logprobs_of(each["lm"]) for each in weights)
    critics = (each.get("critic", each) for each in weights[:2])
    alone = rollouts.alone()
    value, before = (rollouts.sampled(scorer(0)[0].bind(each).scores(alone)[:, :-1]) for each in critics)
    earned = [
        [r - method.kl_coef * (o - k) for r, o, k in zip(*each, strict=True)]
        for each in zip(rollouts.by_text(batch.reward), old, kept, strict=True)
    ]
    estimates = loops.gae(earned, before, method.gamma, method.lam)
    returns = [[a + v for a, v in zip(*each, strict=True)] for each in zip(estimates, before, strict=True)]
    advantages = loops.whitened(estimates) if method.whiten else estimates
    losses = loops.surrogate(now, old, advantages, method.clip_low, method.clip_high)
    errors = loops.value_errors(value, before, returns, method.value_clip)
    mean = lambda rows: loops.aggregated(rows, method.aggregation)  # noqa: E731
    return mean(losses) + method.value_coef * mean(errors) / 2


@pytest.mark.parametrize("name", ["ppo", "reft"])
def test_the_loss_of_ppo_is_that_of_loops_over_tokens(name, x64):
    method, batch = preset(name), rollouts.batch()
    (definition, now), (_, old), (_, kept) = (scorer(seed) for seed in range(3))
    bound = lambda params: Models(definition.bind(params), definition.bind(kept))  # noqa: E731
    found, _ = method.credited(batch, method.judged(bound(old), batch))
    loss, _ = jax.jit(lambda params: method.loss(bound(params), found, KEY))(now)
    np.testing.assert_allclose(loss, ppo_expected(method, batch, (now, old, kept)), rtol=1e-9)


def test_equal_returns_leave_nothing_to_explain(x64):
    method, batch = dataclasses.replace(preset("ppo"), kl_coef=0.0), rollouts.batch()
    batch = batch.replace(reward=jnp.zeros_like(batch.reward))
    definition, weights = scorer(0)
    weights = {**weights, "score": jax.tree.map(jnp.zeros_like, weights["score"])}
    models = Models(definition.bind(weights))
    _, metrics = method.loss(models, method.credited(batch, method.judged(models, batch))[0], KEY)
    assert (float(metrics["explained"].count), metrics["explained"].value()) == (0, 0)


def apart(seed):
    definition = heads.actor_critic(tiny.EXACT)
    return definition, tiny.weights_of(definition, seed, jnp.float64)


def test_a_critic_apart_has_weights_of_its_own(x64):
    method, batch = dataclasses.replace(preset("ppo"), critic="apart"), rollouts.batch()
    (definition, now), (_, old), (_, kept) = (apart(seed) for seed in range(3))
    assert method.definition(tiny.EXACT) == definition
    bound = lambda params: Models(definition.bind(params), definition.bind(kept))  # noqa: E731
    found, _ = method.credited(batch, method.judged(bound(old), batch))

    def gradient(method):
        return jax.jit(jax.value_and_grad(lambda params: method.loss(bound(params), found, KEY)[0]))(now)

    loss, both = gradient(method)
    np.testing.assert_allclose(loss, ppo_expected(method, batch, (now, old, kept)), rtol=1e-9)
    _, acting = gradient(dataclasses.replace(method, value_coef=0.0))
    jax.tree.map(np.testing.assert_array_equal, acting["lm"], both["lm"])  # the value's error does not reach the policy
    assert not any(leaf.any() for leaf in jax.tree.leaves(acting["critic"]))
    assert all(leaf.any() for leaf in jax.tree.leaves(both["critic"]["score"]))


def test_a_critic_apart_starts_from_the_weights_of_the_policy():
    method = dataclasses.replace(preset("ppo"), critic="apart")
    weights = tiny.weights_of(tiny.lm_of(tiny.LM)[0])
    params = method.start_from(heads.actor_critic(tiny.LM), weights, KEY)
    assert params["lm"] is params["critic"]["lm"] is weights
    assert not params["critic"]["score"]["weight"].any()
    assert len(method.passes(8)) == len(preset("ppo").passes(8)) + 1 + method.epochs


def test_reft_has_the_settings_that_were_released():
    method = preset("reft")
    assert isinstance(method, PPO)
    assert (method.epochs, method.minibatches, method.updates) == (2, 1, 2)  # mini_batch_size is batch_size, per GPU
    assert (method.clip_low, method.clip_high, method.value_clip) == (0.2, 0.2, 0.2)
    assert (method.value_coef, method.kl_coef, method.kl, method.kl_in) == (5.0, 0.05, "k1", "reward")
    assert (method.gamma, method.lam, method.entropy_coef, method.whiten) == (1.0, 0.95, 0.0, True)
    assert method.aggregation == "sequence_mean_token_mean"


# --- trl ----------------------------------------------------------------------------------------------------------

TRL = {
    "grpo": PolicyGradient(aggregation="sequence_mean_token_mean"),
    "grpo_kl": PolicyGradient(aggregation="sequence_mean_token_mean", kl_coef=0.04),
    "bnpo": PolicyGradient(aggregation="token_mean"),
    "dr_grpo": PolicyGradient(aggregation="sequence_sum_over_constant", constant=12),
    "dapo": PolicyGradient(aggregation="token_mean", clip_high=0.28),
    "gspo": PolicyGradient(aggregation="sequence_mean_token_mean", ratio="sequence", clip_low=3e-2, clip_high=4e-2),
    "rloo": PolicyGradient(aggregation="sequence_sum_over_constant", constant=1, clip_low=0.0, clip_high=0.0),
}


@pytest.mark.parametrize("name", TRL)
def test_losses_and_gradients_by_logit_are_those_of_trl(name, x64):
    """RLOO's as a gradient alone, where nothing was updated: trl takes one ratio of the whole text."""
    golden, method = np.load(GOLDEN / "rl.npz"), TRL[name]
    counts, ids = jnp.asarray(golden["mask"]), jnp.asarray(golden["ids"])
    chosen = lambda logits: jnp.take_along_axis(jax.nn.log_softmax(logits), ids[..., None], -1)[..., 0]  # noqa: E731
    logits = jnp.asarray(golden["logits"])
    old = chosen(logits) if name == "rloo" else jnp.asarray(golden["old"])
    judged = Judged(old[:, None], jnp.asarray(golden["reference"])[:, None])
    found = _credited(counts[:, None], judged, jnp.asarray(golden["advantage"])[:, None])

    def loss(logits):
        return sum(term.weight * term.mean for term in method.policy_terms(chosen(logits)[:, None], found)[0])

    value, gradient = jax.value_and_grad(loss)(logits)
    np.testing.assert_allclose(gradient, golden[f"{name}.gradient"], rtol=1e-9, atol=1e-12)
    if name != "rloo":
        np.testing.assert_allclose(value, golden[f"{name}.loss"], rtol=1e-9)


def _credited(counts, judged, advantage):
    """Credited rollouts of whose texts only these are read."""
    empty = jnp.zeros(counts.shape)
    advantage = jnp.where(counts, advantage[..., None], 0)
    return Credited(
        prompt=rollouts.alone(),
        tokens=counts.astype(int),
        mask=counts,
        behaviour=empty,
        reward=empty,
        rewards={},
        live=counts.any(-1),
        right=counts.any(-1),
        past=empty[..., 0],
        samples=1,
        judged=judged,
        advantage=advantage,
    )
