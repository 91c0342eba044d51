"""One pass over the text answers in every way, and a text's thoughts are its own."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import tiny
import tolerances

from qstar.evals import predictions
from qstar.evals.predictions import Query
from qstar.methods.plain_lm import PlainLM
from qstar.methods.quiet_star import QuietStar
from qstar.policy import Policy

METHOD = QuietStar(thought_len=3, lookahead=2, mix="hidden")
MODEL, PARAMS = tiny.thinker_of()
SUBJECT = Policy(METHOD, MODEL, PARAMS, None)
TEXTS = ([3, 7, 1, 9, 4], [5, 2, 10, 6, 1, 7, 8], [1, 2, 3, 4])
QUERIES = [Query(TEXTS[0], (1, 3), [[1, 2], [4, 0]]), Query(TEXTS[1], (5,), [[7, 3]]), Query(TEXTS[2], (0,), [[2, 12]])]
ALL = ("none", "greedy", "sampled")


def keys(*numbers):
    return jax.vmap(lambda number: jax.random.fold_in(jax.random.key(7), number))(jnp.array(numbers))


def ask(queries=QUERIES, ways=ALL, numbers=(0, 1, 2), subject=SUBJECT, batch_size=4, draws=2):
    return predictions.ask(subject, ways, queries, keys(*numbers), batch_size=batch_size, anchors=2, draws=draws)


def test_labels_and_rows_follow_one_order():
    labels = [("none", 0), ("greedy", 0), ("sampled", 0), ("sampled", 1)]
    assert predictions.labels(("sampled", "greedy", "none"), draws=2) == labels
    found = ask()
    assert found.logprobs.shape == (3, 4, 2, 2)
    assert found.weight.shape == (3, 4, 2)
    assert found.thoughts.shape == (3, 4, 2, 3)
    np.testing.assert_array_equal(found.weight[:, 0], 0)
    np.testing.assert_array_equal(found.thoughts[:, 0], -1)
    assert (found.thoughts[:, 1:] >= 0).all() and (found.weight[:, 1:] != 0).all()


@jax.jit
def predicted(batch, anchors):
    """Without a thought and with one."""
    thinker = MODEL.bind(PARAMS)
    found = METHOD.think(thinker, tiny.context(thinker, batch, anchors), jax.random.key(0), greedy=True)[1]
    return found.base[0], found.mixed[0, 0]


def test_answers_are_those_of_the_method_for_a_single_text():
    found = ask().logprobs
    for row, query in enumerate(QUERIES):
        padding = [0] * (8 - len(query.ids))
        batch = tiny.batch([[*query.ids, *padding]], [[1] * len(query.ids) + padding])
        anchors = jnp.array([[query.anchors[0], query.anchors[-1]]])
        for way, whole in enumerate(predicted(batch, anchors)):
            for anchor, candidates in enumerate(query.candidates):
                np.testing.assert_allclose(
                    found[row, way, anchor],
                    whole[anchor, jnp.array(candidates)],
                    rtol=0,
                    atol=tolerances.forward(tiny.LM),
                )


def test_ways_asked_together_answer_as_when_asked_apart():
    together = ask()
    for way, places in (("none", [0]), ("greedy", [1]), ("sampled", [2, 3])):
        apart = ask(ways=(way,))
        np.testing.assert_allclose(
            together.logprobs[:, places], apart.logprobs, rtol=0, atol=tolerances.forward(tiny.LM)
        )
        if way != "none":
            np.testing.assert_array_equal(together.thoughts[:, places], apart.thoughts)


def test_sampled_thoughts_of_a_text_depend_on_its_key_and_on_nothing_beside_it():
    found = ask()
    alone = ask(QUERIES[1:2], numbers=(1,), batch_size=1)
    np.testing.assert_array_equal(alone.thoughts[0], found.thoughts[1])
    np.testing.assert_allclose(alone.logprobs[0], found.logprobs[1], rtol=0, atol=tolerances.forward(tiny.LM))
    other = ask(numbers=(2, 0, 1))
    np.testing.assert_array_equal(other.thoughts[:, :2], found.thoughts[:, :2])
    assert (other.thoughts[:, 2:] != found.thoughts[:, 2:]).any(axis=(1, 2, 3)).all()
    assert (found.thoughts[:, 2] != found.thoughts[:, 3]).any(axis=(1, 2)).all()


def test_shuffled_thoughts_are_dealt_among_the_texts_of_a_batch():
    shuffled = dataclasses.replace(SUBJECT, method=dataclasses.replace(METHOD, fill="shuffled"))
    for way in ("greedy", "sampled"):
        sampled, dealt = (ask(ways=(way,), subject=who).thoughts.reshape(-1, 3) for who in (SUBJECT, shuffled))
        if way == "greedy":  # the same thoughts, elsewhere; two of the eight that were dealt are of the padded row
            assert {*map(tuple, dealt.tolist())} <= {*map(tuple, sampled.tolist())}
        assert (sampled != dealt).any()


def test_pauses_have_no_tokens():
    method = QuietStar(thought_len=3, lookahead=2, mix="hidden", fill="pause")
    model, params = tiny.thinker_of(pause=True)
    found = ask(subject=Policy(method, model, params, None))
    assert found.thoughts.shape == (3, 4, 2, 0)
    assert (found.weight[:, 1:] != 0).all()


def test_a_method_that_does_not_think_gives_its_prediction():
    model, params = tiny.lm_of()
    found = ask(subject=Policy(PlainLM(), model, params, None), ways=("none",))
    assert (found.logprobs.shape, found.thoughts.shape) == ((3, 1, 2, 2), (3, 1, 2, 0))
    batch = tiny.batch([TEXTS[2]], [[1] * 4])
    whole = jax.nn.log_softmax(model.bind(params).logits(model.bind(params).text(batch).hidden))
    np.testing.assert_allclose(
        found.logprobs[2, 0, 0], whole[0, 0, jnp.array([2, 12])], rtol=0, atol=tolerances.forward(tiny.LM)
    )


def test_the_text_is_read_once_and_one_program_serves_a_width(monkeypatch):
    read, reads = type(MODEL.bind(PARAMS).lm).text, []

    def counted(self, batch):
        reads.append(batch.tokens.shape)
        return read(self, batch)

    monkeypatch.setattr(type(MODEL.bind(PARAMS).lm), "text", counted)
    fresh = dataclasses.replace(SUBJECT, method=dataclasses.replace(METHOD, thought_len=1))
    ask(subject=fresh)
    ask(QUERIES[:1], numbers=(5,), subject=fresh)
    assert reads == [(4, 32)]
    ask([Query([1] * 40, (38,), [[1, 2]])], ways=("none",), numbers=(0,), subject=fresh)
    assert reads == [(4, 32), (4, 64)]


def test_batches_hold_texts_of_one_width():
    assert predictions.partition([5, 40, 32, 33, 7, 64, 65], batch_size=2) == [[0, 2], [4], [1, 3], [5], [6]]
