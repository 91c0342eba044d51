"""Rollouts as a source of batches, and steps that take several updates of them."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import rollouts as literal
import tiny
import tolerances
from small_runs import ALPHABET
from tolerances import rounding

from qstar import sharding
from qstar.data import tokenizer as tokenizers
from qstar.data.on_policy import RolloutData
from qstar.methods.policy_gradient import PolicyGradient
from qstar.methods.ppo import PPO
from qstar.methods.protocol import Models
from qstar.models.lm import LMConfig
from qstar.tasks.cups import Cups
from qstar.tasks.rewards import Rewards
from qstar.training import rollouts
from qstar.training.build import Program
from qstar.training.optim import OptimConfig
from qstar.training.reference import Comparison
from qstar.training.rollouts import RolloutSource
from qstar.training.step import make_step, new_state, over_minibatches

TOKENIZER = tokenizers.characters(ALPHABET)
PG = PolicyGradient()
SHAPE = LMConfig(
    vocab=TOKENIZER.size,
    width=16,
    layers=1,
    heads=2,
    kv_heads=1,
    head_size=8,
    ff=20,
    max_len=64,
    tied=True,
    remat="none",
)
TASK = Cups(train=12)
DATA = RolloutData(length=48, samples=4, max_new_tokens=6, rewards=Rewards(right=1.0, wrong=0.25, nothing=-0.5))


@functools.cache
def program(method=PG, devices=1):
    mesh = sharding.make_mesh(sharding.MeshConfig(data=devices), jax.devices()[:devices])
    return Program.of(method, SHAPE, mesh, OptimConfig(lr=0.01, warmup_steps=0), 4, 1, vocabulary=TOKENIZER)


def source(cfg=DATA, rows=8, seed=3, method=PG, devices=1, **more):
    return RolloutSource(cfg, TASK, program(method, devices), TOKENIZER, rows, seed, **more)


@functools.cache
def begin(method=PG, devices=1):
    built = program(method, devices)
    return built.start(tiny.weights_of(program().definition), 0)


def same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def by_text(values):
    """Values of rows of texts, [B R ...], as [texts ...]."""
    return np.asarray(values).reshape(-1, *np.shape(values)[2:])


def test_a_batch_holds_the_sampled_ids_after_their_prompt_and_what_they_earned():
    seen = []
    batch = source(seen=lambda step, texts: seen.append((step, texts))).next(begin())
    ((step, texts),) = seen
    assert (step, len(texts), batch.tokens.shape, batch.samples) == (1, 8, (2, 4, 6), 4)
    for number, text in enumerate(texts):
        row, count = divmod(number, 4)[0], len(text.tokens)
        tokens, mask, behaviour, reward = (
            by_text(values)[number] for values in (batch.tokens, batch.mask, batch.behaviour, batch.reward)
        )
        assert list(text.prompt) == TOKENIZER.encode_prompt(TASK.prompt(text.problem))
        assert batch.prompt.tokens[row][batch.prompt.segment[row] > 0].tolist() == list(text.prompt)
        assert tokens[:count].tolist() == list(text.tokens)
        assert np.flatnonzero(mask).tolist() == list(range(count))
        np.testing.assert_array_equal(behaviour[:count], text.behaviour)
        assert (behaviour != 0).sum() == count
        assert reward[count - 1] == reward.sum() == text.reward
    assert [text.problem.id for text in texts[:4]] == [texts[0].problem.id] * 4 != [texts[4].problem.id] * 4


def test_the_verdict_is_that_of_the_tasks_grader_on_the_text_of_the_sampled_ids():
    seen = []
    source(seen=lambda step, texts: seen.extend(texts)).next(begin())
    for text in seen:
        assert TOKENIZER.decode(list(text.tokens)).startswith(text.text)
        if text.finished:
            assert text.verdict == TASK.grader(text.text, text.problem.gold)
        assert text.rewards == DATA.rewards.terms(text.verdict, text.finished, len(text.tokens), 6)


class Silent(Cups):
    """Cups whose steps nobody knows to be right."""

    def truth(self, problem, steps):
        return None


def by_length(texts):
    """A score for each step: a tenth of the tokens from the prompt to its end."""
    return [0.1 * np.cumsum([len(step) for step in steps]) for _, steps in texts]


@pytest.mark.parametrize("how", ["last", "sum", "difference"])
def test_a_scorer_adds_what_the_steps_earn_at_their_last_tokens(how):
    seen, cfg = [], dataclasses.replace(DATA.rewards, scorer="a run", scorer_as=how, scorer_coef=2.0)
    scored = source(
        dataclasses.replace(DATA, rewards=cfg), scores=by_length, seen=lambda step, texts: seen.extend(texts)
    )
    batch, plain = scored.next(begin()), source().next(begin())
    np.testing.assert_array_equal(batch.tokens, plain.tokens)
    earned_by_text, told = by_text(batch.reward - plain.reward), by_text(batch.rewards["scorer"])
    several = 0
    for row, text in enumerate(seen):
        earned = earned_by_text[row]
        ends = [index for index, _ in text.earned]  # every token of the cups task is a step, but for its signs
        several += len(ends) > 1
        assert ends[-1] == len(text.tokens) - 1 and np.flatnonzero(np.delete(earned, ends)).size == 0
        lengths = np.array([place + 1 for place in ends])
        expected = {"sum": 0.2 * lengths, "difference": 0.2 * np.diff(lengths, prepend=0)}
        last = np.where(np.arange(len(ends)) == len(ends) - 1, 0.2 * lengths[-1], 0)
        # Earned is the difference of two rewards, one of them at most 1; then as many are added up.
        bound = rounding(2, size=1 + np.abs(earned).max())
        np.testing.assert_allclose(earned[ends], expected.get(how, last), rtol=0, atol=bound)
        bound = rounding(1 + len(earned), size=1 + np.abs(earned).sum())
        np.testing.assert_allclose(told[row], earned.sum(), rtol=0, atol=bound)
    assert several


def test_partial_credit_is_for_the_share_of_right_steps():
    seen, cfg = [], dataclasses.replace(DATA, rewards=Rewards(steps=0.5))
    batch = source(cfg, seen=lambda step, texts: seen.extend(texts)).next(begin())
    for row, text in enumerate(seen):
        right = TASK.truth(text.problem, TASK.steps(text.text)).right
        assert by_text(batch.rewards["steps"])[row] == np.float32(0.5 * sum(right) / max(len(right), 1))
    assert batch.rewards["steps"].any()


def test_a_scorer_without_scores_and_steps_that_no_one_knows_are_refused():
    with pytest.raises(ValueError, match=r"data\.rewards\.scorer = 'a run'"):
        source(dataclasses.replace(DATA, rewards=Rewards(scorer="a run")))
    with pytest.raises(ValueError, match=r"data.rewards.steps = 0.5: .* does not know"):
        RolloutSource(
            dataclasses.replace(DATA, rewards=Rewards(steps=0.5)), Silent(train=12), program(), TOKENIZER, 8, 3
        )


def test_a_batch_is_a_function_of_seed_step_position_and_weights():
    one, other = source(), source()
    first = one.next(begin())
    same(first, other.next(begin()))
    later = begin().replace(step=jnp.int32(1))
    second = one.next(later)
    third = source()
    third.restore(one.position() | {"questions": 2, "past": float(first.reward.sum(-1).mean())})
    same(second, third.next(later))
    assert not np.array_equal(second.tokens, first.tokens)
    assert not np.array_equal(source(seed=4).next(begin()).tokens, first.tokens)


def test_every_question_comes_once_in_an_epoch():
    asked, whole = [], source(rows=24, seen=lambda step, texts: asked.extend(text.problem.id for text in texts))
    for step in range(4):
        whole.next(begin().replace(step=jnp.int32(step)))
    ids = sorted(problem.id for problem in TASK.problems("train"))
    assert sorted(asked[:48:4]) == sorted(asked[48::4]) == ids
    assert asked[:48] != asked[48:]


def test_the_moving_average_is_that_of_the_rewards_of_earlier_steps():
    whole, means = source(), []
    for step in range(3):
        batch = whole.next(begin().replace(step=jnp.int32(step)))
        before = {0: 0.0, 1: means[0] if means else 0.0, 2: 0.9 * means[0] + 0.1 * means[1] if step == 2 else 0.0}[step]
        np.testing.assert_allclose(batch.past, before, rtol=0, atol=rounding(4))  # rewards are at most 1
        means.append(float(batch.reward.sum(-1).mean()))


def dead_groups(batch):
    totals = batch.reward.sum(-1).reshape(-1, batch.samples)
    return (totals == totals[:, :1]).all(1)


def test_dead_questions_are_left_out_or_replaced():
    kept = source(rows=32).next(begin())
    assert 0 < dead_groups(kept).sum() < 8
    assert kept.live.all()
    dropped = source(dataclasses.replace(DATA, dead="drop"), rows=32).next(begin())
    np.testing.assert_array_equal(dropped.live.reshape(-1, 4), ~np.repeat(dead_groups(kept)[:, None], 4, 1))
    refilling = source(dataclasses.replace(DATA, dead="refill", refills=20), rows=32)
    refilled = refilling.next(begin())
    assert not dead_groups(refilled).any()
    assert refilling.position()["questions"] > 8


def test_a_question_whose_samples_differ_in_length_alone_is_dead():
    """DAPO drops a question whose samples are all wrong, however long they are (Yu et al. 2025, equation 11)."""
    rewards = Rewards(right=1.0, wrong=-1.0, nothing=-1.0, unfinished=-1.0, overlong=5)
    kept = source(dataclasses.replace(DATA, rewards=rewards), rows=32).next(begin())
    assert (kept.rewards["grade"] == -1).all() and not dead_groups(kept).all()
    assert not source(dataclasses.replace(DATA, rewards=rewards, dead="drop"), rows=32).next(begin()).live.any()


def test_dead_questions_that_nothing_replaces_are_left_out():
    refilled = source(dataclasses.replace(DATA, dead="refill", refills=1), rows=32).next(begin())
    assert 0 < dead_groups(refilled).sum()
    np.testing.assert_array_equal(refilled.live.reshape(-1, 4), np.repeat(~dead_groups(refilled)[:, None], 4, 1))


@pytest.mark.parametrize(
    ("cfg", "rows", "method", "named"),
    [
        ({}, 6, PolicyGradient(), "batch_size = 6"),
        ({"samples": 1}, 8, PolicyGradient(), "data.samples = 1"),
        ({}, 8, PolicyGradient(minibatches=3), "method.minibatches = 3 .* a multiple of 3"),
        (
            {"length": 12},
            8,
            PolicyGradient(),
            r"train questions do not fit .* data.length = 12 .* give data.length=1[3-9]",
        ),
    ],
)
def test_what_does_not_divide_or_fit_is_refused_before_anything_is_sampled(cfg, rows, method, named):
    with pytest.raises(ValueError, match=named):
        source(dataclasses.replace(DATA, **cfg), rows, method=method)


def test_questions_that_do_not_fit_into_a_row_are_left_out_and_said(capsys):
    """Problems have six to eight moves; rows have room for those of six."""
    shortest = source(dataclasses.replace(DATA, length=8 + 6, overlong="skip"), rows=8)
    counts = [len(TOKENIZER.encode_prompt(problem.question)) for problem in TASK.problems("train")]
    few = sum(count <= 8 for count in counts)
    assert 0 < few < len(counts)
    said = f"{len(counts) - few} of {len(counts)} questions are left out: too long for rows of data.length = 14 tokens"
    assert said in capsys.readouterr().out
    prompts = shortest.next(begin()).prompt.tokens
    assert prompts.shape[-1] == 8


@pytest.mark.parametrize(
    ("samples", "rows", "method", "micro_batches", "devices", "expected"),
    [
        (8, 64, PG, 1, 1, 8),
        (8, 64, PG, 8, 1, 8),
        (8, 64, PG, 2, 8, 4),  # sixteen rows for two micro-batches over eight devices
        (6, 12, PG, 1, 4, 3),
        (6, 12, PG, 12, 1, 1),
        (8, 64, PolicyGradient(minibatches=4), 1, 1, 1),
    ],
)
def test_so_many_samples_of_a_question_share_its_prompt(samples, rows, method, micro_batches, devices, expected):
    built = dataclasses.replace(program(method, devices), micro_batches=micro_batches)
    assert rollouts.beside(samples, rows, built) == expected


def test_rows_have_one_of_few_lengths_up_to_the_longest_which_is_compiled_ahead(monkeypatch):
    asked, longest = source(), source().abstract()
    assert longest.tokens.shape == (2, 4, 6)
    assert [asked._fitted(length) for length in (0, 1, 2, 3, 4, 5, 6)] == [2, 2, 2, 4, 4, 6, 6]
    monkeypatch.setattr(rollouts, "FITS", 1)
    batch = asked.next(begin())
    like = lambda tree: jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), tree)  # noqa: E731
    assert like(batch) == like(longest)


# --- steps --------------------------------------------------------------------------------------------------------


WHOLE = (PolicyGradient(kl_coef=0.1), PPO(kl_coef=0.1, kl_in="reward"), PPO(critic="apart"))
"""With a reference in the loss, with one in the rewards, and without; no critic, one on the model, one apart."""
SLOW = [pytest.param(method, marks=pytest.mark.slow) for method in (*WHOLE, PPO())]


@functools.cache
def stepped(method, micro_batches=1, devices=1, beside=3, times=1):
    """The state after a step on literal rollouts, so many times, in float64, and its metrics."""
    definition = method.definition(tiny.EXACT)
    mesh = sharding.make_mesh(sharding.MeshConfig(data=devices), jax.devices()[:devices])
    tx = optax.sgd(0.1)
    comparison = Comparison.of(method, definition)
    step = make_step(method, definition, tx, mesh, micro_batches, comparison=comparison)
    state = new_state(tiny.weights_of(definition, 0, jnp.float64), tx, jax.random.key(0), False, comparison=comparison)
    if comparison:
        state = state.replace(reference=tiny.weights_of(definition, 1, jnp.float64))
    batch = jax.tree.map(lambda x: jnp.concatenate([x] * times), literal.batch(beside=beside))
    with jax.set_mesh(mesh):
        return step(state, jax.device_put(batch, sharding.named(mesh, "batch")))


def close(a, b):
    for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True):
        assert tiny.relative_error(x, y) < tolerances.gradient(tiny.EXACT)


@pytest.mark.parametrize("method", [WHOLE[2], *SLOW[:2], SLOW[3]])
def test_micro_batches_give_the_update_of_the_whole_batch(method, x64):
    (whole, told), (parts, summed) = stepped(method), stepped(method, micro_batches=2)
    close(whole.params, parts.params)
    assert set(told) == set(summed)
    for name in set(told) - {"mismatch_max", "explained"}:  # means over micro-batches
        np.testing.assert_allclose(told[name].value(), summed[name].value(), rtol=1e-9, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("method", [WHOLE[0], *SLOW[1:3]])
def test_an_update_is_the_same_however_many_texts_stand_in_a_row(method, x64):
    (whole, told), (single, alone) = stepped(method), stepped(method, beside=1)
    close(whole.params, single.params)
    assert set(told) == set(alone)
    for name in told:
        np.testing.assert_allclose(told[name].value(), alone[name].value(), rtol=1e-9, atol=1e-12, err_msg=name)


def test_devices_give_the_update_of_one(x64):
    close(stepped(PG, times=4)[0].params, stepped(PG, devices=8, times=4)[0].params)


def test_a_step_is_its_updates_one_after_another_on_parts_of_the_rollouts(x64):
    """Two epochs of three minibatches: six updates, each row in one minibatch of an epoch; the step counts once."""
    method = PolicyGradient(epochs=2, minibatches=3)
    state, metrics = stepped(method, beside=1)
    assert int(state.step) == 1
    assert float(metrics["grad_norm"].count) == 6
    seen = []

    def updated(state, batch, key):
        jax.debug.callback(lambda tokens: seen.append(np.asarray(tokens).tolist()), batch.tokens)
        return state, {}

    over_minibatches(updated, jnp.zeros(()), literal.batch(beside=1), jax.random.key(1), 2, 3)
    jax.effects_barrier()
    rows = np.asarray(literal.batch(beside=1).tokens).tolist()
    for epoch in (seen[:3], seen[3:]):
        assert sorted(row for part in epoch for row in part) == sorted(rows)
    assert seen[:3] != seen[3:]


def test_later_updates_are_held_against_the_weights_that_sampled(x64):
    method = PolicyGradient(baseline="batch", clip_low=0.01, clip_high=0.01, epochs=3)
    definition, params = tiny.lm_of(tiny.EXACT)
    judged = lambda params, batch: method.judged(Models(definition.bind(params)), batch)  # noqa: E731
    found, _ = jax.jit(lambda params, batch: method.credited(batch, judged(params, batch)))(params, literal.batch())
    gradient = jax.jit(jax.grad(lambda params: method.loss(Models(definition.bind(params)), found, None)[0]))
    for _ in range(3):
        params = jax.tree.map(lambda leaf, slope: leaf - 0.1 * slope, params, gradient(params))
    close(stepped(method)[0].params, params)


def test_the_schedule_spans_all_updates():
    method = PolicyGradient(epochs=2, minibatches=2)
    mesh = sharding.make_mesh(sharding.MeshConfig())
    cfg = OptimConfig(lr=1.0, warmup_steps=0, schedule="linear", final_lr=0.0)
    built = Program.of(method, SHAPE, mesh, cfg, 5, 1, vocabulary=TOKENIZER)
    state = built.start(tiny.weights_of(program().definition), 0)
    batch = source(rows=8, method=method).next(begin())
    with jax.set_mesh(mesh):
        for _ in range(5):
            before = jax.tree.map(np.asarray, state.params)
            state, _ = built.step(state, batch)
    assert any((np.asarray(a) != b).any() for a, b in zip(*map(jax.tree.leaves, (state.params, before)), strict=True))
    with jax.set_mesh(mesh):
        still, _ = built.step(jax.tree.map(jnp.copy, state), batch)
    # 1 - 20 / 20 is 0 but for what a compiler fuses; an update of Adam is at most about as large as the rate, and there
    # are four in a step.
    for found, before in zip(*map(jax.tree.leaves, (still.params, state.params)), strict=True):
        np.testing.assert_allclose(found, before, rtol=0, atol=4 * tolerances.rounding(2))


def test_the_order_of_questions_is_that_of_the_seed():
    assert sorted(rollouts._order(1, 0, 5).tolist()) == [0, 1, 2, 3, 4]
    assert rollouts._order(1, 0, 50).tolist() != rollouts._order(1, 1, 50).tolist()
