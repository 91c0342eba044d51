import numpy as np
import pytest

from qstar.data import generated
from qstar.data.generated import CupsText, GeneratedRows
from qstar.tasks import cups


def encode(text):
    return [cups.ALPHABET.index(character) for character in text]


def test_a_row_is_packed_as_written():
    row = generated.pack_row([[4, 5, 6], [7, 8]], 7)
    np.testing.assert_array_equal(row.tokens, [4, 5, 6, 7, 8, 0, 0])
    np.testing.assert_array_equal(row.segment, [1, 1, 1, 2, 2, 0, 0])
    np.testing.assert_array_equal(row.position, [0, 1, 2, 0, 1, 0, 1])
    np.testing.assert_array_equal(row.mask, [1, 1, 1, 1, 1, 0, 0])


def test_answers_only_counts_what_follows_the_question():
    row = generated.pack_row([[4, 9, 6, 5], [9, 8]], 6, uncounted=9)
    np.testing.assert_array_equal(row.mask, [0, 0, 1, 1, 0, 1])


def test_rows_depend_on_seed_and_index_alone():
    source = generated.cups_rows(CupsText(length=48), encode, seed=3)
    again = generated.cups_rows(CupsText(length=48), encode, seed=3)
    np.testing.assert_array_equal(source[7].tokens, again[7].tokens)
    assert (source[7].tokens != source[8].tokens).any()
    assert (source[7].tokens != generated.cups_rows(CupsText(length=48), encode, seed=4)[7].tokens).any()


def test_rows_hold_whole_documents():
    source = GeneratedRows(lambda rng: "12=3;" if rng.random() < 0.5 else "1=2;", encode, 14, 0)
    for index in range(20):
        row = source[index]
        assert row.segment.max() >= 2
        assert set(row.tokens[:-1][np.diff(row.segment) != 0].tolist()) == {encode(";")[0]}


def test_a_window_too_short_for_a_problem_is_refused():
    with pytest.raises(ValueError, match=r"data.length = 11: a problem takes up to 12 tokens"):
        CupsText(length=11)
    with pytest.raises(ValueError, match=r"up to 22 tokens"):
        CupsText(length=12, worked=0.5)


def test_the_answer_alone_can_count():
    row = generated.cups_rows(CupsText(answers_only=True, closing=False), encode, seed=0)[0]
    assert [cups.ALPHABET[row.tokens[i - 1]] for i in np.flatnonzero(row.mask)] == ["="] * row.segment.max()
