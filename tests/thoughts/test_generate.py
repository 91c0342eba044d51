import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from qstar.methods.lm import PlainLM
from qstar.methods.quiet_star import QuietStar
from qstar.structs import Batch
from qstar.thoughts import generate as writing
from qstar.thoughts.generate import generate

THINKING = QuietStar(thought_len=3, delimiter_id=0, forbidden_ids=(12,))
PROMPTS = [[3, 7, 1, 9, 4, 6, 0], [5], [2, 10, 6]]
CFG = tiny.EXACT


def thinker(**kwargs):
    return tiny.thinker_of(CFG, **kwargs)


@functools.partial(jax.jit, static_argnames=("method", "model"))
def all_predictions(method, model, params, batch):
    anchors = jnp.arange(batch.tokens.shape[1])[None]
    return method.predictions(model.bind(params), batch, anchors, jax.random.key(0), greedy=True)


def naive(method, model, params, prompt, count, forbidden=(12,)):
    """Run the whole growing text again for every token: (tokens, thoughts, weights, log-probs base and mixed)."""
    text, found = list(prompt), []
    for _ in range(count):
        row = jnp.asarray([text + [0] * (16 - len(text))], jnp.int32)
        real = jnp.arange(16)[None] < len(text)
        batch = Batch(row, real, real.astype(jnp.int32), jnp.arange(16)[None])
        inner, seen = all_predictions(method, model, params, batch)
        last = len(text) - 1
        mixed = np.array(seen.mixed[0, 0, last])
        token = int(np.argmax(np.where(np.isin(np.arange(13), forbidden), -np.inf, mixed)))
        thought = None if inner.tokens is None else np.asarray(inner.tokens[0, 0, last])
        found.append((token, thought, seen.weight[0, 0, last], seen.base[0, last, token], mixed[token]))
        text.append(token)
    tokens, thoughts, *numbers = zip(*found, strict=True)
    return np.array(tokens), thoughts, *map(np.array, numbers)


@pytest.mark.parametrize("mix", ["logprobs", "hidden"])
def test_writing_with_a_cache_equals_running_the_growing_text_again_for_every_token(x64, mix):
    method = dataclasses.replace(THINKING, mix=mix)
    model, params = thinker()
    found = generate(method, model, params, PROMPTS, jax.random.key(0), max_new_tokens=6)
    for row, prompt in enumerate(PROMPTS):
        tokens, thoughts, weight, base, mixed = naive(method, model, params, prompt, 6)
        np.testing.assert_array_equal(found.tokens[row], tokens)
        np.testing.assert_array_equal(found.effect.thoughts[row, :, 0], thoughts)
        np.testing.assert_allclose(found.effect.weight[row, :, 0], weight, rtol=0, atol=1e-12)
        np.testing.assert_allclose(found.effect.base[row], base, rtol=0, atol=1e-12)
        np.testing.assert_allclose(found.effect.mixed[row, :, 0], mixed, rtol=0, atol=1e-12)
        np.testing.assert_allclose(found.logprobs[row], mixed, rtol=0, atol=1e-12)
    assert len({tuple(row) for row in np.asarray(found.tokens)}) == 3
