"""Peak memory: no tensor of (thoughts x vocabulary) is kept."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import pytest
import tiny

from qstar.methods.protocol import Models
from qstar.methods.quiet_star import QuietStar
from qstar.models import thinker
from qstar.ops import chunk
from qstar.structs import Batch

LM = dataclasses.replace(tiny.LM, vocab=32768, layers=1)
METHOD = QuietStar(thought_len=2, num_thoughts=8, lookahead=2)
ONE_TENSOR = 2 * 8 * 48 * 32768 * 4  # bytes of float32 logits of one column of all thoughts: [B=2 R=8 A=48 V]


def temporary_bytes(fn, budget, monkeypatch):
    """Memory beside arguments and results of fn(params, batch, key), with the given budget for a slice of logits."""
    monkeypatch.setattr(chunk, "BUDGET_BYTES", budget)
    model = thinker.definition(thinker.ThinkerConfig(LM))
    ints = jax.ShapeDtypeStruct((2, 48), jnp.int32)
    batch = Batch(ints, jax.ShapeDtypeStruct((2, 48), bool), ints, ints)
    key = jax.eval_shape(lambda: jax.random.key(0))
    compiled = jax.jit(functools.partial(fn, model)).lower(model.abstract, batch, key).compile()
    return compiled.memory_analysis().temp_size_in_bytes


def gradient(model, params, batch, key):
    return jax.grad(lambda params: METHOD.loss(Models(model.bind(params)), batch, key)[0])(params)


def thoughts(model, params, batch, key):
    bound = model.bind(params)
    anchors = jnp.broadcast_to(jnp.arange(48)[None], (2, 48))
    return METHOD.thinking.inner(bound, tiny.context(bound, batch, anchors), key, 8, 1.0).tokens


@pytest.mark.parametrize("fn", [gradient, thoughts])
def test_peak_memory_stays_below_half_a_tensor_of_logits_of_all_thoughts(fn, monkeypatch):
    assert temporary_bytes(fn, ONE_TENSOR // 48, monkeypatch) < ONE_TENSOR / 2


@pytest.mark.parametrize("fn", [thoughts, pytest.param(gradient, marks=pytest.mark.slow)])
def test_everything_in_one_slice_is_what_the_slices_are_for(fn, monkeypatch):
    assert temporary_bytes(fn, 2**40, monkeypatch) > ONE_TENSOR
