import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from reference import sequential
from tolerances import EXACT

from qstar.models.thinker import Tokens
from qstar.thoughts.draw import sample

SCALE = 1.5
EVERYWHERE = np.broadcast_to(np.arange(9)[None], (2, 9))
SOME = np.array([[1, 2, 7], [0, 4, 5]])


@functools.partial(jax.jit, static_argnames=("model", "temperature"))
def drawn(model, params, batch, anchors, key, temperature=1.0):
    thinker = model.bind(params)
    settings = {"thought_len": 3, "num_thoughts": 2, "temperature": temperature}
    return sample(thinker, tiny.context(thinker, batch, anchors), key, **settings)


@pytest.mark.parametrize(
    ("anchors", "temperature", "forbidden"), [(EVERYWHERE, 0.8, (5,)), (SOME, 1.0, ()), (SOME, 0.0, (2, 5))]
)
def test_parallel_thoughts_equal_thoughts_grown_one_by_one(x64, anchors, temperature, forbidden):
    model, params = tiny.thinker_of(tiny.EXACT, delimiter_scale=SCALE, tokens=Tokens(forbidden=forbidden))
    batch = tiny.packed()
    found = drawn(model, params, batch, jnp.asarray(anchors), jax.random.key(3), temperature)
    tokens, logprobs = sequential.sample(
        params, tiny.EXACT, SCALE, batch, anchors, jax.random.key(3), 3, 2, temperature, forbidden
    )
    real = tokens >= 0
    np.testing.assert_array_equal(np.asarray(found.tokens)[real], tokens[real])
    np.testing.assert_allclose(np.asarray(found.logprobs)[real], logprobs[real], rtol=0, atol=EXACT)


def test_no_gradient_flows_through_sampling(x64):
    model, params = tiny.thinker_of(tiny.EXACT)

    def total(params):
        return drawn(model, params, tiny.packed(), jnp.asarray(SOME), jax.random.key(3)).logprobs.sum()

    for leaf in jax.tree.leaves(jax.grad(total)(params)):
        assert not np.any(leaf)


def test_thoughts_of_padding_are_finite():
    model, params = tiny.thinker_of()
    found = drawn(model, params, tiny.packed(), jnp.asarray(EVERYWHERE), jax.random.key(3))
    assert np.isfinite(found.logprobs).all()
