"""Answers chosen by the likelihood of their texts."""

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
from qstar.evals.choices import ChoiceTexts
from qstar.methods.plain_lm import PlainLM
from qstar.methods.quiet_star import QuietStar
from qstar.policy import Policy
from qstar.tasks import commonsense_qa
from qstar.tasks.items import Choices

LETTERS = tokenizer.characters("\n QA:abcdefgh")
# Token 8 begins the texts, 9 ends the question; "xy" is the tokens 1 2, "z" the token 3.
ITEM = Choices("one", "which?", ("xy", "z"), 0, ((8, 9, 1, 2), (8, 9, 3)), ((1, 2), (1,)))
# x 0.5, then y 0.4: 0.2 for both, 0.447 a byte; z 0.3.
TABLE = {(8, 1): {1: 0.5, 3: 0.3}, (8, 2): {2: 0.4}}


def rows_of(items, subject, batch_size=8, ways=("none",), draws=1):
    measure = ChoiceTexts("task", tuple(items), batch_size, draws)
    found = [row for index in measure.batches() for row in measure.ask(subject, ways, index, jax.random.key(0))]
    return measure, found


def test_sums_favour_short_answers_and_sums_by_length_do_not():
    measure, (row,) = rows_of([ITEM], asked.subject(asked.Table(), asked.table(TABLE), LETTERS))
    assert row["logliks"] == pytest.approx([math.log(0.5 * 0.4), math.log(0.3)], rel=rounding(10))
    assert (row["prediction"], row["exact"]) == ("z", False)
    assert (row["prediction_per_byte"], row["exact_per_byte"]) == ("xy", True)
    assert row["score"] == pytest.approx(0.2 / 0.5, rel=rounding(10))
    assert (row["question"], row["answer"], row["item"]) == ("which?", "xy", "one")
    figures = measure.figures([row])
    assert {name: figure.value for name, figure in figures.items()} == {
        "accuracy": 0.0, "accuracy_per_byte": 1.0, "probability": pytest.approx(0.4, rel=rounding(10)),
    }  # fmt: skip


def test_length_is_counted_in_bytes_not_characters():
    # Both answers have two characters; the second has four bytes.
    item = dataclasses.replace(ITEM, choices=("xy", "éé"))
    _, (row,) = rows_of(
        [item], asked.subject(asked.Table(), asked.table({**TABLE, (8, 1): {1: 0.5, 3: 0.05}}), LETTERS)
    )
    # log 0.2 / 2 = -0.80, log 0.05 / 4 = -0.75
    assert (row["prediction"], row["prediction_per_byte"]) == ("xy", "éé")


def test_commonsense_qa_texts_have_each_choice_after_the_question_unlisted():
    row = {"id": "dev-3", "question": "bag:", "choices": ["a", "bc", "d", "e", "fg h"], "answer": "B"}
    (item,) = commonsense_qa.texts([row], LETTERS)
    assert [LETTERS.decode(ids) for ids in item.ids] == [
        "Q: bag:\nA: a", "Q: bag:\nA: bc", "Q: bag:\nA: d", "Q: bag:\nA: e", "Q: bag:\nA: fg h",
    ]  # fmt: skip
    assert (item.id, item.question, item.gold, item.choices[item.gold]) == ("dev-3", "bag:", 1, "bc")
    answers = [LETTERS.decode([ids[a + 1] for a in at]) for ids, at in zip(item.ids, item.anchors, strict=True)]
    assert answers == [" a", " bc", " d", " e", " fg h"]
    (cut,) = commonsense_qa.texts([row], LETTERS, limit=9)
    assert [LETTERS.decode(ids) for ids in cut.ids[:2]] == ["Q:g:\nA: a", "Q::\nA: bc"]


def test_a_choice_s_likelihood_is_the_sum_over_its_tokens_of_a_model():
    row = {"question": "bag", "choices": ["a", "bc", "d", "e", "fg h"], "answer": "E"}
    items = commonsense_qa.texts([row, row | {"answer": "A"}], LETTERS)
    model, params = tiny.lm_of(dataclasses.replace(tiny.LM, vocab=LETTERS.size))
    width = max(map(len, items[0].ids))
    padding = [[0] * (width - len(ids)) for ids in items[0].ids]
    texts = [[*ids, *more] for ids, more in zip(items[0].ids, padding, strict=True)]
    batch = tiny.batch(texts, [[1] * len(ids) + more for ids, more in zip(items[0].ids, padding, strict=True)])
    read = jax.jit(lambda: jax.nn.log_softmax(model.bind(params).logits(model.bind(params).text(batch).hidden)))
    logprobs = np.asarray(read(), np.float64)
    expected = [
        sum(logprobs[row, a, ids[a + 1]] for a in anchors)
        for row, (ids, anchors) in enumerate(zip(items[0].ids, items[0].anchors, strict=True))
    ]
    for batch_size in (3, 40):  # one question at once, both
        _, found = rows_of(items, Policy(PlainLM(), model, params, LETTERS), batch_size)
        bound = max(map(len, items[0].anchors)) * tolerances.forward(tiny.LM)  # a log-prob for every token
        assert found[0]["logliks"] == pytest.approx(expected, abs=bound)
        assert found[0]["logliks"] == pytest.approx(found[1]["logliks"], abs=bound)
        assert [one["answer"] for one in found] == ["fg h", "a"]


def test_choices_draw_thoughts_of_their_own():
    rows = [{"question": "bag", "choices": ["a", "bc", "d", "e", "fg h"], "answer": "E"}]
    model, params = tiny.thinker_of(dataclasses.replace(tiny.LM, vocab=LETTERS.size))
    method = QuietStar(thought_len=2, lookahead=2, mix="hidden")
    subject = Policy(method, model, jax.tree.map(jnp.asarray, params), LETTERS)
    _, found = rows_of(commonsense_qa.texts(rows, LETTERS), subject, ways=("none", "sampled"), draws=3)
    assert [(row["thoughts"], row["draw"]) for row in found] == [
        ("none", 0), ("sampled", 0), ("sampled", 1), ("sampled", 2),
    ]  # fmt: skip
    assert len({tuple(row["logliks"]) for row in found}) == 4
    assert found[0]["weight"] == 0 and all(row["weight"] != 0 for row in found[1:])
    assert np.isfinite([row["logliks"] for row in found]).all()


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(ValueError, match="task: no items"):
        ChoiceTexts("task", (), 1)
    with pytest.raises(ValueError, match="different numbers of choices"):
        ChoiceTexts("task", (ITEM, dataclasses.replace(ITEM, choices=("x", "y", "z"))), 1)
    with pytest.raises(ValueError, match=r"item one \('which\?'\) has a choice without text"):
        ChoiceTexts("task", (dataclasses.replace(ITEM, choices=("x", "")),), 1)
