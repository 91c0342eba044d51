"""Preference losses against their formulas, from log-probs summed by hand."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
import tolerances
from tolerances import EXACT

from qstar.methods.dpo import DPO
from qstar.methods.protocol import Models
from qstar.models import lm
from qstar.models.formats import hf
from qstar.structs import Pairs
from qstar.thoughts.anchors import next_counts

KEY = jax.random.key(0)
GOLDEN = Path(__file__).parents[1] / "golden"


def batch():
    """Rows of one document each, whose later tokens are the completions."""
    side = lambda first, second: tiny.batch(  # noqa: E731
        [first, second],
        np.pad(np.ones((2, 6), int), ((0, 0), (0, 2))),
        [[0, 0, 0, 1, 1, 1, 0, 0], [0, 0, 1, 1, 1, 1, 0, 0]],
    )
    return Pairs(
        side([1, 2, 3, 4, 5, 6, 0, 0], [7, 8, 9, 10, 11, 12, 0, 0]),
        side([1, 2, 3, 9, 1, 6, 0, 0], [7, 8, 2, 2, 3, 12, 0, 0]),
    )


def models(policy_seed=0, reference_seed=1):
    definition, params = tiny.lm_of(tiny.EXACT, policy_seed)
    reference = tiny.lm_of(tiny.EXACT, reference_seed)[1]
    return definition, params, lambda params: Models(definition.bind(params), definition.bind(reference))


def sums(definition, params, side):
    model = definition.bind(params)
    logprobs = np.asarray(model.next_logprobs(model.text(side), side.tokens))
    return np.array([row[counts].sum() for row, counts in zip(logprobs, np.asarray(next_counts(side)), strict=True)])


def log_ratios():
    definition, params, _ = models()
    reference = tiny.lm_of(tiny.EXACT, 1)[1]
    pairs = batch()
    return [
        sums(definition, params, side) - sums(definition, reference, side) for side in (pairs.chosen, pairs.rejected)
    ]


def loss_of(method):
    _, params, bound = models()
    return jax.jit(lambda params: method.loss(bound(params), batch(), KEY))(params)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def test_the_loss_of_the_paper(x64):
    chosen, rejected = log_ratios()
    loss, metrics = loss_of(DPO(beta=0.3))
    assert float(loss) == pytest.approx(-np.log(sigmoid(0.3 * (chosen - rejected))).mean(), abs=EXACT)
    assert metrics["accuracy"].value() == pytest.approx((chosen > rejected).mean())
    assert metrics["reward_chosen"].value() == pytest.approx(0.3 * chosen.mean(), abs=EXACT)


@pytest.mark.slow  # as are those of trl below, with gradients
def test_smoothing_hinge_and_ipo(x64):
    chosen, rejected = log_ratios()
    margin = chosen - rejected
    smoothed = -0.9 * np.log(sigmoid(0.3 * margin)) - 0.1 * np.log(sigmoid(-0.3 * margin))
    assert float(loss_of(DPO(beta=0.3, label_smoothing=0.1))[0]) == pytest.approx(smoothed.mean(), abs=EXACT)
    hinge = np.maximum(1 - 0.3 * margin, 0).mean()
    assert float(loss_of(DPO(beta=0.3, loss_type="hinge"))[0]) == pytest.approx(hinge, abs=EXACT)
    lengths = np.array([3, 4])
    ipo = ((chosen / lengths - rejected / lengths - 1 / 0.6) ** 2).mean()
    assert float(loss_of(DPO(beta=0.3, loss_type="ipo"))[0]) == pytest.approx(ipo, abs=EXACT)


@pytest.mark.slow  # as is trl's below
def test_irpo_adds_the_likelihood_a_token_of_the_chosen_one(x64):
    definition, params, _ = models()
    nll = -(sums(definition, params, batch().chosen) / np.array([3, 4])).mean()
    alone, both = (float(loss_of(DPO(nll_weight=weight))[0]) for weight in (0.0, 0.5))
    assert both - alone == pytest.approx(0.5 * nll, abs=10 * EXACT)


def test_at_the_start_nothing_is_preferred_and_the_gradient_is_half_of_beta(x64):
    definition, params, bound = models(0, 0)
    loss = jax.value_and_grad(lambda params: DPO(beta=0.3).loss(bound(params), batch(), KEY), has_aux=True)
    (value, metrics), found = jax.jit(loss)(params)
    assert float(value) == pytest.approx(np.log(2), abs=EXACT)
    assert metrics["margin"].value() == 0

    def difference(params):
        model = definition.bind(params)
        total = lambda side: jnp.sum(  # noqa: E731
            jnp.where(next_counts(side), model.next_logprobs(model.text(side), side.tokens), 0)
        )
        return -0.15 * (total(batch().chosen) - total(batch().rejected)) / 2

    expected = jax.jit(jax.grad(difference))(params)
    bound = tolerances.gradient(tiny.EXACT) * max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(expected))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=bound), found, expected)


def golden_pairs():
    """The pairs of `golden/make_dpo.py`."""
    prompts = [[3, 14, 15], [9, 26], [5, 35, 8, 9]]

    def side(completions):
        both = list(zip(prompts, completions, strict=True))
        width = max(len(prompt) + len(text) for prompt, text in both)
        fill = lambda rows: [[*row, *[0] * (width - len(row))] for row in rows]  # noqa: E731
        return tiny.batch(
            fill([prompt + text for prompt, text in both]),
            fill([[1] * (len(prompt) + len(text)) for prompt, text in both]),
            fill([[0] * len(prompt) + [1] * len(text) for prompt, text in both]),
        )

    return Pairs(side([[7, 1, 40, 2], [11, 12, 13], [4]]), side([[7, 30, 2], [21, 2, 2, 5, 6], [17, 3]]))


def golden_reference(cfg, golden):
    """The reference's weights, which the file holds under transformers' names."""
    names = [name for name in golden.files if name.startswith("reference.")]
    tensors = {name.removeprefix("reference."): golden[name] for name in names}
    return hf.assemble(cfg, {name: leaf.shape for name, leaf in tensors.items()}, tensors.__getitem__, "golden")


@pytest.mark.parametrize(
    ("name", "method"),
    [
        ("sigmoid", DPO(beta=0.3)),
        ("smoothed", DPO(beta=0.3, label_smoothing=0.1)),
        ("hinge", DPO(beta=0.3, loss_type="hinge")),
        ("ipo", DPO(beta=0.3, loss_type="ipo")),
        ("irpo", DPO(beta=0.3, nll_weight=1.0)),
    ],
)
def test_losses_and_gradients_equal_those_of_trl(x64, name, method):
    golden = np.load(GOLDEN / "dpo.npz")
    cfg, weights = hf.read_directory(GOLDEN / "llama_mha_tied")
    cfg = dataclasses.replace(cfg, dtype="float64")
    wide = lambda tree: jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), tree)  # noqa: E731
    definition, params, reference = lm.definition(cfg), wide(weights), wide(golden_reference(cfg, golden))
    pairs = golden_pairs()
    loss = lambda params: method.loss(Models(definition.bind(params), definition.bind(reference)), pairs, KEY)[0]  # noqa: E731
    value, gradient = jax.jit(jax.value_and_grad(loss))(params)
    # Weights are 0.4 of a normal number. A loss has 0.3 of up to 20 log-probs, or, ipo's, 2 * 1.5 of 4 means of them.
    scores = 0.16 * cfg.width
    bound = 12 * tolerances.forward(cfg, scores=scores)
    assert float(value) == pytest.approx(float(golden[f"{name}.loss"]), abs=bound)
    found = {
        "model.embed_tokens.weight": gradient["embedding"],
        "model.layers.0.self_attn.q_proj.weight": gradient["blocks"]["query"][0].reshape(cfg.width, -1).T,
        "model.layers.1.mlp.down_proj.weight": gradient["blocks"]["down"][1].T,
        "model.norm.weight": gradient["norm"]["scale"],
    }
    for leaf, ours in found.items():
        theirs = golden[f"{name}.{leaf}"]
        bound = tolerances.gradient(cfg, scores=scores) * np.abs(theirs).max()
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=bound, err_msg=leaf)


def test_settings_that_do_not_go_together_are_refused():
    with pytest.raises(ValueError, match=r"method.label_smoothing = 0.1 with method.loss_type = 'ipo'"):
        DPO(loss_type="ipo", label_smoothing=0.1)
    with pytest.raises(ValueError, match=r"method.beta = 0"):
        DPO(beta=0.0)
