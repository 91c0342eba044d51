import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qstar.data import tokenizer
from qstar.evals import probability
from qstar.tasks import gsm8k
from qstar.tasks.items import Item

VALID = (1, 3, 5)


def item(ids: tuple[int, ...], anchors: tuple[int, ...], valid: tuple[int, ...] = VALID, cut: int = 0) -> Item:
    return Item("text", ids, anchors[0] + 1, anchors, tuple(ids[i + 1] for i in anchors), valid, "gold", cut)


FIRST = item((7, 8, 9, 3, 1), anchors=(2, 3))
SECOND = item((6, 9, 5, 3, 9, 1), anchors=(1, 2, 4), cut=4)
# Probabilities of the tokens 1, 3, 5 under the whole vocabulary, by the row's first token and the anchor.
TABLE = {
    (7, 2): [0.1, 0.2, 0.1],  # true token 3: 0.2 / 0.4 = 0.5
    (7, 3): [0.3, 0.05, 0.15],  # true token 1: 0.3 / 0.5 = 0.6
    (6, 1): [0.2, 0.4, 0.2],  # true token 5: 0.2 / 0.8 = 0.25, and 3 is more probable
    (6, 2): [0.05, 0.4, 0.05],  # true token 3: 0.8
    (6, 4): [0.3, 0.2, 0.1],  # true token 1: 0.5
}


def from_table(batch, anchors, candidates):
    assert candidates.tolist() == [1, 3, 5]
    rows = [[TABLE[int(row[0]), int(a)] for a in where] for row, where in zip(batch.tokens, anchors, strict=True)]
    return np.log(np.asarray(rows))


def test_the_score_is_the_product_of_renormalised_probabilities_newline_included():
    scores = probability.evaluate([FIRST, SECOND], from_table, batch_size=2, pad_id=0, buckets=(8,))
    np.testing.assert_allclose(scores.score, [0.5 * 0.6, 0.25 * 0.8 * 0.5], rtol=1e-12)
    assert scores.exact.tolist() == [True, False]
    np.testing.assert_allclose(scores.loglik, [math.log(0.2 * 0.3), math.log(0.2 * 0.4 * 0.3)], rtol=1e-12)
    assert scores.mean == pytest.approx(0.2, rel=1e-12)
    assert (scores.accuracy, scores.n, scores.cut) == (0.5, 2, 1)
    assert scores.accuracy_interval == pytest.approx((0.0945, 0.9055), abs=5e-5)
    assert scores.mean_interval == pytest.approx((0.1, 0.3), rel=1e-12)  # means of two draws: 0.1, 0.2, 0.3


def test_order_buckets_and_batch_size_do_not_change_the_result():
    many = [SECOND, FIRST, SECOND, SECOND, FIRST]
    for batch_size, buckets in ((1, (5, 6)), (2, (5, 6)), (4, (6,)), (8, (5, 64))):
        scores = probability.evaluate(many, from_table, batch_size, pad_id=0, buckets=buckets)
        np.testing.assert_allclose(scores.score, [0.1, 0.3, 0.1, 0.1, 0.3], rtol=1e-12)
        assert scores.exact.tolist() == [False, True, False, False, True]


def naive_score(logits_SV: np.ndarray, text: str, letters: tokenizer.Tokenizer, valid: str) -> float:
    """The paper's procedure, one token at a time: everything behind the last "A:", filtered and renormalised."""
    start = text.rindex("\nA:") + 3
    score = 1.0
    for place in range(start, len(text)):
        if text[place] not in valid:
            continue
        weights = {char: math.exp(logits_SV[place - 1][letters.id_of(char)]) for char in valid}
        score *= weights[text[place]] / sum(weights.values())
    return score


def test_scores_of_random_predictions_equal_the_naive_procedure():
    letters = tokenizer.characters("\n 0123456789QA:?abc,")
    rows = [{"question": "ab1?", "answer": "#### 42"}, {"question": "c?", "answer": "#### 1,305"}]
    items = gsm8k.direct(rows, letters)
    logits_BSV = np.random.default_rng(0).normal(size=(2, 32, letters.size)) * 3

    def predict(batch, anchors, candidates):
        logprobs = jax.nn.log_softmax(jnp.asarray(logits_BSV), axis=-1)
        return logprobs[jnp.arange(2)[:, None, None], anchors[:, :, None], candidates[None, None, :]]

    scores = probability.evaluate(items, predict, batch_size=2, pad_id=0, buckets=(32,))
    expected = [naive_score(logits_BSV[i], items[i].text, letters, "\n0123456789") for i in range(2)]
    np.testing.assert_allclose(scores.score, expected, rtol=1e-4)  # float32 log-softmax of logits near 10


def test_batches_have_one_shape_per_bucket_and_padding_belongs_to_no_document():
    seen = []

    @jax.jit
    def uniform(batch, anchors, candidates):
        seen.append((batch.tokens.shape, anchors.shape))
        return jnp.zeros((*anchors.shape, candidates.shape[0])) - jnp.log(20.0)

    long = item((9, *[2] * 10, 1), anchors=(10,))
    scores = probability.evaluate([FIRST, SECOND, FIRST, long, FIRST, SECOND], uniform, 2, pad_id=0, buckets=(8, 16))
    assert seen == [((2, 8), (2, 3)), ((2, 16), (2, 3))]
    np.testing.assert_allclose(scores.score, [1 / 9, 1 / 27, 1 / 9, 1 / 3, 1 / 9, 1 / 27], rtol=1e-6)


def test_rows_are_padded_with_segment_zero():
    def check(batch, anchors, candidates):
        np.testing.assert_array_equal(batch.tokens, [[7, 8, 9, 3, 1, 44, 44, 44]])
        np.testing.assert_array_equal(batch.mask, [[True] * 5 + [False] * 3])
        np.testing.assert_array_equal(batch.segment, [[1] * 5 + [0] * 3])
        np.testing.assert_array_equal(batch.position, [[0, 1, 2, 3, 4, 0, 0, 0]])
        np.testing.assert_array_equal(anchors, [[2, 3]])
        return from_table(batch, anchors, candidates)

    assert probability.evaluate([FIRST], check, 1, pad_id=44, buckets=(8,)).n == 1


def test_progress_counts_every_item_once_and_no_padding():
    def calls(buckets):
        seen = []
        probability.evaluate([FIRST, SECOND, FIRST], from_table, 2, 0, buckets, progress=lambda *a: seen.append(a))
        return seen

    assert calls((8,)) == [(2, 3), (3, 3)]
    assert calls((5, 6)) == [(2, 3), (3, 3)]
    assert calls((8, 16)) == [(2, 3), (3, 3)]


def test_what_is_predicted_at_padded_anchors_does_not_matter():
    def wrong_in_the_third_slot(batch, anchors, candidates):
        logprobs = from_table(batch, anchors, candidates)
        logprobs[batch.tokens[:, 0] == 7, 2] = np.log([0.01, 0.01, 0.98])  # the first item has two scored tokens
        return logprobs

    scores = probability.evaluate([FIRST, SECOND], wrong_in_the_third_slot, batch_size=2, pad_id=0, buckets=(8,))
    np.testing.assert_allclose(scores.score, [0.3, 0.1], rtol=1e-12)
    assert scores.exact.tolist() == [True, False]


def test_what_cannot_be_scored_is_refused():
    def run(items, predict=from_table, buckets=(8,)):
        return probability.evaluate(items, predict, 1, pad_id=0, buckets=buckets)

    with pytest.raises(ValueError, match="no items"):
        run([])
    with pytest.raises(ValueError, match="2 different valid sets"):
        run([FIRST, item((7, 8, 9, 3, 1), (2, 3), valid=(1, 3))])
    with pytest.raises(ValueError, match="no token to score"):
        run([Item("Q: ?\nA: x\n", (7, 8), 1, (), (), VALID, "x", 0)])
    with pytest.raises(ValueError, match="an item has 5 tokens, the widest bucket 4"):
        run([FIRST], buckets=(4,))
    with pytest.raises(ValueError, match="not a number"):
        run([FIRST], predict=lambda batch, anchors, candidates: np.full((1, 2, 3), np.nan))
