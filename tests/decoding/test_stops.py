import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import pre_tokenizers

from qstar.data import tokenizer as tokenizers
from qstar.decoding import stops
from qstar.decoding.stops import Ending

BYTES = {letter: id for id, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
MERGES = [("a", "b"), ("b", "c"), ("ab", "c"), ("Ċ", "Ċ"), ("Ċ", "Q")]
TOKENIZER = tokenizers.byte_level_bpe(
    BYTES | {"".join(pair): 256 + i for i, pair in enumerate(MERGES)}, MERGES, [], "gpt-2"
)
SPELLED = {TOKENIZER.token(id): id for id in (*map(BYTES.get, "abcQ"), *range(256, 261))}
A, B, C, Q, AB, BC, ABC, NN, NQ = SPELLED.values()


def first(ids, *stop, seen=0):
    return stops.first(TOKENIZER.decode, ids, stop, seen)


def test_a_stop_text_may_begin_and_end_within_tokens():
    assert list(SPELLED) == ["a", "b", "c", "Q", "ab", "bc", "abc", "\n\n", "\nQ"]
    assert first([A, AB, BC, Q], "bb") == Ending(3, "aa", "bb")  # its last token goes on behind it
    assert first([AB, C], "abc") == Ending(2, "", "abc")
    assert first([ABC], "b") == Ending(1, "a", "b")
    assert first([A, NN, Q], "\nQ") == Ending(3, "a\n", "\nQ")
    assert first([A, NQ, Q], "\nQ") == Ending(2, "a", "\nQ")
    assert first([A, B, C], "bb", "ca") is None


def test_the_first_complete_stop_ends_the_text_within_a_token_the_first_to_begin():
    assert first([A, B, C], "c", "ab") == Ending(2, "", "ab")
    assert first([Q, ABC], "c", "bc", "b") == Ending(2, "Qa", "bc")  # of two that begin together the longer
    assert first([Q, ABC], "c", "ab") == Ending(2, "Q", "ab")


def test_a_character_of_several_tokens_counts_when_it_is_complete():
    euro = [BYTES[letter] for letter in ("â", "Ĥ", "¬")]  # the three bytes of it
    assert TOKENIZER.decode(euro) == "€"
    assert first([A, *euro[:2]], "€") is None
    assert first([A, *euro, B], "€", seen=2) == Ending(4, "a", "€")
    assert first([A, *euro, B], "€b") == Ending(5, "a", "€b")


@given(
    st.lists(st.sampled_from(list(SPELLED.values())), max_size=12), st.sets(st.text("abcQ\n", min_size=1, max_size=3))
)
def test_endings_are_those_of_a_search_in_every_beginning(ids, stop):
    expected = None
    spelled = {id: text for text, id in SPELLED.items()}
    for count in range(len(ids) + 1):
        text = "".join(spelled[id] for id in ids[:count])
        places = [at for at in range(len(text)) if any(text.startswith(one, at) for one in stop)]
        if places:
            stopped = max((one for one in stop if text.startswith(one, places[0])), key=len)
            expected = Ending(count, text[: places[0]], stopped)
            break
    assert first(ids, *sorted(stop)) == expected


def test_a_watcher_finds_the_same_however_often_it_looks():
    rows = np.array([[A, AB, BC, Q, A, B], [Q, NN, Q, A, A, A], [C, C, C, C, C, C]])
    for every in (1, 2, 4, 6):
        watcher = stops.Watcher(TOKENIZER.decode, ("bb", "\nQ"), (), 3)
        for upto in range(every, 6 + every, every):
            done = watcher(rows, np.full(3, min(upto, 6)))
        assert watcher.endings == [Ending(3, "aa", "bb"), Ending(3, "Q\n", "\nQ"), None]
        assert done.tolist() == [True, True, False]


def test_the_stop_token_is_no_part_of_the_text_that_is_searched():
    watcher = stops.Watcher(TOKENIZER.decode, ("c",), (C,), 1)
    watcher(np.array([[A, C]]), np.array([2]))
    assert watcher.endings == [None]
