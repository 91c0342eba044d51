import functools

import jax
import jax.numpy as jnp
import numpy as np
import tiny

from qstar.models.thinker import Tokens
from qstar.thoughts.fill import fill

ANCHORS = jnp.broadcast_to(jnp.arange(9)[None], (2, 9))


@functools.partial(jax.jit, static_argnames=("model", "kind"))
def filled(model, params, kind, key):
    thinker = model.bind(params)
    return fill(kind, thinker, tiny.context(thinker, tiny.packed(), ANCHORS), key, thought_len=3, num_thoughts=2)


def test_pauses_repeat_the_learned_embedding_and_have_no_tokens():
    model, params = tiny.thinker_of(pause=True)
    found = filled(model, params, "pause", jax.random.key(0))
    assert found.tokens is None
    np.testing.assert_array_equal(found.embedding, np.broadcast_to(params["pause"], (2, 2, 9, 3, 16)))


def test_the_pause_embedding_learns_from_every_pause():
    model, params = tiny.thinker_of(pause=True)

    def total(params):
        return filled(model, params, "pause", jax.random.key(0)).embedding.sum()

    np.testing.assert_array_equal(jax.grad(total)(params)["pause"], np.full(16, 2 * 2 * 9 * 3))


def test_dots_repeat_one_token():
    model, params = tiny.thinker_of(tokens=Tokens(dot=12))
    found = filled(model, params, "dots", jax.random.key(0))
    assert np.all(found.tokens == 12)
    np.testing.assert_array_equal(found.embedding, np.broadcast_to(params["lm"]["embedding"][12], (2, 2, 9, 3, 16)))


def test_sampled_thoughts_come_with_the_embeddings_of_their_tokens():
    model, params = tiny.thinker_of()
    found = filled(model, params, "sampled", jax.random.key(0))
    assert len(np.unique(found.tokens)) > 3
    np.testing.assert_array_equal(found.embedding, np.asarray(params["lm"]["embedding"])[np.asarray(found.tokens)])


def test_shuffled_thoughts_are_the_sampled_ones_dealt_to_other_positions():
    model, params = tiny.thinker_of()
    sampled, shuffled = (
        np.moveaxis(np.asarray(filled(model, params, kind, jax.random.key(0)).tokens), 1, 2).reshape(18, 6)
        for kind in ("sampled", "shuffled")
    )
    assert sorted(sampled.tolist()) == sorted(shuffled.tolist())
    moved = np.any(sampled != shuffled, axis=1)
    assert moved.sum() >= 12  # of 18 positions
    # Thoughts also change rows: what one sequence thinks may be dealt to another.
    assert sorted(sampled[:9].tolist()) != sorted(shuffled[:9].tolist())
