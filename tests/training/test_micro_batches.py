"""Micro-batches have the gradient of one batch, whatever their counts: every method, with 6, 4, 50 and 48 targets.

What is drawn depends on the slicing, for a slice has a key of its own. Here thoughts are a function of their row, as
they would be with a key for each row, and every position thinks; the rest is the methods' own code.
"""

import dataclasses
import re
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny

from qstar import sharding
from qstar.methods.adaptive import Adaptive
from qstar.methods.fast_quiet_star import FastQuietStar
from qstar.methods.helpful import Helpful
from qstar.methods.latro import LaTRO
from qstar.methods.plain_lm import PlainLM
from qstar.methods.protocol import Models
from qstar.methods.quiet_star import QuietStar
from qstar.methods.rlp import RLP
from qstar.methods.sft import SFT
from qstar.sharding import MeshConfig
from qstar.structs import Examples
from qstar.thoughts.fill import Inner
from qstar.thoughts.thinking import Thinking
from qstar.training.step import accumulate, make_step, new_state, state_sharding

LM = dataclasses.replace(tiny.EXACT, layers=1, remat="none")
TARGETS = (6, 4, 50, 48)
TOLERANCE = 1e-11
"""Of the largest entry of a weight's gradient, which is a sum over some thousand products: epsilon times as many times
as few as ten roundings in each."""


class RowThinking(Thinking):
    """Thoughts that are a function of their row."""

    def inner(self, thinker, context, key, num_thoughts, temperature):
        at = jnp.take_along_axis(context.batch.tokens, context.anchors, 1)[:, None, :, None]
        sample, place = jnp.arange(num_thoughts)[None, :, None, None], jnp.arange(self.thought_len)[None, None, None]
        tokens = (5 * at + 7 * sample + 3 * place) % LM.vocab
        drawn_at = jnp.full(tokens.shape, -jnp.log(LM.vocab), context.text.hidden.dtype)
        return Inner(thinker.lm.embed(tokens), tokens, drawn_at)


class OfTheRow:
    @property
    def thinking(self):
        return RowThinking(**vars(super().thinking))


@dataclass(frozen=True)
class Quiet(OfTheRow, QuietStar):
    pass


@dataclass(frozen=True)
class Gated(OfTheRow, Adaptive):
    pass


@dataclass(frozen=True)
class Helped(OfTheRow, Helpful):
    pass


@dataclass(frozen=True)
class Informed(OfTheRow, RLP):
    pass


@dataclass(frozen=True)
class Latent(OfTheRow, LaTRO):
    pass


SIZES = {"thought_len": 2, "lookahead": 2}
THOUGHTS = {"thought_len": 2, "num_thoughts": 2, "positions": 0}
TEACHER = QuietStar(**SIZES, mix="hidden")
METHODS = {
    "lm": PlainLM(),
    "sft": SFT(),
    "quiet_star-logprobs-log_mean": Quiet(**SIZES, beta=3.0, mixing_side="base", importance_weights=True),
    "official-mean": Quiet(
        **SIZES, beta=3.0, mix="hidden", baseline="mean", positions="official", delimiter_scale=100.0
    ),
    "adaptive-leave_one_out": Gated(**SIZES, beta=3.0, baseline="leave_one_out", clamp=False, threshold=0.05),
    "helpful-base": Helped(**SIZES, beta=3.0, baseline="base", threshold=0.05),
    "quiet_star-hidden-base": Quiet(**SIZES, beta=3.0, mix="hidden", baseline="base"),
    "helpful-mean": Helped(**SIZES, beta=3.0, baseline="mean", threshold=0.05),
    "rlp": Informed(**THOUGHTS),
    "latro": Latent(**THOUGHTS, lookahead=2, beta=0.3),
    "fast_quiet_star": FastQuietStar(teacher="runs/teacher"),
}
# Whose terms, mix and baselines others have: adaptive's are those of Quiet-STaR and of a head, as helpful's are.
COVERED = {"quiet_star-logprobs-log_mean", "quiet_star-hidden-base", "helpful-mean", "helpful-base"}


def rows(times=1):
    """Rows of 52 tokens with so many targets, the last one's padded, with weights for those methods that read them."""
    size = 52
    tokens = np.random.default_rng(0).integers(0, 13, (4 * times, size))
    mask = np.zeros(tokens.shape, int)
    segment = np.ones(tokens.shape, int)
    for row, count in enumerate(TARGETS * times):
        mask[row, size - 1 - count : size - 1] = 1
    segment[3::4, -1] = 0
    weight = np.random.default_rng(1).normal(size=tokens.shape)
    batch = tiny.batch(tokens, segment, mask)
    return Examples(batch.tokens, batch.mask, batch.segment, batch.position, jnp.asarray(weight))


def setting(name):
    """The method, its definition, its weights, and the models of its loss with these weights as the policy's."""
    method = METHODS[name]
    model = method.definition(LM)
    params = tiny.weights_of(model, 0, jnp.float64)
    before = tiny.weights_of(model, 3, jnp.float64)
    if isinstance(method, FastQuietStar):
        teacher = TEACHER.definition(LM)
        taught = tiny.weights_of(teacher, 3, jnp.float64)
        models = lambda params: Models(model.bind(params), teacher.bind(taught), TEACHER)  # noqa: E731
    elif isinstance(method, RLP | LaTRO):
        models = lambda params: Models(model.bind(params), model.bind(before), method)  # noqa: E731
    else:
        models = lambda params: Models(model.bind(params))  # noqa: E731
    return method, model, params, models


def terms_of(method, models):
    return lambda params, batch, key: method.loss_terms(models(params), batch, key)


def assert_equal(found, expected):
    flat = jax.tree_util.tree_leaves_with_path(found)
    for (path, leaf), other in zip(flat, jax.tree.leaves(expected), strict=True):
        if not np.any(other):
            assert not np.any(leaf), path
            continue
        assert tiny.relative_error(leaf, other) < TOLERANCE, path


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in COVERED else ()) for name in METHODS]
)
def test_the_gradient_and_the_metrics_are_those_of_one_batch(x64, name):
    method, _, params, models = setting(name)

    @jax.jit
    def both(params, batch, key):
        loss = lambda params: method.loss(models(params), batch, key)  # noqa: E731
        parts = accumulate(terms_of(method, models), params, batch, jax.random.clone(key), 4)
        return jax.grad(loss, has_aux=True)(params), parts

    (expected, metrics), (found, summed) = jax.device_get(both(params, rows(), jax.random.key(0)))
    assert sum(np.abs(leaf).max() > 1e-6 for leaf in jax.tree.leaves(expected)) > 5
    assert_equal(found, expected)
    flat = [np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)]) for tree in (found, expected)]
    cosine = flat[0] @ flat[1] / np.linalg.norm(flat[0]) / np.linalg.norm(flat[1])
    assert cosine == pytest.approx(1, abs=1e-12)
    assert {name: mean.value() for name, mean in summed.items()} == pytest.approx(
        {name: mean.value() for name, mean in metrics.items()}, rel=1e-10
    )


@pytest.mark.parametrize("name", ["sft", pytest.param("quiet_star-logprobs-log_mean", marks=pytest.mark.slow)])
def test_on_eight_devices_a_step_is_that_of_one_batch_on_one_device(x64, name):
    method, model, params, _ = setting(name)

    def stepped(cfg, micro_batches):
        mesh, tx = sharding.make_mesh(cfg), optax.sgd(1.0)
        with jax.set_mesh(mesh):
            state = new_state(jax.tree.map(np.array, params), tx, jax.random.key(1), False)
            state = jax.device_put(state, state_sharding(model, tx, mesh, False))
            batch = jax.device_put(rows(4), sharding.named(mesh, "batch", None))
            state, metrics = make_step(method, model, tx, mesh, micro_batches)(state, batch)
            return jax.device_get((state.params, metrics))

    (expected, metrics), (found, summed) = stepped(MeshConfig(), 1), stepped(MeshConfig(data=8), 2)
    assert_equal(found, expected)
    assert summed["grad_norm"].value() == pytest.approx(metrics["grad_norm"].value(), rel=1e-10)


def products_of_counting(name):
    """How many products of matrices are left in the program that only counts."""
    method, _, params, models = setting(name)
    counts = lambda batch, key: terms_of(method, models)(params, batch, key)[0].counts  # noqa: E731
    text = jax.jit(counts).lower(rows(), jax.random.key(0)).compile().as_text()
    return len(re.findall(r" = .*? dot\(", text))


def test_counting_what_a_loss_divides_by_does_not_run_the_model(x64):
    assert products_of_counting("quiet_star-logprobs-log_mean") == 0
    assert products_of_counting("official-mean") > 0  # the released code counts by what the model computes
