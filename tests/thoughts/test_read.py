import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
import tolerances
from reference import sequential
from tolerances import EXACT

from qstar.methods.quiet_star import QuietStar
from qstar.models.thinker import Tokens
from qstar.ops import chunk
from qstar.thoughts import read as reading
from qstar.thoughts.read import Reading, Step, Thought, best, read
from qstar.thoughts.writing import generate

METHOD = QuietStar(thought_len=3, delimiter_scale=1.5, mix="hidden")
TEXT = [3, 7, 1, 9, 4, 6, 0, 11, 8]


def of_reference(params, num_thoughts):
    """Thoughts and their effects, every thought run by itself; the last position has no target."""
    batch, anchors = tiny.batch([TEXT], [[1] * 9]), np.arange(9)[None]
    tokens, _ = sequential.sample(
        params, tiny.EXACT, 1.5, batch, anchors, jax.random.key(3), 3, num_thoughts, 0.0, (5,)
    )
    talk = sequential.talk(params, tiny.EXACT, 1.5, batch, anchors, tokens, 1, "hidden", 3.0, (5,))
    return tokens[0, 0, :8], talk.base[0, :8, 0], talk.mixed[0, 0, :8, 0], talk.weight[0, 0, :8, 0]


def test_thoughts_before_every_token_and_their_effect_equal_the_reference_s(x64):
    model, params = tiny.thinker_of(tiny.EXACT, delimiter_scale=1.5, tokens=Tokens(forbidden=(5,)))
    tokens, base, mixed, weight = of_reference(params, 1)
    found = read(METHOD, model, params, TEXT, jax.random.key(0))
    assert found.tokens == tuple(TEXT)
    assert found.given == 9
    assert [step.best.tokens for step in found.steps] == [tuple(row) for row in tokens.tolist()]
    np.testing.assert_allclose([step.base for step in found.steps], base, rtol=0, atol=EXACT)
    np.testing.assert_allclose([step.mixed for step in found.steps], mixed, rtol=0, atol=EXACT)
    np.testing.assert_allclose([step.best.weight for step in found.steps], weight, rtol=0, atol=EXACT)
    np.testing.assert_allclose(found.base_nll, -base.mean(), rtol=0, atol=EXACT)
    np.testing.assert_allclose(found.mixed_nll, -mixed.mean(), rtol=0, atol=EXACT)
    assert found.helped == np.mean(mixed - base >= 0.0005)


@functools.partial(jax.jit, static_argnames="model")
def distributions(model, params, batch):
    anchors = jnp.arange(9)[None]
    thinker = model.bind(params)
    return METHOD.think(thinker, tiny.context(thinker, batch, anchors), jax.random.key(0), greedy=True)[1]


def test_the_likeliest_tokens_are_the_five_most_probable_in_order(x64):
    model, params = tiny.thinker_of(tiny.EXACT, delimiter_scale=1.5, tokens=Tokens(forbidden=(5,)))
    found = read(METHOD, model, params, TEXT, jax.random.key(0))
    seen = distributions(model, params, tiny.batch([TEXT], [[1] * 9]))
    for s, step in enumerate(found.steps):
        for candidates, logprobs in ((step.likeliest, seen.base[0, s]), (step.best.likeliest, seen.mixed[0, 0, s])):
            order = np.argsort(-np.asarray(logprobs))[:5]
            assert [one.token for one in candidates] == order.tolist()
            np.testing.assert_allclose([one.logprob for one in candidates], logprobs[order], rtol=0, atol=EXACT)


def test_slices_of_anchors_change_nothing(monkeypatch):
    model, params = tiny.thinker_of()
    whole = read(METHOD, model, params, TEXT, jax.random.key(0), num_thoughts=2)
    monkeypatch.setattr(chunk, "BUDGET_BYTES", 4 * 3 * 2 * 13 * 5)  # distributions of five anchors: rounded to four
    traced = []
    think = QuietStar.think
    monkeypatch.setattr(QuietStar, "think", lambda *given: traced.append(given[2].anchors.shape) or think(*given))
    sliced = read(METHOD, model, params, TEXT, jax.random.key(0), num_thoughts=2)
    assert traced == [(1, 4)]
    for one, other in zip(whole.steps, sliced.steps, strict=True):
        assert [thought.tokens for thought in one.thoughts] == [thought.tokens for thought in other.thoughts]
        np.testing.assert_allclose(one.mixed, other.mixed, rtol=0, atol=tolerances.forward(tiny.LM))


def test_sampled_thoughts_differ_from_each_other_and_by_key():
    model, params = tiny.thinker_of(delimiter_scale=1.5)
    settings = {"greedy": False, "num_thoughts": 2}
    found = [read(METHOD, model, params, TEXT, jax.random.key(seed), **settings) for seed in (0, 0, 1)]
    assert found[0] == found[1]
    thoughts = [[thought.tokens for step in one.steps for thought in step.thoughts] for one in found]
    assert thoughts[0] != thoughts[2]
    assert any(step.thoughts[0].tokens != step.thoughts[1].tokens for step in found[0].steps)


def test_texts_of_one_bucket_share_one_program():
    model, params = tiny.thinker_of()
    programs = set()
    for text in (TEXT, [1, 2], [4] * 32):
        assert len(read(METHOD, model, params, text, jax.random.key(0)).steps) == len(text) - 1
        programs.add(reading._effects._cache_size())
    assert len(programs) == 1 and 0 not in programs


def test_a_text_of_one_token_has_no_thoughts_before_it():
    model, params = tiny.thinker_of()
    found = read(METHOD, model, params, [4], jax.random.key(0))
    assert (found.tokens, found.steps) == ((4,), ())
    assert math.isnan(found.base_nll)


def test_what_was_written_follows_the_prompt_with_the_thoughts_it_was_written_with():
    model, params = tiny.thinker_of()
    prompt = read(METHOD, model, params, TEXT, jax.random.key(0))
    written = generate(METHOD, model, params, [[1], TEXT], jax.random.key(0), max_new_tokens=4, greedy_thoughts=False)
    found = written.extended(prompt, 1)
    assert found.given == 9
    assert found.tokens == (*TEXT, *written.text(1))
    assert found.steps[:8] == prompt.steps
    assert [list(step.best.tokens) for step in found.steps[8:]] == written.effect.thoughts[1, :, 0].tolist()
    assert found.steps[8].best.mixed == float(written.logprobs[1, 0])


def test_texts_that_the_model_cannot_read_are_refused_by_name():
    model, params = tiny.thinker_of()
    for text, message in (([], "text 0 has no tokens"), ([1] * 65, "65 tokens, the model was built for 64")):
        with pytest.raises(ValueError, match=message):
            read(METHOD, model, params, text, jax.random.key(0))


def thought(*gains, token=1):
    return Step(token, tuple(Thought((k,), 0.5, -1.0, -1.0 + gain, ()) for k, gain in enumerate(gains)), ())


def test_the_best_thoughts_are_those_that_helped_most_over_all_texts():
    one = Reading(7, (thought(0.25, -0.5), thought(2.0, 1.0)), 3)
    other = Reading(8, (thought(-3.0, 0.0), thought(-1.0, 1.5)), 3)
    found = best([one, other], 3)
    assert [(entry.reading.first, entry.position, entry.thought.gain) for entry in found] == [
        (7, 2, 2.0),
        (8, 2, 1.5),
        (7, 2, 1.0),
    ]
    assert len(best([one, other], 9)) == 4  # the others did not help
    assert [entry.thought.gain for entry in best([Reading(7, (thought(2**-8, 2**-7),), 2)], 9)] == [2**-7]


def test_a_step_with_several_thoughts_counts_their_mean():
    step = thought(0.5, -1.0)
    assert (step.gain, step.mixed, step.best.tokens) == (-0.25, -1.25, (0,))
    assert Reading(0, (step, thought(1.0)), 3).helped == 0.5
    assert Reading(0, (thought(1e-6), thought(4e-4), thought(6e-4), thought(0.0)), 5).helped == 0.25


TEXTS = [TEXT, TEXT[:4], [2] * 40, TEXT[::-1], [1]]


@pytest.mark.parametrize(
    "settings",
    [pytest.param({}, marks=pytest.mark.slow), {"greedy": False, "num_thoughts": 2}],
    ids=["greedy", "sampled"],
)
def test_texts_that_are_read_together_are_read_as_each_by_itself(settings):
    model, params = tiny.thinker_of()
    key = jax.random.key(7)
    together = reading.read_all(METHOD, model, params, TEXTS, key, **settings)
    for number, (text, one) in enumerate(zip(TEXTS, together, strict=True)):
        alone = read(METHOD, model, params, text, jax.random.fold_in(jax.random.key(7), number), **settings)
        assert one.tokens == tuple(text)
        for step, other in zip(one.steps, alone.steps, strict=True):
            assert [thought.tokens for thought in step.thoughts] == [thought.tokens for thought in other.thoughts]
            np.testing.assert_allclose(step.mixed, other.mixed, rtol=0, atol=tolerances.forward(tiny.LM))


def test_the_texts_of_one_width_are_one_program(monkeypatch):
    model, params = tiny.thinker_of()
    traced = []
    think = QuietStar.think
    monkeypatch.setattr(QuietStar, "think", lambda *given: traced.append(given[2].anchors.shape) or think(*given))
    method = dataclasses.replace(METHOD, thought_len=2)  # no other test has compiled
    reading.read_all(method, model, params, [TEXT, TEXT[:5], TEXT[2:]], jax.random.key(0))
    assert traced == [(4, 32)]


def test_the_worst_thoughts_are_those_that_hurt_most():
    thoughts = [Thought((1,), 0.5, -1.0, mixed, ()) for mixed in (-1.5, -0.5, -3.0)]
    given = Reading(0, tuple(Step(1, (thought,), ()) for thought in thoughts), 4)
    assert [entry.position for entry in reading.worst([given], 5)] == [3, 1]
