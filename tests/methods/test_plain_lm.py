import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from reference import sequential
from tolerances import EXACT

from qstar.methods.plain_lm import PlainLM
from qstar.methods.protocol import Models


def test_loss_is_the_mean_over_the_targets_of_every_document_run_by_itself(x64):
    model, params = tiny.lm_of(tiny.EXACT)
    batch = tiny.packed()
    loss, metrics = jax.jit(lambda params: PlainLM().loss(Models(model.bind(params)), batch, jax.random.key(0)))(params)
    hidden = sequential.text_hidden({"lm": sequential.as_numpy(params)}, tiny.EXACT, batch)
    # (row, position) whose next token is a target: 7 in row 0 (no crossing, one masked), 5 in row 1.
    targets = [(0, 0), (0, 1), (0, 2), (0, 4), (0, 6), (0, 7), (1, 0), (1, 1), (1, 2), (1, 3), (1, 4)]
    nll = [
        -sequential.log_softmax(sequential.logits(sequential.as_numpy(params), hidden[b, s]))[batch.tokens[b, s + 1]]
        for b, s in targets
    ]
    assert float(loss) == pytest.approx(np.mean(nll), abs=EXACT)
    assert float(metrics["loss"].count) == 11


def test_predict_gives_the_distribution_after_each_anchor(x64):
    model, params = tiny.lm_of(tiny.EXACT)
    batch, anchors = tiny.packed(), jnp.array([[1, 7], [0, 4]])
    found = jax.jit(lambda params: PlainLM().predict(model.bind(params), batch, anchors))(params)
    lm = sequential.as_numpy(params)
    hidden = sequential.text_hidden({"lm": lm}, tiny.EXACT, batch)
    for b, a in np.ndindex(2, 2):
        expected = sequential.log_softmax(sequential.logits(lm, hidden[b, anchors[b, a]]))
        np.testing.assert_allclose(found[b, a], expected, rtol=0, atol=EXACT)


def test_weights_of_another_model_are_refused_by_name():
    params = tiny.lm_of()[1]
    params = {**params, "blocks": {name: leaf for name, leaf in params["blocks"].items() if name != "query"}}
    with pytest.raises(ValueError, match="missing blocks/query"):
        PlainLM().start_from(tiny.lm_of()[0], params, jax.random.key(0))
