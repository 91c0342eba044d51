"""The bounds of tests/tolerances.py: above what rounding does, far below what a mistake does."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
import tolerances
from compiling import xla_flags

from qstar.methods.protocol import Models
from qstar.methods.quiet_star import QuietStar

SHAPES = {
    "tiny": tiny.LM,
    "deep": dataclasses.replace(tiny.LM, layers=6),
    "wide": dataclasses.replace(tiny.LM, width=96, heads=6, kv_heads=3, head_size=16, ff=160),
    "vocabulary": dataclasses.replace(tiny.LM, vocab=3001, tied=True),
}
LENGTH = 64


def rows(vocab):
    tokens = np.random.default_rng(0).integers(0, vocab, (4, LENGTH))
    return tiny.batch(tokens, np.ones((4, LENGTH), int))


@functools.partial(jax.jit, static_argnums=0)
def logprobs(model, params, batch):
    lm = model.bind(params)
    return jax.nn.log_softmax(lm.logits(lm.text(batch).hidden))


@functools.cache
def exact(shape):
    """Definition, weights and log-probs in float64, where rounding is 2^-29 of that in float32."""
    model, params = tiny.lm_of(dataclasses.replace(SHAPES[shape], dtype="float64"))
    return model, params, np.asarray(logprobs(model, params, rows(SHAPES[shape].vocab)))


@pytest.mark.parametrize("shape", SHAPES)
def test_the_condition_of_a_model_is_what_weights_that_are_changed_a_little_show(x64, shape):
    """Measured in float64, so on any processor the same."""
    cfg = SHAPES[shape]
    model, params, before = exact(shape)
    rng, step = np.random.default_rng(1), 2.0**-20
    moved = jax.tree.map(lambda leaf: leaf * (1 + step * rng.standard_normal(leaf.shape)), params)
    measured = np.abs(np.asarray(logprobs(model, moved, rows(cfg.vocab))) - before).max() / step
    foreseen = tolerances.condition(cfg) * tolerances.largest(cfg)
    assert foreseen / 3 < measured < tolerances.FACTOR / 2 * foreseen
    assert np.abs(before).max() < 1.5 * tolerances.largest(cfg)


@pytest.mark.parametrize("shape", SHAPES)
def test_float32_errs_by_less_than_the_bound_and_mistakes_by_far_more(x64, shape):
    cfg = SHAPES[shape]
    model, params, expected = exact(shape)
    batch, bound = rows(cfg.vocab), tolerances.forward(cfg)
    rounded, narrow = tiny.lm_of(cfg)
    error = np.abs(np.asarray(logprobs(rounded, narrow, batch)) - expected).max()
    assert bound / 1000 < error < bound / 2
    tokens, position = np.asarray(batch.tokens), np.asarray(batch.position)
    late = batch.replace(position=jnp.asarray(position + (position >= 40)))  # off by one from token 40 on
    cut = batch.replace(segment=jnp.asarray(1 + (position >= LENGTH - 3)))  # the last three do not see the text
    other = batch.replace(tokens=jnp.asarray(np.where(position == 40, (tokens + 1) % cfg.vocab, tokens)))
    weaker = jax.tree.map(lambda leaf: leaf, params) | {"norm": {"scale": params["norm"]["scale"].at[3].multiply(1.1)}}
    mistakes = {"position": (params, late), "mask": (params, cut), "token": (params, other), "weight": (weaker, batch)}
    for name, (weights, seen) in mistakes.items():
        assert np.abs(np.asarray(logprobs(model, weights, seen)) - expected).max() > 20 * bound, name
    # In float64 the same mistakes are ten orders of magnitude away.
    assert tolerances.forward(dataclasses.replace(cfg, dtype="float64")) < 1e-8 * bound


def test_a_loss_in_float64_shows_one_weight_that_is_a_millionth_wrong(x64):
    method = QuietStar(thought_len=2, lookahead=2, beta=3.0)
    model, params = tiny.thinker_of(tiny.EXACT)
    loss = jax.jit(
        jax.value_and_grad(lambda p: method.loss(Models(model.bind(p)), tiny.packed(), jax.random.key(0))[0])
    )
    value, gradient = loss(params)
    touched = params["lm"]["blocks"]["query"].at[0, 0, 0, 0].multiply(1 + 1e-6)
    lm = params["lm"] | {"blocks": params["lm"]["blocks"] | {"query": touched}}
    wrong, wrong_gradient = loss(params | {"lm": lm})
    assert abs(wrong - value) > 10 * (tolerances.EXACT + method.beta * tolerances.POLICY)
    found, wanted = wrong_gradient["lm"]["blocks"]["query"], gradient["lm"]["blocks"]["query"]
    assert tiny.relative_error(found, wanted) > 100 * 10 * tolerances.gradient(tiny.EXACT)


def test_sums_of_float32_in_two_orders_differ_by_less_than_the_bound():
    terms = np.random.default_rng(0).standard_normal(1000).astype(np.float32)
    forth, back = (functools.reduce(np.add, part) for part in (terms, terms[::-1]))
    bound = tolerances.rounding(1000, size=np.abs(terms).sum())
    assert 0 < abs(forth - back) < bound < np.median(np.abs(terms))  # half of the terms, if dropped, would be noticed


@pytest.mark.parametrize(("probability", "count", "wanted"), [(0.5, 10_000, 0.02446), (0.1, 900, 0.04892)])
def test_shares_are_within_about_five_standard_errors(probability, count, wanted):
    assert tolerances.share(probability, count) == pytest.approx(wanted, abs=1e-5)  # 4.8916 sqrt(p (1 - p) / n)


def test_the_users_xla_flags_are_kept_and_come_first(monkeypatch):
    monkeypatch.setenv("QSTAR_TEST_QUICK_COMPILE", "1")
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_max_isa=AVX2 --xla_backend_optimization_level=3")
    assert xla_flags().split()[:2] == ["--xla_cpu_max_isa=AVX2", "--xla_backend_optimization_level=3"]
    assert xla_flags().count("optimization_level") == 1
    monkeypatch.setenv("QSTAR_TEST_QUICK_COMPILE", "0")
    assert xla_flags() == "--xla_cpu_max_isa=AVX2 --xla_backend_optimization_level=3"
