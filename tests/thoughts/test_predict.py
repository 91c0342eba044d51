import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from reference import sequential
from reference.sequential import Mixing
from tolerances import EXACT

from qstar.thoughts.fill import Inner
from qstar.thoughts.predict import predict
from qstar.thoughts.talk import MIXES

ANCHORS = np.array([[1, 7], [0, 4]])
TOKENS = np.random.default_rng(0).integers(0, 13, (2, 2, 2, 3))


def expected_at(params, batch, b, r, a, mix, how):
    """Base and mixed log-probs [V] and the share of one thought."""
    params, position, cfg = sequential.as_numpy(params), ANCHORS[b, a], tiny.EXACT
    embedded = sequential.sequence(params, 1.0, batch, b, position, TOKENS[b, r, a], true=[])
    after = sequential.hidden_states(params["lm"], cfg, embedded)[-1]
    hidden = sequential.text_hidden(params, cfg, batch)[b, position]
    weight = sequential.share_of_thought(params, hidden, after, how)
    base = sequential.log_softmax(sequential.logits(params["lm"], hidden))
    if mix == "hidden":
        blend = sequential.logits(params["lm"], (1 - weight) * hidden + weight * after)
    else:
        blend = (1 - weight) * base + weight * sequential.log_softmax(sequential.logits(params["lm"], after))
    return base, sequential.log_softmax(blend), weight


@pytest.mark.parametrize("mix", MIXES)
@pytest.mark.parametrize(
    "how", [Mixing(), Mixing("raw", "base", 1.0), Mixing("sigmoid", "base", 0.25), Mixing("none")], ids=str
)
def test_next_token_distributions_equal_those_of_the_spelled_out_sequences(x64, mix, how):
    kinds = {"mixing": how.kind, "mixing_side": how.side, "mixing_start": how.start}
    model, params = tiny.thinker_of(tiny.EXACT, **kinds)
    batch = tiny.packed()

    @jax.jit
    def run(params):
        thinker, tokens = model.bind(params), jnp.asarray(TOKENS)
        inner = Inner(thinker.lm.embed(tokens), tokens)
        return predict(thinker, tiny.context(thinker, batch, ANCHORS), inner, mix)

    found = jax.tree.map(np.asarray, run(params))
    for b, r, a in np.ndindex(2, 2, 2):
        base, mixed, weight = expected_at(params, batch, b, r, a, mix, how)
        np.testing.assert_allclose(found.base[b, a], base, rtol=0, atol=EXACT)
        np.testing.assert_allclose(found.mixed[b, r, a], mixed, rtol=0, atol=EXACT)
        np.testing.assert_allclose(found.weight[b, r, a], weight, rtol=0, atol=EXACT)
