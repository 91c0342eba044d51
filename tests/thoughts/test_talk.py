import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from reference import sequential
from tolerances import EXACT

from qstar.models.thinker import Tokens
from qstar.thoughts.talk import MIXES, talk

SCALE = 1.5
EVERYWHERE = np.broadcast_to(np.arange(9)[None], (2, 9))
SOME = np.array([[1, 2, 7], [0, 4, 5]])
LOOKAHEAD = 3


@functools.partial(jax.jit, static_argnames=("model", "mix"))
def scored(model, params, batch, anchors, tokens, mix):
    thinker = model.bind(params)
    settings = {"lookahead": LOOKAHEAD, "mix": mix, "temperature": 3.0}
    return talk(thinker, tiny.context(thinker, batch, anchors), thinker.lm.embed(tokens), tokens, **settings)


def thoughts_at(anchors, seed=0, vocab=tiny.LM.vocab):
    shape = (anchors.shape[0], 2, anchors.shape[1], 3)
    return jnp.asarray(np.random.default_rng(seed).integers(0, vocab, shape))


@pytest.mark.parametrize("mix", MIXES)
@pytest.mark.parametrize(("anchors", "forbidden"), [(EVERYWHERE, ()), (SOME, (12,))])
def test_one_pass_over_all_columns_equals_every_thought_run_by_itself(x64, mix, anchors, forbidden):
    model, params = tiny.thinker_of(tiny.EXACT, delimiter_scale=SCALE, tokens=Tokens(forbidden=forbidden))
    batch, tokens = tiny.packed(), jnp.minimum(thoughts_at(anchors), 11)
    found = scored(model, params, batch, jnp.asarray(anchors), tokens, mix)
    expected = sequential.talk(params, tiny.EXACT, SCALE, batch, anchors, tokens, LOOKAHEAD, mix, 3.0, forbidden)
    np.testing.assert_array_equal(found.counts, sequential.counts(batch, anchors, LOOKAHEAD))
    for field in ("text", "base", "mixed", "thought", "weight"):
        value = getattr(expected, field)
        meant = ~np.isnan(value)
        assert meant.any()
        np.testing.assert_allclose(np.asarray(getattr(found, field))[meant], value[meant], rtol=0, atol=EXACT)


def test_thought_tokens_do_not_see_other_thoughts(x64):
    model, params = tiny.thinker_of(tiny.EXACT)
    tokens = thoughts_at(EVERYWHERE)
    changed = tokens.at[0, 1, 2].set((tokens[0, 1, 2] + 1) % 13)  # all tokens of one thought
    before = scored(model, params, tiny.packed(), jnp.asarray(EVERYWHERE), tokens, "logprobs")
    after = scored(model, params, tiny.packed(), jnp.asarray(EVERYWHERE), changed, "logprobs")
    for field in ("mixed", "thought", "weight"):
        differs = np.any(np.asarray(getattr(before, field) != getattr(after, field)), axis=-1)
        assert np.argwhere(differs).tolist() == [[0, 1, 2]]


def test_text_does_not_see_thoughts(x64):
    model, params = tiny.thinker_of(tiny.EXACT)
    before = scored(model, params, tiny.packed(), jnp.asarray(EVERYWHERE), thoughts_at(EVERYWHERE, 0), "hidden")
    after = scored(model, params, tiny.packed(), jnp.asarray(EVERYWHERE), thoughts_at(EVERYWHERE, 1), "hidden")
    np.testing.assert_array_equal(before.text, after.text)
    np.testing.assert_array_equal(before.base, after.base)


DISTINCT = tiny.batch(tokens=[[0, 1, 2, 3, 4, 5, 6, 7, 8]], segment=[[1, 1, 1, 2, 2, 2, 2, 2, 2]])


def reach(field):
    """For each of nine anchors: the positions that the given log-probs of its thoughts depend on.

    The gradient by the embedding row of a token is the gradient by its position: all tokens differ, the output layer
    is another table, and the thoughts are made of other tokens.
    """
    model, params = tiny.thinker_of(tiny.EXACT)
    anchors = np.arange(9)[None]
    tokens = 9 + thoughts_at(anchors, vocab=4)

    def totals(table):
        inside = {**params, "lm": {**params["lm"], "embedding": table}}
        found = scored(model, inside, DISTINCT, jnp.asarray(anchors), tokens, "logprobs")
        return jnp.sum(getattr(found, field), axis=(0, 1, 3))

    moved = np.any(jax.jit(jax.jacrev(totals))(params["lm"]["embedding"])[:, :9], axis=-1)
    return [np.flatnonzero(row).tolist() for row in moved]


def test_predictions_after_a_thought_depend_on_no_token_after_the_lookahead(x64):
    # The third target is position anchor + 3: it is predicted, not read.
    found = reach("mixed")
    assert found[3] == [3, 4, 5]
    assert found[5] == [3, 4, 5, 6, 7]


def test_thoughts_depend_on_no_token_after_their_anchor_and_on_no_other_document(x64):
    assert reach("thought") == [
        [0], [0, 1], [0, 1, 2], [3], [3, 4], [3, 4, 5], [3, 4, 5, 6], [3, 4, 5, 6, 7], [3, 4, 5, 6, 7, 8]
    ]  # fmt: skip
