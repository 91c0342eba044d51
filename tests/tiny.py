"""Tiny real models and literal batches that tests share."""

import contextlib
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from qstar.models import lm as language_model
from qstar.models import thinker
from qstar.models.lm import LMConfig
from qstar.structs import Batch, Context

LM = LMConfig(
    vocab=13, width=16, layers=2, heads=4, kv_heads=2, head_size=4, ff=20, max_len=64, rope_theta=100.0, tied=False
)
EXACT = dataclasses.replace(LM, dtype="float64")


def weights_of(model, seed=0, dtype=jnp.float32):
    """Random weights, none of which is zero or one: norms, biases and the last mixing layer included."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        noise = 0.3 * rng.standard_normal(leaf.shape)
        return jnp.asarray(noise + ("norm" in jax.tree_util.keystr(path)), dtype)

    return jax.tree_util.tree_map_with_path(draw, model.abstract)


@functools.cache  # one definition for one configuration: jit compares it by identity
def thinker_of(lm=LM, seed=0, **kwargs):
    """A thinker's definition and random weights, in float64 where the model computes in it."""
    model = thinker.definition(thinker.ThinkerConfig(lm, **kwargs))
    return model, weights_of(model, seed, jnp.float64 if lm.dtype == "float64" else jnp.float32)


@functools.cache
def lm_of(cfg=LM, seed=0):
    model = language_model.definition(cfg)
    return model, weights_of(model, seed, jnp.float64 if cfg.dtype == "float64" else jnp.float32)


def batch(tokens, segment, mask=None):
    """A batch of literal rows; positions count from 0 in every document, padding sits at 0."""
    tokens, segment = np.array(tokens), np.array(segment)
    mask = segment > 0 if mask is None else np.array(mask, bool)
    position = np.zeros_like(segment)
    for row, documents in enumerate(segment):
        for s in range(1, len(documents)):
            if documents[s] and documents[s] == documents[s - 1]:
                position[row, s] = position[row, s - 1] + 1
    as_int = lambda x: jnp.asarray(x, jnp.int32)  # noqa: E731
    return Batch(as_int(tokens), jnp.asarray(mask), as_int(segment), as_int(position))


def packed():
    """Two documents in one row, one of whose tokens is no target; one document and padding in the other."""
    return batch(
        tokens=[[3, 7, 1, 9, 4, 4, 0, 11, 8], [5, 2, 10, 6, 1, 7, 0, 0, 0]],
        segment=[[1, 1, 1, 1, 2, 2, 2, 2, 2], [1, 1, 1, 1, 1, 1, 0, 0, 0]],
        mask=[[1, 1, 1, 1, 1, 1, 0, 1, 1], [1, 1, 1, 1, 1, 1, 0, 0, 0]],
    )


def context(thinker, batch, anchors):
    """A batch that a bound model has read, and where it thinks."""
    return Context(thinker.lm.text(batch), batch, jnp.asarray(anchors))


def padded():
    """One document a row, as the released code has them: a full row and one with padding at its end."""
    return batch(
        tokens=[[3, 7, 1, 9, 4, 6, 0, 11, 8], [5, 2, 10, 6, 1, 7, 3, 0, 0]],
        segment=[[1, 1, 1, 1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1, 1, 0, 0]],
    )


def relative_error(found, wanted):
    """Largest difference, as a share of the largest wanted entry."""
    found, wanted = np.asarray(found), np.asarray(wanted)
    return np.abs(found - wanted).max() / np.abs(wanted).max()


@contextlib.contextmanager
def noting_compiled():
    """The names of what is compiled meanwhile, `jit(step)` style."""
    names = []

    def note(event, duration_s, fun_name=None, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            names.append(fun_name)

    jax.monitoring.register_event_duration_secs_listener(note)
    try:
        yield names
    finally:
        jax.monitoring.unregister_event_duration_listener(note)
