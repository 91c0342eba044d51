"""TRICE, exactly: on two questions with nine rationales each, every draw through the code that trains."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
import tolerances
from reference import trice
from tolerances import rounding

from qstar.data.examples import Example, rows
from qstar.data.pipeline import stack
from qstar.methods.protocol import Models
from qstar.methods.sft import SFT
from qstar.recipes.kept import Graded
from qstar.recipes.trice import TRICE

LM = dataclasses.replace(tiny.EXACT, vocab=3, layers=1, remat="none")
PROMPTS = ((0, 2), (1, 1))
RATIONALES = tuple(itertools.product(range(3), repeat=2))
RECIPE = TRICE()
RIGHT = ((0, 4, 7), (2, 3))


@functools.cache
def setting():
    return tiny.lm_of(LM)


def logp(params):
    """[questions][rationales]"""
    batches = [tiny.batch([[*prompt, *z] for z in RATIONALES], np.ones((9, 4), int)) for prompt in PROMPTS]
    return [trice.logprobs(params, LM, batch, 2) for batch in batches]


def weights(sampled, memory, right, recipe=RECIPE):
    """What an iteration trains on when these are its samples and the chains' memories: weights by (question, z)."""
    before = [Graded(str(q), 1, True, True, str(z)) for q, z in enumerate(memory)]
    new = [Graded(str(q), 2, False, z in right[q], str(z)) for q, z in enumerate(sampled)]
    return {(int(one.problem), int(one.stored)): one.weight for one in recipe.select([*before, *new], 2, 0)}


def gradient(params, by_rationale):
    """Of the loss of a batch with these weights, through the rows that training is given."""
    found = [Example(PROMPTS[q], RATIONALES[z], weight, str(q)) for (q, z), weight in sorted(by_rationale.items())]
    return slopes(params, jax.tree.map(jnp.asarray, stack(rows(found, 36, seed=0))))


@jax.jit
def slopes(params, batch):
    model, _ = setting()
    loss = lambda params: SFT(mean_over="questions").loss(Models(model.bind(params)), batch, jax.random.key(0))[0]  # noqa: E731
    return jax.grad(loss)(params)


def test_the_expected_gradient_is_that_of_the_log_probability_of_being_right(x64):
    _, params = setting()
    expected: dict[tuple[int, int], float] = dict.fromkeys(itertools.product((0, 1), range(9)), 0.0)
    total = 0.0
    for sampled, memory, chance in trice.draws(logp(params), RIGHT):
        total += chance
        for name, weight in weights(sampled, memory, RIGHT).items():
            expected[name] += chance * weight
    assert total == pytest.approx(1)
    found = gradient(params, expected)
    for seed in (1, 2):
        direction = tiny.weights_of(setting()[0], seed, jnp.float64)

        def success(step, way=direction):
            moved = jax.tree.map(lambda weight, along: np.asarray(weight) + step * along, params, way)
            return np.mean([trice.log_success(*one) for one in zip(logp(moved), RIGHT, strict=True)])

        exact = -(success(1e-4) - success(-1e-4)) / 2e-4
        slope = sum(np.vdot(g, d) for g, d in zip(*map(jax.tree.leaves, (found, direction)), strict=True))
        assert abs(exact) > 1e-2
        # The weights of rows are float32: each multiplies a slope of log-probs, which is at most what `change` says.
        change = tolerances.condition(LM) * tolerances.largest(LM)
        bound = tolerances.difference(LM, 1e-4, exact) + rounding(1, size=change)
        assert slope == pytest.approx(exact, abs=bound)


def variance(params, right, recipe):
    """Of the estimated gradient, summed over all weights of the model: from the gradient of each rationale alone."""
    scores = {}
    for name in itertools.product((0, 1), range(9)):
        scores[name] = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(gradient(params, {name: 1.0}))]) / 2
    chances, found = [], []
    for sampled, memory, chance in trice.draws(logp(params), right):
        chances.append(chance)
        found.append(sum((w * scores[n] for n, w in weights(sampled, memory, right, recipe).items()), 0 * scores[0, 0]))
    found, chances = np.array(found), np.array(chances)
    mean = chances @ found
    return chances @ ((found - mean) ** 2).sum(1)


def test_the_control_variate_takes_the_variance_to_zero_as_the_model_gets_right(x64):
    _, params = setting()
    plain = dataclasses.replace(RECIPE, control_variate=False)
    # All is right but the least likely rationale of each question; then all.
    nearly = tuple(tuple(sorted(np.argsort(one)[1:].tolist())) for one in logp(params))
    everything = (tuple(range(9)),) * 2
    assert variance(params, everything, RECIPE) == 0
    assert variance(params, everything, plain) > 0.1
    assert variance(params, nearly, RECIPE) < 0.2 * variance(params, nearly, plain)


def test_both_samples_of_a_question_are_in_one_row_and_questions_are_counted():
    pairs = [Example((1,) * 3, (2,) * (2 + i % 3), weight, str(i)) for i in range(20) for weight in (1.0, -0.5)]
    found = rows(pairs, 16, seed=3)
    assert sum(row.begins.sum() for row in found) == 20
    for row in found:
        lengths = np.bincount(row.segment)[1:]
        assert len(lengths) % 2 == 0 and (lengths[::2] == lengths[1::2]).all()
        starts = np.flatnonzero(np.diff(row.segment, prepend=0) > 0)
        np.testing.assert_array_equal(np.flatnonzero(row.begins), starts[::2])
        assert row.weight[starts].tolist() == [1.0, -0.5] * (len(lengths) // 2)


def test_groups_longer_than_a_row_and_examples_without_one_are_refused():
    pair = [Example((1,), (2,) * 5, 1.0, "a"), Example((1,), (2,) * 5, -1.0, "a")]
    with pytest.raises(ValueError, match=r"1 of 1 groups of examples are longer than a row of 8 tokens, .* has 12"):
        rows(pair, 8, seed=0)
    with pytest.raises(ValueError, match="some examples name a group and some do not"):
        rows([*pair, Example((1,), (2,))], 16, seed=0)


def test_a_mean_over_questions_needs_examples_that_name_them(x64):
    model, params = setting()
    batch = jax.tree.map(jnp.asarray, stack(rows([Example((0, 2), (1, 1))], 8, seed=0)))
    with pytest.raises(ValueError, match=r"method.mean_over=questions: the examples name no `group`"):
        SFT(mean_over="questions").loss(Models(model.bind(params)), batch, jax.random.key(0))
