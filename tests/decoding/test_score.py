import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
import tolerances
from tolerances import rounding

from qstar.data import tokenizer as tokenizers
from qstar.decoding import score
from qstar.decoding.generate import generate
from qstar.decoding.sampling import Sampling
from qstar.methods.plain_lm import PlainLM
from qstar.methods.protocol import Models
from qstar.structs import Batch

TOKENIZER = tokenizers.characters("abcdefghijklm")
# Several widths, heads and depths; a wide vocabulary; longer texts than the tiny model has elsewhere.
SHAPES = {
    "tiny": tiny.LM,
    "deep": dataclasses.replace(tiny.LM, layers=6, max_len=256),
    "wide": dataclasses.replace(tiny.LM, width=96, heads=6, kv_heads=3, head_size=16, ff=160, max_len=256),
    "vocabulary": dataclasses.replace(tiny.LM, vocab=3001, tied=True, max_len=256),
}


@pytest.mark.parametrize("prompts", [[[3, 7, 1], [5]], [list(range(12)) * 2, [1] * 20]], ids=["short", "long"])
def test_scores_are_the_bits_of_the_training_loss(prompts):
    model, params = tiny.lm_of()
    written = [[4, 8, 11, 2], [9, 9, 3]]
    texts = [prompt + text for prompt, text in zip(prompts, written, strict=True)]
    rows = np.zeros((2, 32), np.int32)
    targets = np.zeros((2, 32), bool)
    for row, (prompt, text) in enumerate(zip(prompts, texts, strict=True)):
        rows[row, : len(text)], targets[row, len(prompt) : len(text)] = text, True
    real = np.array([np.arange(32) < len(text) for text in texts])
    position = np.where(real, np.arange(32)[None], 0)
    found = score.score(model, params, prompts, written, batch_size=2)
    for row in range(2):  # the loss of one row is the mean of its log-probs
        batch = Batch(rows, targets & (np.arange(2) == row)[:, None], real.astype(np.int32), position)
        loss, _ = jax.jit(lambda params, batch: PlainLM().loss(Models(model.bind(params)), batch, jax.random.key(0)))(
            params, jax.tree.map(jnp.asarray, batch)
        )
        assert found[row].shape == (len(written[row]),)
        assert float(loss) == pytest.approx(-found[row].mean(dtype=np.float64), rel=rounding(len(written[row]) + 1))


# A product of one row and of many rows sums in another order, and so does a softmax over prompt and own keys apart,
# which may lose `forward` in float32. In float64 it is as much less as rounding is (test_decoding.py).
@pytest.mark.parametrize(
    "shape", ["tiny", "deep", *(pytest.param(name, marks=pytest.mark.slow) for name in ("wide", "vocabulary"))]
)
def test_log_probs_of_the_sampler_are_those_of_the_trainer_up_to_the_order_of_sums(shape):
    cfg = SHAPES[shape]
    model, params = tiny.lm_of(cfg)
    sampling = Sampling(temperature=1.0, max_new_tokens=min(cfg.max_len - 40, 120))
    prompts = [[1, 2, 3], [5] * 33, [4]]
    found = generate(model, params, TOKENIZER, prompts, jax.random.key(1), sampling, samples=2, batch_size=2)
    scored = score.score(model, params, found.prompts, found.tokens, batch_size=2)
    sampler, trainer = np.concatenate(found.logprobs), np.concatenate(scored)
    assert np.abs(sampler - trainer).max() <= tolerances.forward(cfg)
    metrics = score.mismatch(jnp.asarray(sampler), jnp.asarray(trainer), jnp.ones(sampler.shape, bool))
    assert 0 <= metrics["mismatch"].value() <= metrics["mismatch_max"].value() <= tolerances.forward(cfg)


def test_weights_that_were_changed_since_are_seen_in_the_mismatch():
    model, params = tiny.lm_of()
    found = generate(model, params, TOKENIZER, [[1, 2]], jax.random.key(1), Sampling(max_new_tokens=20), samples=40)
    moved = jax.tree.map(lambda leaf: leaf * 1.05, params)
    scored = score.score(model, moved, found.prompts, found.tokens)
    sampler, trainer = (jnp.asarray(np.stack(one)) for one in (found.logprobs, scored))
    metrics = {name: mean.value() for name, mean in score.mismatch(sampler, trainer, sampler < 0).items()}
    # Exactly: the divergence at every position, over the whole vocabulary.
    exact = divergence(model, params, moved, found)
    by_token = {"k1": sampler - trainer, "k3": jnp.exp(trainer - sampler) - 1 + sampler - trainer}
    for name, estimate in by_token.items():
        assert metrics[f"mismatch_{name}"] == pytest.approx(exact.mean(), abs=tolerances.mean(estimate - exact))
    assert metrics["mismatch"] > 0.03


def divergence(model, params, moved, found):
    """KL(params | moved) at the positions that were written."""
    total = []
    for prompt, written in zip(found.prompts, found.tokens, strict=True):
        row = jnp.asarray([[*prompt, *written]])
        batch = Batch(row, row >= 0, jnp.ones_like(row), jnp.arange(row.shape[1])[None])
        first, second = (logprobs(model, one, batch)[0, len(prompt) - 1 : -1] for one in (params, moved))
        total.append(jnp.sum(jnp.exp(first) * (first - second), -1))
    return np.array(total)


@functools.partial(jax.jit, static_argnums=0)
def logprobs(model, params, batch):
    lm = model.bind(params)
    return jax.nn.log_softmax(lm.logits(lm.text(batch).hidden))


def test_mismatch_by_hand_counts_only_what_is_masked():
    sampler, trainer = jnp.array([[-1.0, -2.0, -3.0]]), jnp.array([[-1.5, -1.0, -9.0]])
    found = score.mismatch(sampler, trainer, jnp.array([[True, True, False]]))
    assert found["mismatch"].value() == 0.75
    assert found["mismatch_max"].value() == 1.0
    assert found["mismatch_k1"].value() == -0.25  # (0.5 - 1) / 2
    expected = ((np.exp(-0.5) - 1 + 0.5) + (np.exp(1.0) - 1 - 1)) / 2
    assert found["mismatch_k3"].value() == pytest.approx(expected, rel=rounding(6))
    assert float(found["mismatch"].count) == 2


@pytest.mark.parametrize(
    ("prompts", "written", "message"),
    [
        ([[1]], [[2], [3]], "1 prompts for 2 texts"),
        ([[]], [[2]], "text 0 has no tokens"),
        ([[1]], [[13]], "token id 13, the model knows 0 to 12"),
        ([[1] * 60], [[2] * 5], "65 tokens, the model was built for 64"),
    ],
)
def test_what_cannot_be_scored_is_refused_by_name(prompts, written, message):
    model, params = tiny.lm_of()
    with pytest.raises(ValueError, match=message):
        score.score(model, params, prompts, written)


def test_logits_of_whole_texts_are_those_of_the_prefixes():
    model, params = tiny.lm_of()
    tokens = np.array([[3, 7, 1, 4], [5, 2, 2, 8]])
    whole = score.logits(model, params, tokens)
    assert whole.shape[:2] == (2, 4)
    bound = tolerances.forward(tiny.LM, keys=4)
    for end in (1, 3):
        np.testing.assert_allclose(score.logits(model, params, tokens[:, :end]), whole[:, :end], rtol=0, atol=bound)
    assert np.abs(whole[0] - whole[1]).max() > 0.1  # and they are not all the same
