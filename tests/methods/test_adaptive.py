import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
import tolerances
from reference import sequential
from tolerances import EXACT

from qstar.methods.adaptive import Adaptive, cross_entropy
from qstar.methods.protocol import Models
from qstar.methods.quiet_star import QuietStar
from qstar.thoughts import read
from qstar.thoughts.thinking import Thinking
from qstar.thoughts.writing import generate

SETTINGS = {"thought_len": 2, "lookahead": 2, "beta": 3.0, "mix": "hidden", "baseline": "mean"}
METHOD = Adaptive(**SETTINGS, threshold=0.05)
QUIET = QuietStar(**SETTINGS)
ANCHORS = jnp.array([[0, 1, 5, 7], [0, 2, 3, 4]])


def weights(gate_bias=0.0):
    """Definition and weights; the gate's last bias shifts its log-odds everywhere."""
    model, params = tiny.thinker_of(tiny.EXACT, gate=True)
    return model, {**params, "gate": {**params["gate"], "last_bias": jnp.array([float(gate_bias)])}}


def without_gate(params):
    return {name: part for name, part in params.items() if name != "gate"}


def gate_by_hand(params, batch):
    """Probability [B S] that a thought pays; NaN in padding."""
    hidden, gate = sequential.text_hidden(params, tiny.EXACT, batch), params["gate"]
    inner = np.maximum(hidden @ gate["first"] + gate["first_bias"], 0)
    return 1 / (1 + np.exp(-(inner @ gate["last"] + gate["last_bias"])[..., 0]))


def rewards_by_hand(params, batch, key):
    draws = jax.random.split(jax.random.split(key)[1])[1]
    anchors = np.array([range(9)] * 2)
    tokens, _ = sequential.sample(params, tiny.EXACT, 1.0, batch, anchors, draws, 2, 2)
    how = sequential.Mixing("raw", "thought", 0.0)
    scored = sequential.talk(params, tiny.EXACT, 1.0, batch, anchors, tokens, 2, "hidden", 3.0, how=how)
    marks = sequential.counts(batch, anchors, 2)
    return sequential.credit(scored, marks, "mean", True)[0], marks.any(-1)


@functools.cache
def evaluated():
    """Loss, metrics and gradient of the method and of Quiet-STaR with the same weights."""
    (model, params), batch = weights(), tiny.packed()
    evaluate = lambda method, model: jax.jit(  # noqa: E731
        jax.value_and_grad(lambda p: method.loss(Models(model.bind(p)), batch, jax.random.key(5)), has_aux=True)
    )
    gated = evaluate(dataclasses.replace(METHOD, gate_at=0.6), model)(params)
    return gated, evaluate(QUIET, tiny.thinker_of(tiny.EXACT)[0])(without_gate(params))


def test_the_gate_learns_by_cross_entropy_whether_the_gain_exceeds_the_threshold(x64):
    _, params = weights()
    batch = tiny.packed()
    ((loss, metrics), _), ((quiet, _), _) = evaluated()
    reward, judged = rewards_by_hand(params, batch, jax.random.key(5))
    chance = gate_by_hand(sequential.as_numpy(params), batch)
    seen = [(chance[b, a], reward[b, r, a] > 0.05) for b, r, a in np.ndindex(2, 2, 9) if judged[b, a]]
    paid = [pays for _, pays in seen]
    assert 0 < np.mean(paid) < 1 and len(seen) > 20
    entropy = np.mean([-np.log(p if pays else 1 - p) for p, pays in seen])
    assert float(loss) == pytest.approx(float(quiet) + entropy, abs=EXACT + QUIET.beta * tolerances.POLICY)
    assert metrics["loss"].value() == pytest.approx(float(loss))
    opened = [pays for p, pays in seen if p >= 0.6]
    assert 0 < sum(opened) < sum(paid) and sum(opened) < len(opened) < len(seen)
    assert metrics["gate_open"].value() == pytest.approx(len(opened) / len(seen))
    assert metrics["gate_precision"].value() == pytest.approx(np.mean(opened))
    assert metrics["gate_recall"].value() == pytest.approx(sum(opened) / sum(paid))
    assert metrics["gate_brier"].value() == pytest.approx(np.mean([(p - pays) ** 2 for p, pays in seen]), abs=EXACT)


def test_the_gate_takes_no_part_in_what_the_model_learns(x64):
    (_, found), (_, expected) = evaluated()
    assert all(np.abs(leaf).max() > 1e-6 for leaf in jax.tree.leaves(found["gate"]))
    for leaf, other in zip(jax.tree.leaves(without_gate(found)), jax.tree.leaves(expected), strict=True):
        assert tiny.relative_error(leaf, other) < 100 * tolerances.gradient(tiny.EXACT)  # advantages cancel


def test_cross_entropy_is_minus_the_log_of_the_labels_probability():
    found = cross_entropy(jnp.array([0.0, np.log(3.0), np.log(3.0), -80.0]), jnp.array([True, True, False, True]))
    np.testing.assert_allclose(found, [np.log(2), np.log(4 / 3), np.log(4), 80.0], rtol=tolerances.rounding(4))


@functools.cache
def thoughts_of(method):
    model, _ = weights()
    plain = tiny.thinker_of(tiny.EXACT)[0]
    definition = model if isinstance(method, Adaptive) else plain

    def of(params, batch, key):
        thinker = definition.bind(params)
        return method.think(thinker, tiny.context(thinker, batch, ANCHORS), key, True)

    return jax.jit(of)


def test_where_the_gate_is_closed_the_prediction_is_the_one_without_a_thought(x64):
    _, params = weights()
    batch = tiny.packed()
    chance = gate_by_hand(sequential.as_numpy(params), batch)
    opens = np.array([[chance[b, s] >= 0.5 for s in ANCHORS[b]] for b in range(2)])
    assert 0 < opens.mean() < 1
    inner, found = thoughts_of(METHOD)(params, batch, jax.random.key(1))
    expected_inner, expected = thoughts_of(QUIET)(without_gate(params), batch, jax.random.key(1))
    for b, a in np.ndindex(2, 4):
        if opens[b, a]:
            np.testing.assert_allclose(found.mixed[b, 0, a], expected.mixed[b, 0, a], rtol=0, atol=EXACT)
            np.testing.assert_array_equal(inner.tokens[b, 0, a], expected_inner.tokens[b, 0, a])
            assert found.weight[b, 0, a] == pytest.approx(float(expected.weight[b, 0, a]))
        else:
            np.testing.assert_allclose(found.mixed[b, 0, a], expected.base[b, a], rtol=0, atol=EXACT)
            assert set(inner.tokens[b, 0, a].tolist()) == {-1} and found.weight[b, 0, a] == 0


@pytest.mark.parametrize(("bias", "made"), [(-50.0, 0), (50.0, 1)])
def test_no_thought_is_generated_where_the_gate_is_open_nowhere(x64, monkeypatch, bias, made):
    calls, inner = [], Thinking.inner

    def counted(self, *args):
        jax.debug.callback(lambda: calls.append(1))
        return inner(self, *args)

    monkeypatch.setattr(Thinking, "inner", counted)
    model, params = weights(bias)
    thinker = model.bind(params)
    _, found = METHOD.think(thinker, tiny.context(thinker, tiny.packed(), ANCHORS), jax.random.key(1), True)
    jax.effects_barrier()
    assert len(calls) == made
    closed = np.abs(found.mixed[:, 0] - found.base).max() <= tolerances.forward(tiny.LM)
    assert closed == (made == 0)


def test_a_closed_gate_writes_and_reads_as_the_model_without_thoughts():
    model, params = tiny.thinker_of(gate=True)
    params = {**params, "gate": {**params["gate"], "last_bias": jnp.array([-50.0])}}
    prompts = [[3, 7, 1], [5, 2]]
    silent = generate(METHOD, model, params, prompts, jax.random.key(0), max_new_tokens=4, think=True)
    plain = generate(METHOD, model, params, prompts, jax.random.key(1), max_new_tokens=4, think=False)
    np.testing.assert_array_equal(silent.tokens, plain.tokens)
    np.testing.assert_allclose(silent.logprobs, plain.logprobs, rtol=0, atol=tolerances.forward(tiny.LM))
    reading = read.read(METHOD, model, params, [3, 7, 1, 9], jax.random.key(0))
    assert [step.thoughts[0].tokens for step in reading.steps] == [()] * 3
    assert [step.gain for step in reading.steps] == [0.0] * 3


def test_settings_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match=r"method.gate_at = 1.5: expected a number from 0 up to 1"):
        dataclasses.replace(METHOD, gate_at=1.5)
    with pytest.raises(ValueError, match=r"method.mix = 'sum'"):
        dataclasses.replace(METHOD, mix="sum")
