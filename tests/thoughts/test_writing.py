import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from reference import sequential
from tolerances import EXACT

from qstar.methods.plain_lm import PlainLM
from qstar.methods.quiet_star import QuietStar
from qstar.models.thinker import Tokens
from qstar.structs import Batch
from qstar.thoughts import writing as writing
from qstar.thoughts.writing import generate

THINKING = QuietStar(thought_len=3)
LAST = Tokens(forbidden=(12,))  # of 13
LONG = [(5 * s + s // 7) % 12 for s in range(32)]  # fills its bucket: no padding behind it
PROMPTS = [LONG, [3, 7, 1, 9, 4, 6, 0], [5]]


@functools.partial(jax.jit, static_argnames=("method", "model"))
def predictions(method, model, params, batch):
    anchors = jnp.arange(batch.tokens.shape[1])[None]
    thinker = model.bind(params)
    return method.think(thinker, tiny.context(thinker, batch, anchors), jax.random.key(0), greedy=True)


def naive(method, model, params, prompt, count):
    """Run the whole growing text again for every token: (tokens, thoughts, weights, log-probs base and mixed)."""
    text, found = list(prompt), []
    for _ in range(count):
        row = jnp.asarray([text + [0] * (40 - len(text))], jnp.int32)
        real = jnp.arange(40)[None] < len(text)
        inner, seen = predictions(method, model, params, Batch(row, real, real.astype(jnp.int32), jnp.arange(40)[None]))
        last = len(text) - 1
        mixed = np.array(seen.mixed[0, 0, last])
        token = int(np.argmax(mixed[:12]))  # 12 is forbidden
        thought = () if inner.tokens is None else np.asarray(inner.tokens[0, 0, last])
        found.append((token, thought, seen.weight[0, 0, last], seen.base[0, last, token], mixed[token]))
        text.append(token)
    return (np.array(column) for column in zip(*found, strict=True))


@pytest.mark.parametrize(
    "method",
    [
        THINKING,
        # What differs is in `think`, whose predictions other tests have.
        pytest.param(dataclasses.replace(THINKING, mix="hidden"), marks=pytest.mark.slow),
        pytest.param(dataclasses.replace(THINKING, fill="pause"), marks=pytest.mark.slow),
    ],
    ids=["logprobs", "hidden", "pause"],
)
def test_batched_generation_equals_reading_the_growing_text_for_every_token(x64, method):
    model, params = tiny.thinker_of(tiny.EXACT, pause=method.fill == "pause", tokens=LAST)
    found = generate(method, model, params, PROMPTS, jax.random.key(0), max_new_tokens=6)
    for row, prompt in enumerate(PROMPTS):
        tokens, thoughts, weight, base, mixed = naive(method, model, params, prompt, 6)
        np.testing.assert_array_equal(found.tokens[row], tokens)
        if method.fill == "sampled":
            np.testing.assert_array_equal(found.effect.thoughts[row, :, 0], thoughts)
        np.testing.assert_allclose(found.effect.weight[row, :, 0], weight, rtol=0, atol=EXACT)
        np.testing.assert_allclose(found.effect.base[row], base, rtol=0, atol=EXACT)
        np.testing.assert_allclose(found.effect.mixed[row, :, 0], mixed, rtol=0, atol=EXACT)
        np.testing.assert_allclose(found.logprobs[row], mixed, rtol=0, atol=EXACT)
    assert len({tuple(row) for row in np.asarray(found.tokens)}) == 3


def greedy_without_thoughts(params, prompt, count, forbidden):
    """Tokens and log-probs of the reference implementation."""
    params, text, logprobs = sequential.as_numpy(params), list(prompt), []
    for _ in range(count):
        hidden = sequential.hidden_states(params, tiny.EXACT, params["embedding"][text])[-1]
        found = sequential.log_softmax(params["head"] @ hidden)
        text.append(int(np.argmax(np.where(np.isin(np.arange(13), forbidden), -np.inf, found))))
        logprobs.append(found[text[-1]])
    return text[len(prompt) :], logprobs


def test_without_thinking_a_thinker_and_its_lm_write_the_references_greedy_text(x64):
    model, params = tiny.thinker_of(tiny.EXACT, tokens=LAST)
    plain = PlainLM().definition(tiny.EXACT)
    settings = {"max_new_tokens": 5, "think": False}
    found = generate(PlainLM(), plain, params["lm"], PROMPTS[1:], jax.random.key(0), **settings)
    other = generate(THINKING, model, params, PROMPTS[1:], jax.random.key(0), **settings)
    for row, prompt in enumerate(PROMPTS[1:]):
        tokens, logprobs = greedy_without_thoughts(params["lm"], prompt, 5, ())
        assert found.text(row) == tokens
        assert other.text(row) == greedy_without_thoughts(params["lm"], prompt, 5, (12,))[0]
        np.testing.assert_allclose(found.logprobs[row], logprobs, rtol=0, atol=EXACT)
    assert found.effect is None


@functools.cache
def many(forbidden=LAST.forbidden):
    """Two hundred texts that are drawn with one key after one prompt."""
    model, params = tiny.thinker_of(tokens=Tokens(forbidden=forbidden))
    settings = {"max_new_tokens": 5, "temperature": 3.0, "greedy_thoughts": False, "samples": 200}
    return generate(THINKING, model, params, [[1, 2]], jax.random.key(0), **settings)


def test_forbidden_ids_are_neither_thought_nor_written():
    free, held = many(), many((0, 4, 7, 12))
    assert set(np.unique(free.tokens)) == set(np.unique(free.effect.thoughts)) == set(range(12))  # all but 12
    allowed = {1, 2, 3, 5, 6, 8, 9, 10, 11}
    assert set(np.unique(held.tokens)) == set(np.unique(held.effect.thoughts)) == allowed


@pytest.mark.slow  # tests/decoding/test_sampling.py has the same of the function that draws them
def test_sampled_tokens_come_at_their_probabilities_under_the_temperature():
    _, params = tiny.thinker_of(tokens=LAST)
    plain = PlainLM().definition(tiny.LM)
    settings = {"max_new_tokens": 1, "temperature": 2.0, "think": False}
    found = generate(PlainLM(), plain, params["lm"], [PROMPTS[1]] * 4000, jax.random.key(1), **settings)
    exact = sequential.as_numpy(params["lm"])
    hidden = sequential.hidden_states(exact, tiny.LM, exact["embedding"][PROMPTS[1]])[-1]
    expected = sequential.softmax(exact["head"] @ hidden / 2.0)
    share = np.bincount(np.asarray(found.tokens)[:, 0], minlength=13) / 4000
    error = np.sqrt(expected * (1 - expected) / 4000)
    assert np.all(np.abs(share - expected) < 4 * error)
    assert error.max() < 0.01  # the bound above means something


def test_a_text_ends_with_its_stop_token_and_the_others_continue(x64):
    model, params = tiny.thinker_of(tiny.EXACT, tokens=LAST)
    free = generate(THINKING, model, params, PROMPTS, jax.random.key(0), max_new_tokens=6)
    texts = [free.text(row) for row in range(3)]
    stop = texts[0][2]
    ends = [text.index(stop) + 1 if stop in text else 6 for text in texts]
    found = generate(THINKING, model, params, PROMPTS, jax.random.key(0), max_new_tokens=6, stop=(stop,))
    assert [found.text(row) for row in range(3)] == [text[:end] for text, end in zip(texts, ends, strict=True)]
    assert min(ends) < max(ends)


SAMPLED = {"max_new_tokens": 5, "temperature": 1.5, "greedy_thoughts": False}


def test_what_is_drawn_for_a_row_depends_on_its_own_key_and_prompt_alone(x64):
    """Beside other rows, at another place; in a batch of another size in the test below."""
    model, params = tiny.thinker_of(tiny.EXACT, tokens=LAST)
    keys, others = jax.random.split(jax.random.key(5), 4), jax.random.split(jax.random.key(8), 2)
    prompts = [*PROMPTS, [2, 8]]
    together = generate(THINKING, model, params, prompts, jax.random.clone(keys), **SAMPLED)
    assert len({tuple(row) for row in np.asarray(together.tokens)}) == 4
    assert len({tuple(row) for row in np.asarray(together.effect.thoughts)[:, 0, 0]}) == 4
    moved, places = [[4] * 9, prompts[2], [11], prompts[0]], {2: 1, 0: 3}
    elsewhere = generate(THINKING, model, params, moved, jnp.stack([others[0], keys[2], others[1], keys[0]]), **SAMPLED)
    for row, place in places.items():
        np.testing.assert_array_equal(elsewhere.tokens[place], together.tokens[row])
        np.testing.assert_array_equal(elsewhere.effect.thoughts[place], together.effect.thoughts[row])
        np.testing.assert_allclose(elsewhere.logprobs[place], together.logprobs[row], rtol=0, atol=EXACT)


def test_samples_of_a_prompt_are_those_of_the_prompt_given_as_often(x64):
    model, params = tiny.thinker_of(tiny.EXACT, tokens=LAST)
    keys = jax.random.split(jax.random.key(6), 4)
    twice = generate(THINKING, model, params, [*PROMPTS[1:2] * 2, *PROMPTS[2:] * 2], keys, **SAMPLED)
    once = generate(THINKING, model, params, PROMPTS[1:], keys, samples=2, **SAMPLED)
    np.testing.assert_array_equal(once.tokens, twice.tokens)
    np.testing.assert_allclose(once.logprobs, twice.logprobs, rtol=0, atol=EXACT)
    assert len({tuple(row) for row in np.asarray(once.tokens)}) == 4


def test_one_key_draws_again_for_every_row_and_every_token():
    found = many()
    thoughts = np.asarray(found.effect.thoughts)[:, :, 0]
    for drawn in (np.asarray(found.tokens), thoughts[:, :, 0], thoughts[:, 0]):
        # Of 199 pairs of neighbours, as many agree as chance has it: far from all.
        assert np.mean(drawn[:-1] == drawn[1:]) < 0.5
        assert np.mean(drawn[:, :-1] == drawn[:, 1:]) < 0.5


def test_prompts_and_lengths_of_one_bucket_share_one_program(x64):
    model, params = tiny.thinker_of(tiny.EXACT, tokens=LAST)
    programs = []
    for prompts, count in (([[1, 2], [3], [4]], 4), ([[5] * 30, [1, 2, 3], [4, 5]], 7)):
        found = generate(THINKING, model, params, prompts, jax.random.key(0), max_new_tokens=count)
        assert found.tokens.shape == (3, count)
        programs.append(writing._write._cache_size())
    assert programs[0] == programs[1] > 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompts": []}, "no text"),
        ({"prompts": [[1], []]}, "text 1 has no tokens"),
        ({"prompts": [[1] * 60]}, "60 tokens and 5 to write, the model was built for 64"),
        ({"prompts": [[1, 13]]}, "token id 13, the model knows 0 to 12"),
        ({"max_new_tokens": 0}, "max_new_tokens = 0"),
        ({"temperature": -1.0}, "temperature = -1.0"),
        ({"samples": 0}, "samples = 0"),
        ({"samples": 3, "key": jax.random.split(jax.random.key(0), 2)}, r"keys of shape \(2,\) for 3 rows"),
        ({"tokens": Tokens(forbidden=tuple(range(13)))}, "all 13 tokens are forbidden"),
        ({"tokens": Tokens(forbidden=(99,))}, r"forbidden token ids \[99\]"),
        ({"stop": (12,)}, r"stop token ids \[12\] are forbidden"),
        ({"method": PlainLM()}, "PlainLM does not think"),
    ],
)
def test_what_cannot_be_written_is_refused_by_name(change, message):
    asked = {"method": THINKING, "prompts": [[1, 2]], "key": jax.random.key(0), "max_new_tokens": 5} | change
    model, params = tiny.thinker_of(tokens=asked.pop("tokens", LAST))
    with pytest.raises(ValueError, match=message):
        generate(asked.pop("method"), model, params, asked.pop("prompts"), asked.pop("key"), **asked)
