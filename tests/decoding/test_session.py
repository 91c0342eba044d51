import dataclasses
import functools

import jax
import numpy as np
import pytest
import tiny
import tolerances
from hypothesis import given, settings
from hypothesis import strategies as st

from qstar.data import tokenizer as tokenizers
from qstar.decoding import score, stops
from qstar.decoding.generate import generate
from qstar.decoding.sampling import Sampling
from qstar.decoding.session import Session

TOKENIZER = tokenizers.characters("abcdefghijklm")
PROMPTS = [[3, 7, 1, 9, 4, 6, 0], [5], [(5 * s) % 12 for s in range(20)]]
SAMPLED = Sampling(temperature=1.3, max_new_tokens=24)
WINDOWED = dataclasses.replace(
    tiny.LM, window=5, global_layers=(1,), local_rope_theta=30.0, qkv_bias=True, qk_norm=True, tied=True
)


def session(sampling=SAMPLED, cfg=tiny.LM, prompts=PROMPTS, **options):
    return Session(*tiny.lm_of(cfg), TOKENIZER, prompts, sampling, **options)


@functools.cache
def opened(cfg, keep=2**30):
    """Sessions whose rows may be gone on from in any order: one for all examples of a property."""
    return session(cfg=cfg, keep=keep)


def keys(*seeds):
    return jax.vmap(jax.random.key)(np.array(seeds))


def alone(cfg, prompt, ids):
    return score.score(*tiny.lm_of(cfg), [PROMPTS[prompt]], [ids], batch_size=1)[0]


# --- what is written ----------------------------------------------------------------------------------------------


def test_whole_rows_are_those_of_generate():
    sampling = dataclasses.replace(SAMPLED, stop=("ba", "mh"))
    expected = generate(*tiny.lm_of(), TOKENIZER, PROMPTS, keys(*range(6)), sampling, samples=2, batch_size=3)
    writing = session(sampling)
    found = writing.write([writing.start(i // 2) for i in range(6)], keys(*range(6)))
    assert [list(step.ids) for step in found] == [row.tolist() for row in expected.tokens]
    assert [step.row.text for step in found] == expected.text
    assert [step.row.finished for step in found] == expected.finished.tolist()
    assert 0 < sum(expected.finished) < 6
    for name in ("logprobs", "behaviour", "margins"):
        pairs = zip([getattr(step, name) for step in found], getattr(expected, name), strict=True)
        for mine, others in pairs:
            np.testing.assert_allclose(mine, others, rtol=0, atol=tolerances.forward(tiny.LM))


@settings(max_examples=10, deadline=None)
@given(st.data())
@pytest.mark.parametrize(
    ("cfg", "keep"),
    [
        pytest.param(tiny.LM, 2**30, marks=pytest.mark.slow),
        (WINDOWED, 2**30),
        pytest.param(WINDOWED, 0, marks=pytest.mark.slow),  # what was let go is read again below
    ],
    ids=["llama", "windowed", "windowed_read_again"],
)
def test_logprobs_are_those_of_the_text_scored_from_scratch_after_any_forks(cfg, keep, data):
    writing = opened(cfg, keep)
    rows = [writing.start(prompt) for prompt in range(len(PROMPTS))]
    found = {}  # by row: log-probs of all its tokens
    for _ in range(data.draw(st.integers(1, 3))):
        chosen = data.draw(st.lists(st.integers(0, len(rows) - 1), min_size=1, max_size=4))
        chosen = [i for i in chosen if len(rows[i].ids) < SAMPLED.max_new_tokens]
        if not chosen:
            break
        seeds = [data.draw(st.integers(0, 99)) for _ in chosen]
        for i, step in zip(
            chosen, writing.write([rows[i] for i in chosen], keys(*seeds), delimiters=("c", "hb"), limit=7), strict=True
        ):
            found[len(rows)] = np.concatenate([found.get(i, []), step.logprobs])
            assert step.row.ids == (*rows[i].ids, *step.ids)
            rows.append(step.row)
    for number, logprobs in found.items():
        expected = alone(cfg, rows[number].prompt, rows[number].ids)
        np.testing.assert_allclose(logprobs, expected, rtol=0, atol=tolerances.forward(cfg))


def test_a_row_depends_on_its_key_and_on_no_other_row():
    writing = session()
    together = writing.write([writing.start(i) for i in (0, 1, 0, 2, 0)], keys(1, 2, 3, 4, 5), limit=9)
    for row, (prompt, seed) in enumerate([(0, 1), (1, 2), (0, 3), (2, 4), (0, 5)]):
        single = writing.write([writing.start(prompt)], keys(seed), limit=9)[0]
        assert single.ids == together[row].ids
    assert len({step.ids for step in together}) == 5


def test_a_given_row_continues_as_the_one_that_was_written():
    writing = session()
    first = writing.write([writing.start(2)], keys(3), limit=6)[0]
    given_row = writing.row(2, first.ids)
    assert (given_row.ids, given_row.text) == (first.row.ids, first.row.text)
    again = [writing.write([row], keys(8), limit=9)[0] for row in (first.row, given_row)]
    assert again[0].ids == again[1].ids
    np.testing.assert_allclose(again[0].logprobs, again[1].logprobs, rtol=0, atol=tolerances.forward(tiny.LM))


def test_what_is_shown_before_a_row_is_read_as_a_part_of_its_prompt():
    """A row after shown tokens, which hold the stop, is the row of a session whose prompt ends with them."""
    shown, sampling = [1, 0, 4], dataclasses.replace(SAMPLED, stop=("ba", "m"))
    longer = session(sampling, prompts=[[*PROMPTS[0], *shown]])
    expected = longer.write([longer.start(0)] * 4, keys(*range(4)))
    writing = session(dataclasses.replace(sampling, max_new_tokens=27))
    row = writing.row(0, shown, len(shown))
    assert (row.text, row.own) == ("", ())
    steps = writing.write([row] * 4, keys(*range(4)), limit=24)
    assert [(step.ids, step.text, step.row.text, step.row.finished) for step in steps] == [
        (step.ids, step.text, step.row.text, step.row.finished) for step in expected
    ]
    assert any(step.row.finished for step in steps) and max(len(step.ids) for step in steps) > 4
    for step, other in zip(steps, expected, strict=True):
        np.testing.assert_allclose(step.logprobs, other.logprobs, rtol=0, atol=tolerances.forward(tiny.LM))


def test_without_keys_rows_begin_with_the_likeliest_tokens_and_go_on_with_them():
    writing = session()
    steps = writing.write([writing.start(0)] * 3, None, ranks=[0, 1, 2], limit=4)
    logits = score.logits(*tiny.lm_of(), np.array([PROMPTS[0]]))[0, -1]
    assert [step.ids[0] for step in steps] == np.argsort(-logits)[:3].tolist()
    for step in steps:
        text = [*PROMPTS[0], *step.ids]
        following = score.logits(*tiny.lm_of(), np.array([text]))[0, len(PROMPTS[0]) : -1]
        assert list(step.ids[1:]) == following.argmax(-1).tolist()
        np.testing.assert_allclose(step.logprobs, alone(tiny.LM, 0, step.ids), rtol=0, atol=tolerances.forward(tiny.LM))
    probabilities = np.sort(np.exp(logits - np.logaddexp.reduce(logits)))
    bound = tolerances.forward(tiny.LM)
    for step in steps:  # the gap at a place does not depend on the token that was taken there
        np.testing.assert_allclose(step.gaps[0], probabilities[-1] - probabilities[-2], rtol=0, atol=bound)
        np.testing.assert_allclose(
            step.margins[0], np.log(probabilities[-1] / probabilities[-2]), rtol=0, atol=2 * bound
        )


# --- where a step ends --------------------------------------------------------------------------------------------


def test_a_step_ends_with_its_delimiter_and_the_next_continues_from_there():
    writing = session()
    row, texts = writing.start(0), []
    while len(row.ids) < SAMPLED.max_new_tokens:
        step = writing.write([row], keys(len(row.ids)), delimiters=("a", "c", "fk"))[0]
        assert step.text == "".join("abcdefghijklm"[id] for id in step.ids)
        assert step.ended == step.text.endswith(("a", "c", "fk"))
        assert not any(one in step.text[:-1] for one in ("a", "c", "fk"))
        row, texts = step.row, [*texts, step.text]
    assert "".join(texts) == row.text and len(texts) > 2
    assert not row.finished


def test_a_stop_that_began_in_the_step_before_ends_the_row():
    writing = session(dataclasses.replace(SAMPLED, stop=("aa",), forbidden_ids=tuple(range(1, 13))))  # a alone
    first = writing.write([writing.start(0)], keys(0), delimiters=("a",))[0]
    assert (first.text, first.ended, first.row.finished) == ("a", True, False)
    second = writing.write([first.row], keys(0), delimiters=("a",))[0]
    assert (second.text, second.row.text, second.row.finished) == ("a", "", True)


def test_an_end_token_finishes_a_row_and_is_none_of_its_text():
    writing = session(dataclasses.replace(SAMPLED, stop_ids=(4,), forbidden_ids=(0, 1, 2, 3, 5)))
    steps = writing.write([writing.start(0)] * 8, keys(*range(8)))
    ended = [step for step in steps if step.row.finished]
    assert ended and all(step.ids[-1] == 4 and "e" not in step.text for step in ended)
    assert all(4 not in step.ids for step in steps if not step.row.finished)


BYTES = {letter: id for id, letter in enumerate(sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()))}


def test_an_automaton_completes_where_the_text_of_the_tokens_does():
    pieces = ["a", "b", "ab", "bc", "\n", "\n\n", "x\n", "\nx", ""]
    made = stops.automaton(pieces, ["\n\n", "bb", "abc"], ids=[8])
    rng = np.random.default_rng(0)
    for _ in range(300):
        text, state = "", made.state("")
        for token in rng.integers(8, size=8):
            text += pieces[token]
            state = made.table[state, token]
            whole = any(stop in text for stop in ("\n\n", "bb", "abc"))
            assert (state == made.complete) == whole
            if whole:
                break
    assert (made.table[:, 8] == made.complete).all()
    assert made.beginnings[made.state("a\nab")] == "ab"


def test_what_the_table_takes_for_a_delimiter_and_the_text_does_not_is_no_end():
    class Capitals:  # a decoder whose tokens depend on those before: b after a is B
        ends = ()
        decode = staticmethod(lambda ids: TOKENIZER.decode(list(ids)).replace("ab", "aB"))
        encode_prompt = TOKENIZER.encode_prompt

    model = tiny.lm_of()
    only = tuple(id for id in range(13) if id not in (0, 1))
    writing = Session(*model, Capitals(), PROMPTS, dataclasses.replace(SAMPLED, forbidden_ids=only))
    steps = writing.write([writing.start(0)] * 8, keys(*range(8)), delimiters=("b",))
    assert any("aB" in step.text for step in steps)
    for step in steps:
        assert step.text.find("b") in (-1, len(step.text) - 1)
        assert step.ended == step.text.endswith("b")


# --- what it costs ------------------------------------------------------------------------------------------------


def test_a_prompt_is_read_once_however_its_rows_are_forked():
    writing = session()
    before = writing.cost
    assert (before.prompt_tokens, before.generated_tokens) == (28, 0)
    steps = writing.write([writing.start(0)] * 4 + [writing.start(2)], keys(*range(5)), limit=5)
    more = writing.write([steps[1].row] * 3 + [steps[4].row], keys(*range(4)), limit=2)
    assert writing.cost.prompt_tokens == 28
    assert writing.cost.generated_tokens == 5 * 5 + 4 * 2 == sum(len(step.ids) for step in steps + more)
    assert writing.cost.discarded_tokens == (3 * 4 * 5 - 25) + (3 * 4 * 2 - 8)  # places that nobody asked for
    assert writing.cost.flops > before.flops > 0


def test_what_was_let_go_is_read_again_and_counted():
    writing = session(keep=0)
    first = writing.write([writing.start(0)], keys(0), limit=5)[0]
    second = writing.write([first.row], keys(1), limit=2)[0]
    assert writing.cost.prompt_tokens == 28 + 5
    expected = alone(tiny.LM, 0, second.row.ids)[5:]
    np.testing.assert_allclose(second.logprobs, expected, rtol=0, atol=tolerances.forward(tiny.LM))


def test_a_program_is_compiled_for_a_shape_and_for_no_other_number_of_rows():
    writing = session(prompts=[PROMPTS[0], PROMPTS[2]], cfg=dataclasses.replace(tiny.LM, ff=24))
    steps = writing.write([writing.start(0)] * 4, keys(*range(4)), limit=3)
    writing.write([step.row for step in steps], keys(*range(4)), limit=3)
    with tiny.noting_compiled() as compiled:
        steps = writing.write([writing.start(0)] * 3 + [writing.start(1)] * 4, keys(*range(7)), limit=5)
        writing.write([steps[6].row] * 4 + [steps[0].row], keys(*range(5)), limit=8)
    assert [name for name in compiled if "_go_on" in name or "_gathered" in name or "_read" in name] == []
    with tiny.noting_compiled() as compiled:
        writing.write([steps[0].row] * 5, keys(*range(5)), limit=3)  # eight rows of a prompt
    assert len([name for name in compiled if "_go_on" in name]) == 1


# --- errors -------------------------------------------------------------------------------------------------------


def test_rows_that_cannot_continue_are_refused():
    writing = session(dataclasses.replace(SAMPLED, max_new_tokens=2))
    full = writing.write([writing.start(0)], keys(0))[0].row
    with pytest.raises(ValueError, match="max_new_tokens = 2"):
        writing.write([full], keys(0))
    with pytest.raises(ValueError, match="finished"):
        writing.write([dataclasses.replace(full, finished=True)], keys(0))
    with pytest.raises(ValueError, match="at least one row"):
        writing.write([], keys(0))
    with pytest.raises(ValueError, match="2 rows"):
        writing.write([writing.start(0)] * 2, keys(0))


def test_prompts_that_do_not_fit_are_refused_before_anything_is_read():
    with pytest.raises(ValueError, match="64"):
        session(dataclasses.replace(SAMPLED, max_new_tokens=60))
