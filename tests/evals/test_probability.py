import dataclasses
import math

import asked
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
import tolerances
from tolerances import rounding

from qstar.data import tokenizer
from qstar.evals import probability
from qstar.evals.probability import Direct
from qstar.methods.plain_lm import PlainLM
from qstar.policy import Policy
from qstar.tasks import gsm8k
from qstar.tasks.items import Item

VALID = (1, 3, 5)
LETTERS = tokenizer.characters("abcdefghij")


def item(id: str, ids: tuple[int, ...], anchors: tuple[int, ...], valid: tuple[int, ...] = VALID, cut: int = 0) -> Item:
    targets = tuple(ids[i + 1] for i in anchors)
    return Item("text", ids, anchors[0] + 1, anchors, targets, valid, f"gold {id}", cut, id, f"question {id}")


FIRST = item("first", (7, 8, 9, 3, 1), anchors=(2, 3))
SECOND = item("second", (6, 9, 5, 3, 9, 1), anchors=(1, 2, 4), cut=4)
# Probabilities of the tokens 1, 3, 5 under the whole vocabulary, by the row's first token and the anchor.
TABLE = asked.table({
    (7, 2): {1: 0.1, 3: 0.2, 5: 0.1},  # true token 3: 0.2 / 0.4 = 0.5
    (7, 3): {1: 0.3, 3: 0.05, 5: 0.15},  # true token 1: 0.3 / 0.5 = 0.6
    (6, 1): {1: 0.2, 3: 0.4, 5: 0.2},  # true token 5: 0.2 / 0.8 = 0.25, and 3 is more probable
    (6, 2): {1: 0.05, 3: 0.4, 5: 0.05},  # true token 3: 0.8
    (6, 4): {1: 0.3, 3: 0.2, 5: 0.1},  # true token 1: 0.5
})  # fmt: skip
PLAIN = asked.subject(asked.Table(), TABLE, LETTERS)


def rows_of(measure, subject=PLAIN, ways=("none",), key=0):
    found = [row for index in measure.batches() for row in measure.ask(subject, ways, index, jax.random.key(key))]
    return sorted(found, key=lambda row: [one.id for one in measure.items].index(row["item"]))


def test_the_score_is_the_product_of_renormalised_probabilities_newline_included():
    measure = Direct("task", (FIRST, SECOND), batch_size=2)
    first, second = rows_of(measure)
    assert [first["score"], second["score"]] == pytest.approx([0.5 * 0.6, 0.25 * 0.8 * 0.5], rel=rounding(10))
    assert (first["exact"], second["exact"]) == (True, False)
    expected = [math.log(0.2 * 0.3), math.log(0.2 * 0.4 * 0.3)]
    assert [first["loglik"], second["loglik"]] == pytest.approx(expected, rel=rounding(10))
    assert (first["item"], first["thoughts"], first["draw"]) == ("first", "none", 0)
    assert (first["question"], first["answer"], first["weight"], first["thought"]) == (
        "question first", "gold first", 0.0, "",
    )  # fmt: skip
    assert (first["cut"], second["cut"]) == (0, 4)
    # The likeliest valid tokens: 3 and 1 behind the first item, 3, 3 and 1 behind the second; letters count from a.
    assert (first["prediction"], second["prediction"]) == ("db", "ddb")


def test_figures_are_shares_and_means_with_their_intervals():
    measure = Direct("task", (FIRST, SECOND), batch_size=2)
    figures = measure.figures(rows_of(measure))
    assert list(figures) == ["accuracy", "probability", "nll"]
    assert dataclasses.astuple(figures["accuracy"]) == pytest.approx((0.5, 0.0945, 0.9055), abs=5e-5)  # Wilson
    # Means of two draws of two items: 0.1, 0.2 or 0.3.
    assert dataclasses.astuple(figures["probability"]) == pytest.approx((0.2, 0.1, 0.3), rel=rounding(10))
    low, high = -math.log(0.2 * 0.3), -math.log(0.2 * 0.4 * 0.3)
    assert dataclasses.astuple(figures["nll"]) == pytest.approx(((low + high) / 2, low, high), rel=rounding(10))


def test_order_and_batch_size_do_not_change_an_item_s_row():
    short = dataclasses.replace(FIRST, id="again")
    wide = item("wide", (7, 8, 9, *[2] * 40, 3), anchors=(42,))
    for batch_size in (1, 2, 3, 8):
        measure = Direct("task", (SECOND, wide, FIRST, short), batch_size)
        assert sorted(i for batch in measure.batches() for i in batch) == [0, 1, 2, 3]
        params = {"table": TABLE["table"].at[7, 42, jnp.array(VALID)].set(jnp.array([0.1, 0.3, 0.1]))}
        found = [row["score"] for row in rows_of(measure, dataclasses.replace(PLAIN, params=params))]
        assert found == pytest.approx([0.1, 0.6, 0.3, 0.3], rel=rounding(10))


def naive_score(logprobs_SV: np.ndarray, text: str, letters: tokenizer.Tokenizer, valid: str) -> float:
    """The paper's procedure, one token at a time: everything behind the last "A:", filtered and renormalised."""
    start = text.rindex("\nA:") + 3
    score = 1.0
    for place in range(start, len(text)):
        if text[place] not in valid:
            continue
        weights = {char: math.exp(logprobs_SV[place - 1][letters.id_of(char)]) for char in valid}
        score *= weights[text[place]] / sum(weights.values())
    return score


def test_scores_of_a_model_equal_the_naive_procedure():
    letters = tokenizer.characters("\n 0123456789QA:?abc,")
    rows = [{"question": "ab1?", "answer": "#### 42"}, {"question": "c?", "answer": "#### 1,305"}]
    items = gsm8k.direct(rows, letters)
    model, params = tiny.lm_of(dataclasses.replace(tiny.LM, vocab=letters.size))
    found = rows_of(Direct("gsm8k", tuple(items), 2), Policy(PlainLM(), model, params, letters))
    for one, row in zip(items, found, strict=True):
        batch = tiny.batch([one.ids], [[1] * len(one.ids)])
        logprobs = jax.nn.log_softmax(model.bind(params).logits(model.bind(params).text(batch).hidden))
        expected = naive_score(np.asarray(logprobs, np.float64)[0], one.text, letters, "\n0123456789")
        # Another shape of the batch; a product of a probability, renormalised, for every token.
        bound = 2 * len(one.anchors) * tolerances.forward(tiny.LM)
        assert row["score"] == pytest.approx(expected, rel=bound)
    assert len({row["score"] for row in found}) == 2


def test_several_draws_give_a_row_each_and_figures_over_items():
    measure = Direct("cups", (item("a", (15, 1), (0,), (0, 1, 2)), item("b", (15, 2), (0,), (0, 1, 2))), 2, draws=3)
    found = rows_of(measure, asked.subject(), ("none", "greedy", "sampled"))
    assert [(row["item"], row["thoughts"], row["draw"]) for row in found] == [
        (id, way, draw)
        for id in "ab"
        for way, draw in (("none", 0), ("greedy", 0), ("sampled", 0), ("sampled", 1), ("sampled", 2))
    ]
    assert [row["weight"] for row in found[:3]] == [0.0, 0.25, 0.25]
    assert [row["thought"] for row in found[:3]] == ["", "45", "45"]  # tokens 3 and 4 of the cups alphabet
    sampled = [row for row in found if row["thoughts"] == "sampled"]
    assert len({row["score"] for row in sampled}) == 6
    figure = measure.figures(sampled)["probability"]
    assert figure.value == pytest.approx(np.mean([row["score"] for row in sampled]))
    # Two items: a bootstrap of their means cannot leave them.
    means = [np.mean([row["score"] for row in sampled if row["item"] == id]) for id in "ab"]
    assert (figure.low, figure.high) == pytest.approx((min(means), max(means)))


def test_a_guess_ends_at_its_first_newline():
    letters = tokenizer.characters("\n 0123456789QA:")
    one = gsm8k.direct([{"question": "A", "answer": "#### 12"}], letters)[0]
    entries = {
        (letters.id_of("Q"), anchor): {letters.id_of(guess): 0.9}
        for anchor, guess in zip(one.anchors, "5\n7", strict=True)
    }
    (row,) = rows_of(
        Direct("gsm8k", (one,), 1), asked.subject(asked.Table(), asked.table(entries, letters.size), letters)
    )
    assert (row["prediction"], row["answer"], row["exact"]) == ("5", "12", False)


def test_the_score_of_a_certain_model_is_one():
    logprobs = np.log(np.array([[[0.5, 1e-300, 1e-300], [1e-300, 0.5, 1e-300]]]))
    found = probability.score(logprobs, np.array([0, 1]))
    assert (found.score[0], found.exact[0]) == (1.0, True)
    assert found.loglik[0] == pytest.approx(2 * math.log(0.5))


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ((), "task: no items"),
        ((FIRST, item("third", (7, 8, 9, 3, 1), (2, 3), valid=(1, 3))), "task: items of 2 different valid sets"),
        ((Item("Q: ?\nA: x\n", (7, 8), 1, (), (), VALID, "x", 0),), "no token to score"),
    ],
)
def test_what_cannot_be_scored_is_refused(items, message):
    with pytest.raises(ValueError, match=message):
        Direct("task", items, 1)


def test_a_model_that_has_diverged_is_refused():
    broken = dataclasses.replace(PLAIN, params={"table": TABLE["table"] * jnp.nan})
    with pytest.raises(ValueError, match="not a number: the model's parameters have diverged"):
        rows_of(Direct("task", (FIRST,), 1), broken)
