import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
import tolerances
from reference import pass_per_token, sequential
from small_runs import composed
from tolerances import EXACT

from qstar.methods.protocol import Models
from qstar.methods.quiet_star import QuietStar
from qstar.models.thinker import Tokens
from qstar.structs import Talk
from qstar.thoughts import anchors as where
from qstar.thoughts.credit import BASELINES, credit

PAPER = QuietStar(thought_len=2, lookahead=2, beta=3.0, mixing_side="base", mixing_start=0.0)
OFFICIAL = QuietStar(
    thought_len=2, lookahead=2, beta=3.0, mix="hidden", baseline="mean", positions="official", delimiter_scale=100.0
)


def model_of(method, forbidden=(), lm=tiny.EXACT):
    added = {name: getattr(method, name) for name in ("mixing", "mixing_side", "mixing_start", "delimiter_scale")}
    model, params = tiny.thinker_of(lm, **added, tokens=Tokens(forbidden=forbidden))
    shrunk = {name: params[name] / method.delimiter_scale for name in ("start", "end")}
    return model, {**params, **shrunk}


@functools.partial(jax.jit, static_argnames=("method", "model"))
def loss_of(method, model, params, batch, key):
    return method.loss(Models(model.bind(params)), batch, key)


def keys_of(key):
    """The keys by which `QuietStar.loss` chooses anchors and draws thoughts."""
    chooses, fills = jax.random.split(key)
    return chooses, jax.random.split(fills)[1]


@pytest.mark.parametrize(
    ("method", "forbidden"),
    [
        pytest.param(PAPER, (), marks=pytest.mark.slow),  # its gradient and value are below
        (dataclasses.replace(PAPER, mix="hidden", think_fraction=0.4, baseline="leave_one_out", clamp=False), ()),
        (dataclasses.replace(PAPER, num_thoughts=1, baseline="base", temperature=0.7), (1, 4)),
        (dataclasses.replace(PAPER, mixing="sigmoid", mixing_start=0.25, importance_weights=True, temperature=0.7), ()),
        # Without mixing are test_rlp.py and test_latro.py.
        pytest.param(dataclasses.replace(PAPER, mixing="none", baseline="mean"), (), marks=pytest.mark.slow),
    ],
    ids=["paper", "subset", "one_thought", "importance", "no_mixing"],
)
def test_loss_and_metrics_equal_the_sequential_reference(x64, method, forbidden):
    model, params = model_of(method, forbidden)
    batch = tiny.packed()
    loss, metrics = loss_of(method, model, params, batch, jax.random.key(5))
    chooses, draws = keys_of(jax.random.key(5))
    anchors = np.asarray(where.choose(batch, method.think_fraction, chooses))
    n = method.lookahead
    tokens, behaviour = sequential.sample(
        params, tiny.EXACT, 1.0, batch, anchors, draws, 2, method.num_thoughts, method.temperature, forbidden
    )
    how = sequential.Mixing(method.mixing, method.mixing_side, method.mixing_start)
    scored = sequential.talk(params, tiny.EXACT, 1.0, batch, anchors, tokens, n, method.mix, 3.0, forbidden, how)
    marks = sequential.counts(batch, anchors, n)
    reward, advantage = sequential.credit(scored, marks, method.baseline, method.clamp)
    weights = np.exp(scored.thought - behaviour) if method.importance_weights else 1.0
    base, mixed, policy = sequential.loss_terms(scored, batch, marks, advantage, weights)
    assert float(loss) == pytest.approx(
        0.5 * base + 0.5 * mixed + method.beta * policy, abs=EXACT + method.beta * tolerances.POLICY
    )
    assert metrics["nll"].value() == pytest.approx(base, abs=EXACT)
    assert metrics["policy_loss"].value() == pytest.approx(policy, abs=tolerances.POLICY)
    judged = np.broadcast_to(marks.any(-1)[:, None], reward.shape)
    assert metrics["reward"].value() == pytest.approx(reward[judged].mean(), abs=tolerances.REWARD)
    assert metrics["helped"].value() == pytest.approx((reward[judged] > 0).mean())
    assert metrics["weight"].value() == pytest.approx(np.nanmean(scored.weight), abs=EXACT)
    assert policy != 0


@pytest.mark.parametrize(
    ("method", "batch"),
    [
        (dataclasses.replace(PAPER, mixing_side="thought"), tiny.packed),
        pytest.param(OFFICIAL, tiny.padded, marks=pytest.mark.slow),  # test_official_parity.py has its gradients
    ],
    ids=["paper", "official"],
)
def test_gradient_equals_that_of_one_differentiated_pass_per_token(x64, method, batch):
    lm = dataclasses.replace(tiny.EXACT, layers=1, remat="none")
    model, params = model_of(method, lm=lm)
    batch, key = batch(), jax.random.key(6)
    value, gradient = jax.jit(
        jax.value_and_grad(lambda params: method.loss(Models(model.bind(params)), batch, key)[0]),
    )(params)

    def thoughts(params):
        thinker = model.bind(params)
        fills = jax.random.split(jax.random.key(6))[1]
        anchors = jnp.broadcast_to(jnp.arange(9)[None], (2, 9))
        return method.thinking.inner(thinker, tiny.context(thinker, batch, anchors), fills, 2, 1.0).tokens

    tokens = jax.jit(thoughts)(params)
    setting = pass_per_token.Setting(
        method.lookahead,
        method.mix,
        method.positions == "official",
        0.5,
        method.beta,
        3.0,
        method.delimiter_scale,
        method.baseline,
    )
    expected_value, expected = jax.jit(
        jax.value_and_grad(lambda params: pass_per_token.loss(params, lm, setting, batch, tokens))
    )(params)
    assert float(value) == pytest.approx(float(expected_value), abs=EXACT + method.beta * tolerances.POLICY)
    flat = jax.tree_util.tree_leaves_with_path(gradient)
    for (path, found), leaf in zip(flat, jax.tree.leaves(expected), strict=True):
        assert np.any(leaf), path
        assert tiny.relative_error(found, leaf) < 100 * tolerances.gradient(lm), path  # advantages cancel


# Hand-made talks. Two rows of six tokens, the second with two tokens of padding; lookahead 2, so J = 5 and A = 6.
HAND = tiny.batch(
    tokens=[[1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 0, 0]],
    segment=[[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]],
)
HAND_COUNTS = [[[1, 1], [1, 1], [1, 1], [1, 1], [1, 0], [0, 0]], [[1, 1], [1, 1], [1, 0], [0, 0], [0, 0], [0, 0]]]


def hand_talk(gains, counts=HAND_COUNTS, zero_text=False):
    """Base log-probs -1, -2, ... along each row; the thought of sample r changes every target of row b by gains[b][r];
    the log-prob of the first thought token is -1 and that of the second -2 in sample 0, and twice that in sample 1."""
    text = -np.arange(1.0, 6)[None] * np.ones((2, 1))
    if zero_text:
        text[0, 0] = 0  # a token predicted with certainty
    base = np.stack([np.pad(text, ((0, 0), (0, 1))), np.pad(text[:, 1:], ((0, 0), (0, 2)))], axis=-1)
    gains = np.array(gains, np.float32)
    mixed = base[:, None] + gains[:, :, None, None]
    thought = np.array([-1.0, -2.0]) * (1 + np.arange(gains.shape[1]))[None, :, None, None] * np.ones((2, 1, 6, 1))
    as_float = lambda x: jnp.asarray(x, jnp.float32)  # noqa: E731
    return Talk(
        as_float(text), as_float(base), as_float(mixed), as_float(thought), as_float(0 * mixed), jnp.array(counts, bool)
    )


def terms(method, talk):
    loss, metrics = method.objective(talk, HAND)
    return {"loss": float(loss), **{name: mean.value() for name, mean in metrics.items()}}


def test_loss_with_the_mean_of_the_log_likelihoods_as_baseline_by_hand():
    method = QuietStar(thought_len=2, lookahead=2, baseline="mean")
    found = terms(method, hand_talk([[0.5, -0.5], [0.25, 0.75]]))
    # Base: (1 + 2 + 3 + 4 + 5 + 1 + 2 + 3) / 8.
    assert found["nll"] == pytest.approx(21 / 8)
    # First targets: the same eight numbers minus the gain of the row, both samples: 5 * 0 in row 0, 3 * 0.5 in row 1.
    first = (21 * 2 - 3 * (0.25 + 0.75)) / 16
    # Second targets: 2 + 3 + 4 + 5 in row 0, 2 + 3 in row 1.
    second = (19 * 2 - 2 * (0.25 + 0.75)) / 12
    # Advantages: gain minus its mean, times the number of targets; only sample 0 of row 0 and sample 1 of row 1 are
    # above the mean: 0.5 * (2 + 2 + 2 + 2 + 1) * 1.5 nats and 0.25 * (2 + 2 + 1) * 3, over 2 * 8 judged thoughts.
    policy = (0.5 * 9 * 1.5 + 0.25 * 5 * 3) / 16
    assert found["policy_loss"] == pytest.approx(policy)
    assert found["loss"] == pytest.approx(0.5 * 21 / 8 + 0.5 * (first + second) / 2 + 1e6 * policy)
    assert found["reward"] == pytest.approx(((0.25 + 0.75) * 5) / 16)
    assert found["thought_nll"] == pytest.approx(2.25)


def test_paper_loss_by_hand():
    found = terms(QuietStar(thought_len=2, lookahead=2), hand_talk([[0.5, -0.5], [0.25, 0.75]]))
    # As above, but for the baseline: the log of the mean likelihood of all targets of an anchor, of which there are one
    # or two. Log mean exp of (g, h) is g + log((1 + exp(h - g)) / 2).
    two, one = (count * 0.5 - math.log((1 + math.exp(-count * 1.0)) / 2) - count * 0.5 for count in (2, 1))
    low_two, low_one = (-math.log((1 + math.exp(-count * 0.5)) / 2) for count in (2, 1))
    policy = ((4 * two + one) * 1.5 + (2 * low_two + low_one) * 3) / 16
    assert found["policy_loss"] == pytest.approx(policy, rel=tolerances.rounding(6))
    assert found["reward"] == pytest.approx(((0.25 + 0.75) * 5) / 16)


def test_algorithm_1_has_no_nll_of_predictions_without_a_thought():
    method = composed("method=quiet_star", "~experiments", "data=text", "data.paths=[README.md]").method
    method = dataclasses.replace(method, thought_len=2, lookahead=2)
    found = terms(method, hand_talk([[0.5, -0.5], [0.25, 0.75]]))
    # The first and second targets of `test_loss_with_the_mean_of_the_log_likelihoods_as_baseline_by_hand`.
    first, second = (21 * 2 - 3 * (0.25 + 0.75)) / 16, (19 * 2 - 2 * (0.25 + 0.75)) / 12
    assert found["loss"] == pytest.approx((first + second) / 2 + 1e6 * found["policy_loss"])
    assert found["nll"] == pytest.approx(21 / 8)  # logged all the same


OFFICIAL_PRESET = dataclasses.replace(OFFICIAL, beta=1e6)


def test_official_loss_by_hand():
    found = terms(OFFICIAL_PRESET, hand_talk([[0.5, -0.5], [0.25, 0.75]], zero_text=True))
    # A base log-prob of exactly zero drops out of the mean: seven tokens, the first of row 0 gone.
    assert found["nll"] == pytest.approx(20 / 7)
    # Position 0 of row 0: base 0, so the mixed log-probs are the gains themselves.
    first = (20 * 2 - 3 * (0.25 + 0.75)) / 16
    second = (19 * 2 - 2 * (0.25 + 0.75)) / 12
    # Positions j < 6 - 2 - 1 = 3 only, and the mean is over all 2 * 2 * 3 of them; position 2 of row 1 has one target.
    policy = (0.5 * 6 * 1.5 + 0.25 * 5 * 3) / 12
    assert found["policy_loss"] == pytest.approx(policy)
    assert found["loss"] == pytest.approx(0.5 * 20 / 7 + 0.5 * (first + second) / 2 + 1e6 * policy)


def test_official_mean_over_positions_includes_padding():
    counts = np.array(HAND_COUNTS)
    counts[1] = 0  # a row of padding alone
    talk = hand_talk([[0.5, -0.5], [0.25, 0.75]], counts)
    official, ours = (
        terms(dataclasses.replace(OFFICIAL_PRESET, positions=positions), talk)["policy_loss"]
        for positions in ("official", "counted")
    )
    assert official == pytest.approx(0.5 * 6 * 1.5 / 12)
    assert ours == pytest.approx(0.5 * 9 * 1.5 / 10)


def test_clamp_keeps_only_thoughts_above_their_baseline():
    method = QuietStar(thought_len=2, lookahead=2, baseline="mean", clamp=False)
    found = terms(method, hand_talk([[0.5, -0.5], [0.25, 0.75]]))
    # Sample 1 of row 0 loses 0.5 * 9 * 3, sample 0 of row 1 loses 0.25 * 5 * 1.5.
    assert found["policy_loss"] == pytest.approx((0.5 * 9 * (1.5 - 3) + 0.25 * 5 * (3 - 1.5)) / 16)


@pytest.mark.parametrize("clamp", [True, False])
def test_one_thought_is_held_against_the_prediction_without_it(clamp):
    method = QuietStar(thought_len=2, lookahead=2, num_thoughts=1, baseline="base", clamp=clamp)
    found = terms(method, hand_talk([[-0.5], [0.25]]))
    kept = 0.25 * 5 * 1.5 - (0 if clamp else 0.5 * 9 * 1.5)
    assert found["policy_loss"] == pytest.approx(kept / 8)


def test_no_thought_is_a_loss_of_zero_and_not_of_nan():
    talk = hand_talk([[0.5, -0.5], [0.25, 0.75]], 0 * np.array(HAND_COUNTS))
    nothing = HAND.replace(mask=jnp.zeros_like(HAND.mask))
    assert float(QuietStar(thought_len=2, lookahead=2).objective(talk, nothing)[0]) == 0


def at_step_zero(lm=tiny.LM):
    """A thinker whose mixing head is as it is built: the last layer zero, the others not."""
    model, params = tiny.thinker_of(lm)
    mixing = {**params["mixing"], "last": jnp.zeros_like(params["mixing"]["last"])}
    return model, {**params, "mixing": mixing}


@pytest.mark.parametrize("mix", [pytest.param("hidden", marks=pytest.mark.slow), "logprobs"])
def test_at_step_zero_rewards_are_zero_and_only_the_last_mixing_layer_has_a_gradient(mix):
    model, params = at_step_zero()
    method = dataclasses.replace(PAPER, mix=mix, beta=1e6)
    gradients = jax.jit(
        jax.grad(lambda params: method.loss(Models(model.bind(params)), tiny.packed(), jax.random.key(0)), has_aux=True)
    )
    gradient, metrics = gradients(params)
    assert metrics["weight"].value() == 0
    assert metrics["policy_loss"].value() == 0
    assert metrics["reward"].value() == 0
    moved = {name: bool(np.any(leaf)) for name, leaf in gradient["mixing"].items()}
    assert moved == {"first": False, "first_bias": False, "second": False, "second_bias": False, "last": True}
    if mix == "logprobs":  # no gradient through thoughts at all
        assert not np.any(gradient["start"]) and not np.any(gradient["end"])
    stepped = jax.tree.map(lambda p, g: p - 0.1 * g, params, gradient)
    after, metrics = gradients(stepped)
    assert metrics["weight"].value() != 0
    assert abs(metrics["reward"].value()) > 1e-4
    assert metrics["policy_loss"].value() > 1e-5
    assert all(np.any(leaf) for leaf in jax.tree.leaves((after["mixing"], after["start"], after["end"])))


@pytest.mark.parametrize(
    ("mix", "dtype"),
    [
        ("hidden", "float32"),
        ("logprobs", "bfloat16"),
        pytest.param("hidden", "bfloat16", marks=pytest.mark.slow),
        pytest.param("logprobs", "float32", marks=pytest.mark.slow),
    ],
)
def test_at_step_zero_no_baseline_lets_rounding_pass_for_a_reward(mix, dtype):
    """With the paper's beta of 1e6 the last bit of a log-prob would outweigh the NLL."""
    model, params = at_step_zero(dataclasses.replace(tiny.LM, dtype=dtype))
    method = dataclasses.replace(PAPER, mix=mix, num_thoughts=3, baseline="base")

    def scored(params):
        thinker, anchors = model.bind(params), jnp.broadcast_to(jnp.arange(9)[None], (2, 9))
        context = tiny.context(thinker, tiny.packed(), anchors)
        inner = method.thinking.inner(thinker, context, jax.random.key(0), 3, 1.0)
        return method.thinking.talk(thinker, context, inner)

    talk = jax.jit(scored)(params)
    assert np.any(talk.thought != 0)
    if mix == "hidden":
        # By two paths, in products of other shapes: what is left out is there.
        assert np.any(talk.mixed != talk.base[:, None])
    for baseline in BASELINES:
        earned = credit(talk, talk.counts, baseline, clamp=False)
        assert not np.any(earned.reward) and not np.any(earned.advantage), baseline


@pytest.mark.parametrize("baseline", ["mean", "log_mean", "leave_one_out"])
@pytest.mark.parametrize("count", [2, 3, 5, 7])
def test_thoughts_that_earn_the_same_have_an_advantage_of_exactly_zero(baseline, count):
    base = jnp.asarray(np.random.default_rng(0).normal(size=(1, 50, 2)), jnp.float32)
    mixed = jnp.broadcast_to(base[:, None] + 0.1, (1, count, 50, 2))
    zeros = jnp.zeros((1, count, 50, 1))
    talk = Talk(jnp.zeros((1, 50)), base, mixed, zeros, jnp.zeros_like(mixed), jnp.ones(base.shape, bool))
    earned = credit(talk, talk.counts, baseline, clamp=False)
    assert np.all(earned.reward > 0.1) and not np.any(earned.advantage)


@pytest.mark.parametrize("fill", ["pause", "dots", "shuffled"])
def test_controls_have_no_policy_loss_and_the_same_columns(fill):
    method = dataclasses.replace(PAPER, fill=fill)
    assert not method.reinforces
    model, params = tiny.thinker_of(pause=fill == "pause", tokens=Tokens(dot=12))
    loss, metrics = loss_of(method, model, params, tiny.packed(), jax.random.key(0))
    assert "policy_loss" not in metrics and "thought_nll" not in metrics
    mixed, base = metrics["nll_mixed"].value(), metrics["nll"].value()
    assert mixed != pytest.approx(base, abs=1e-3)
    # With equal numbers of targets at both distances the mean of means would be the mean; here it is not.
    assert float(loss) != pytest.approx(base, abs=1e-3)


class Words:
    def id_of(self, text):
        return {"---": 7, ".": 3, "<start>": 11}.get(text)


def tokens_of(method, vocabulary):
    return method.definition(tiny.LM, vocabulary).abstract_model.cfg.tokens


def test_the_model_knows_the_ids_of_the_tokens_that_the_method_names():
    method = QuietStar(fill="dots", forbidden=("<start>", "."), baseline="base")
    assert tokens_of(method, Words()) == Tokens(delimiter=7, dot=3, forbidden=(11, 3))
    assert tokens_of(QuietStar(), Words()) == Tokens(delimiter=7)
    assert tokens_of(QuietStar(delimiter_init="mean"), Words()) == Tokens()
    assert tokens_of(QuietStar(), None) == Tokens()


def test_text_that_is_no_single_token_is_an_error():
    with pytest.raises(ValueError, match=r"method.delimiter = '~~~' is not one token"):
        QuietStar(delimiter="~~~").definition(tiny.LM, Words())


@pytest.mark.parametrize("settings", [{"forbidden": ("---",)}, {"fill": "dots", "dot": "---"}])
def test_tokens_that_thoughts_are_made_with_need_a_vocabulary(settings):
    with pytest.raises(ValueError, match=rf"method.{list(settings)[-1]} = '---' is not one token"):
        QuietStar(**settings).definition(tiny.LM)


def test_weights_that_begin_as_a_token_need_its_id():
    method = QuietStar()
    with pytest.raises(ValueError, match="delimiter = None with init = 'token'"):
        method.start_from(method.definition(tiny.LM), tiny.lm_of()[1], jax.random.key(0))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"mix": "log"}, "method.mix = 'log': choose one of hidden, logprobs"),
        ({"baseline": "max"}, "method.baseline = 'max'"),
        ({"fill": "noise"}, "method.fill = 'noise'"),
        ({"positions": "all"}, "method.positions = 'all'"),
        ({"mixing": "tanh"}, "method.mixing = 'tanh': choose one of raw, sigmoid, none"),
        ({"mixing_side": "left"}, "method.mixing_side = 'left': choose one of thought, base"),
        ({"mixing": "sigmoid", "mixing_start": 0.0}, "method.mixing_start = 0.0 with method.mixing = 'sigmoid'"),
        ({"delimiter_init": "zero"}, "method.delimiter_init = 'zero': choose one of token, random, mean"),
        ({"importance_weights": True, "temperature": 0.0}, "method.importance_weights with method.temperature = 0.0"),
        ({"importance_weights": True, "fill": "pause"}, "set a temperature above 0, fill=sampled"),
        ({"thought_len": -1}, "method.thought_len = -1: expected 0 or a positive integer"),
        ({"num_thoughts": 1}, "method.num_thoughts = 1 with method.baseline = 'log_mean'"),
        ({"temperature": -1.0}, "method.temperature = -1.0"),
        ({"reinforce_temperature": 0.0}, "method.reinforce_temperature = 0.0"),
        ({"base_weight": 1.5}, "method.base_weight = 1.5"),
        ({"think_fraction": 0.0}, "method.think_fraction = 0.0"),
        ({"positions": "official", "think_fraction": 0.5}, "method.think_fraction=1"),
    ],
)
def test_illegal_values_are_named(wrong, message):
    with pytest.raises(ValueError, match=message):
        QuietStar(**wrong)


def test_predictions_without_thinking_are_the_language_models_and_differ_with_it(x64):
    model, params = model_of(PAPER)
    batch, anchors = tiny.packed(), jnp.array([[1, 7], [0, 4]])

    @jax.jit
    def predicted(params):
        thinker = model.bind(params)
        return PAPER.think(thinker, tiny.context(thinker, batch, anchors), jax.random.key(0), greedy=True)[1]

    hidden = sequential.text_hidden(sequential.as_numpy(params), tiny.EXACT, batch)
    found = predicted(params)
    plain, thinking = found.base, found.mixed[:, 0]
    for b, a in np.ndindex(2, 2):
        expected = sequential.logits(sequential.as_numpy(params)["lm"], hidden[b, anchors[b, a]])
        np.testing.assert_allclose(plain[b, a], sequential.log_softmax(expected), rtol=0, atol=EXACT)
    assert np.abs(plain - thinking).max() > 0.01
