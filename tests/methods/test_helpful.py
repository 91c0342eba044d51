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

from qstar.evals import predictions
from qstar.evals.measure import SAMPLED
from qstar.methods.helpful import CHOICES, Helpful
from qstar.methods.protocol import Models
from qstar.methods.quiet_star import QuietStar
from qstar.thoughts import read

SETTINGS = {"thought_len": 2, "lookahead": 2, "beta": 3.0, "mix": "hidden", "baseline": "mean"}
METHOD = Helpful(**SETTINGS, threshold=0.05, candidates=3)
QUIET = QuietStar(**SETTINGS)
ANCHORS = jnp.array([[0, 1, 5, 7], [0, 2, 3, 4]])
NEW = "helpfulness"


@functools.cache
def weights():
    return tiny.thinker_of(tiny.EXACT, helpfulness=True)


def without_head(params):
    return {name: part for name, part in params.items() if name != NEW}


def chances_by_hand(params, batch, anchors, tokens):
    """Probability [B R A] that a thought helps, each read by itself; NaN outside of documents."""
    params = sequential.as_numpy(params)
    base, head = sequential.text_hidden(params, tiny.EXACT, batch), params[NEW]
    chances = np.full(tokens.shape[:3], np.nan)
    for b, a, position in sequential.real_anchors(batch, anchors):
        for r in range(tokens.shape[1]):
            embedded = sequential.sequence(params, 1.0, batch, b, position, tokens[b, r, a], [])
            after = sequential.hidden_states(params["lm"], tiny.EXACT, embedded)[-1]
            inner = np.maximum(np.concatenate([base[b, position], after]) @ head["first"] + head["first_bias"], 0)
            inner = np.maximum(inner @ head["second"] + head["second_bias"], 0)
            chances[b, r, a] = 1 / (1 + np.exp(-(inner @ head["last"])[0]))
    return chances


@functools.cache
def evaluated():
    """Loss, metrics and gradient of the method and of Quiet-STaR with the same weights."""
    (model, params), batch = weights(), tiny.packed()
    evaluate = lambda method, model: jax.jit(  # noqa: E731
        jax.value_and_grad(lambda p: method.loss(Models(model.bind(p)), batch, jax.random.key(5)), has_aux=True)
    )
    return evaluate(METHOD, model)(params), evaluate(QUIET, tiny.thinker_of(tiny.EXACT)[0])(without_head(params))


def test_the_head_learns_by_cross_entropy_which_thoughts_gain_more_than_the_threshold(x64):
    _, params = weights()
    batch = tiny.packed()
    ((loss, metrics), _), ((quiet, _), _) = evaluated()
    draws, every = jax.random.split(jax.random.split(jax.random.key(5))[1])[1], np.array([range(9)] * 2)
    tokens, _ = sequential.sample(params, tiny.EXACT, 1.0, batch, every, draws, 2, 2)
    how = sequential.Mixing("raw", "thought", 0.0)
    scored = sequential.talk(params, tiny.EXACT, 1.0, batch, every, tokens, 2, "hidden", 3.0, how=how)
    marks = sequential.counts(batch, every, 2)
    reward, chance = sequential.credit(scored, marks, "mean", True)[0], chances_by_hand(params, batch, every, tokens)
    judged = [(chance[index], reward[index] > 0.05) for index in np.ndindex(2, 2, 9) if marks[index[0], index[2]].any()]
    assert 0 < np.mean([helps for _, helps in judged]) < 1 and len(judged) > 20
    entropy = np.mean([-np.log(p if helps else 1 - p) for p, helps in judged])
    assert float(loss) == pytest.approx(float(quiet) + entropy, abs=EXACT + QUIET.beta * tolerances.POLICY)
    assert metrics["helpful"].value() == pytest.approx(np.mean([p for p, _ in judged]))
    assert metrics["helpful_brier"].value() == pytest.approx(np.mean([(p - helps) ** 2 for p, helps in judged]))


def test_the_head_takes_no_part_in_what_the_model_learns(x64):
    (_, with_head), (_, expected) = evaluated()
    assert all(np.abs(leaf).max() > 1e-6 for leaf in jax.tree.leaves(with_head[NEW]))
    for leaf, other in zip(jax.tree.leaves(without_head(with_head)), jax.tree.leaves(expected), strict=True):
        assert tiny.relative_error(leaf, other) < 100 * tolerances.gradient(tiny.EXACT)  # advantages cancel


@functools.cache
def thinking(method):
    model = weights()[0] if isinstance(method, Helpful) else tiny.thinker_of(tiny.EXACT)[0]

    def thought(params, batch, key, count):
        thinker = model.bind(params)
        return method.think(thinker, tiny.context(thinker, batch, ANCHORS), key, False, count)

    return jax.jit(thought, static_argnums=3)


def expected_choice(choose, chances, mixed, logprobs):
    """Number of the candidate that is chosen, and the prediction; all arguments of one anchor, candidates first."""
    parts = {"weighted": chances, "blend": np.ones_like(chances)}.get(choose)
    if parts is not None:
        return parts.argmax(), np.log((parts / parts.sum()) @ np.exp(mixed))
    entropy = -(np.exp(mixed) * mixed).sum(-1)
    chosen = {"helpful": chances, "confident": -entropy, "likely": logprobs.sum(-1)}[choose].argmax()
    return chosen, mixed[chosen]


@pytest.mark.parametrize(  # an evaluation below blends
    "choose", [pytest.param(name, marks=pytest.mark.slow if name == "blend" else ()) for name in CHOICES]
)
def test_one_prediction_is_made_of_several_thoughts(x64, choose):
    _, params = weights()
    batch, method = tiny.packed(), dataclasses.replace(METHOD, choose=choose)
    inner, prediction = thinking(method)(params, batch, jax.random.key(1), 2)
    # The same six thoughts at each anchor, of which three belong together.
    sampled, each = thinking(QUIET)(without_head(params), batch, jax.random.key(1), 6)
    chances = chances_by_hand(params, batch, ANCHORS, np.asarray(sampled.tokens))
    chosen = set()
    for b, a, _ in sequential.real_anchors(batch, ANCHORS):
        for r, of in enumerate((slice(0, 3), slice(3, 6))):
            here = (b, of, a)
            n, mixed = expected_choice(choose, chances[here], np.asarray(each.mixed[here]), sampled.logprobs[here])
            np.testing.assert_allclose(prediction.mixed[b, r, a], mixed, rtol=0, atol=EXACT)
            np.testing.assert_array_equal(inner.tokens[b, r, a], sampled.tokens[here][n])
            assert prediction.weight[b, r, a] == pytest.approx(float(each.weight[here][n]))
            chosen.add(int(n))
    assert len(chosen) > 1 or choose == "blend"
    np.testing.assert_allclose(prediction.base, each.base, rtol=0, atol=EXACT)


def test_the_likeliest_thought_is_one_and_nothing_is_chosen():
    model, params = tiny.thinker_of(helpfulness=True)
    evaluate = lambda method: read.read(method, model, params, [3, 7, 1, 9], jax.random.key(0))  # noqa: E731
    assert evaluate(METHOD) == evaluate(dataclasses.replace(METHOD, candidates=1))


def test_an_evaluation_draws_so_many_thoughts_for_each_answer():
    model, params = tiny.thinker_of(helpfulness=True)
    batch, anchors = tiny.padded(), np.array([[2], [3]])
    candidates = np.broadcast_to(np.arange(13), (2, 1, 13))
    keys = lambda: jax.random.split(jax.random.key(0), 2)  # noqa: E731
    asked = [
        predictions.predictions(method, model, params, batch, anchors, candidates, keys(), (SAMPLED,), draws)
        for method, draws in ((dataclasses.replace(METHOD, choose="blend"), 1), (QUIET, 3))
    ]
    blended = np.log(np.exp(np.asarray(asked[1].logprobs, np.float64)).mean(1, keepdims=True))
    np.testing.assert_allclose(asked[0].logprobs, blended, rtol=0, atol=tolerances.forward(tiny.LM))


def test_settings_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match=r"method.choose = 'best'"):
        dataclasses.replace(METHOD, choose="best")
    with pytest.raises(ValueError, match=r"method.candidates = 0"):
        dataclasses.replace(METHOD, candidates=0)
    with pytest.raises(ValueError, match=r"method.fill = 'pause'"):
        dataclasses.replace(METHOD, fill="pause")
