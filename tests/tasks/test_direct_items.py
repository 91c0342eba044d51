import re
from collections.abc import Sequence

import pytest

from qstar.data import tokenizer
from qstar.tasks import commonsense_qa, gsm8k, items

CHARACTERS = tokenizer.characters("\n 0123456789ABCDEQ:()?,-abcdefgh")
UMBRELLA = {"question": "bag?", "choices": ["a", "b", "c", "d", "e"], "answer": "B"}


class Pieces:
    """Splits text by a pattern and numbers the pieces as they come, like a vocabulary of whole words."""

    def __init__(self, pattern: str):
        self.pattern, self.pieces = pattern, []

    def encode(self, text: str) -> list[int]:
        found = re.findall(self.pattern, text, flags=re.DOTALL)
        self.pieces += [piece for piece in dict.fromkeys(found) if piece not in self.pieces]
        return [self.pieces.index(piece) for piece in found]

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(self.pieces[i] for i in ids)


def scored(item: items.Item, spell: Pieces | tokenizer.Tokenizer) -> list[str]:
    return [spell.decode([target]) for target in item.targets]


def test_a_number_is_scored_digit_by_digit_and_by_the_newline_that_ends_it():
    (item,) = gsm8k.direct([{"question": "3a?", "answer": "a 2+1\n#### 42"}], CHARACTERS)
    assert item.text == "Q: 3a?\nA: 42\n"
    assert item.ids == (17, 18, 1, 5, 24, 21, 0, 12, 18, 1, 6, 4, 0)
    assert item.prompt_len == 9
    assert item.anchors == (9, 10, 11)  # the bare space behind ":" is read, not scored
    assert item.targets == (6, 4, 0)
    assert item.valid == (0, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11)
    assert (item.gold, item.cut) == ("42", 0)


def test_commas_and_signs_of_a_number_are_read_but_not_scored():
    (item,) = gsm8k.direct([{"question": "?", "answer": "#### -1,250"}], CHARACTERS)
    assert item.text == "Q: ?\nA: -1,250\n"
    assert scored(item, CHARACTERS) == ["1", "2", "5", "0", "\n"]


def test_a_letter_is_scored_with_the_newline_and_the_choices_are_listed():
    (item,) = commonsense_qa.direct([UMBRELLA], CHARACTERS)
    assert item.text == "Q: bag?\n(A) a\n(B) b\n(C) c\n(D) d\n(E) e\nA: B\n"
    assert item.prompt_len == 40
    assert item.anchors == (40, 41)
    assert scored(item, CHARACTERS) == ["B", "\n"]
    assert item.valid == (0, 12, 13, 14, 15, 16)


def test_a_letter_that_carries_its_space_is_scored_from_the_colon():
    words = Pieces(r" [A-E]|\w+|.")
    (item,) = commonsense_qa.direct([UMBRELLA], words)
    assert scored(item, words) == [" B", "\n"]
    assert words.decode(item.ids[: item.prompt_len]).endswith("\nA:")
    assert item.anchors == (item.prompt_len - 1, item.prompt_len)
    assert sorted(words.decode([i]) for i in item.valid) == ["\n", " A", " B", " C", " D", " E"]


def test_a_marker_inside_the_question_is_not_taken_for_the_answer():
    (item,) = gsm8k.direct([{"question": "a\nA: 7\nb?", "answer": "#### 5"}], CHARACTERS)
    assert CHARACTERS.decode(item.ids[item.prompt_len :]) == " 5\n"
    assert scored(item, CHARACTERS) == ["5", "\n"]


def test_a_long_question_loses_tokens_on_its_left_and_keeps_its_answer():
    rows = [{"question": "abcdefgh?", "answer": "#### 42"}, {"question": "a?", "answer": "#### 1"}]
    long, short = gsm8k.direct(rows, CHARACTERS, limit=14)
    assert CHARACTERS.decode(long.ids) == "Q:efgh?\nA: 42\n"
    assert (len(long.ids), long.cut, short.cut) == (14, 5, 0)
    assert CHARACTERS.decode(long.ids[: long.prompt_len]) == "Q:efgh?\nA:"
    assert scored(long, CHARACTERS) == ["4", "2", "\n"]
    assert [long.ids[i + 1] for i in long.anchors] == list(long.targets)


def test_a_limit_without_room_for_the_answer_is_refused():
    with pytest.raises(ValueError, match="limit of 6 tokens leaves no room"):
        gsm8k.direct([{"question": "abc", "answer": "#### 42"}], CHARACTERS, limit=6)


def test_the_begin_of_text_token_comes_first_and_shifts_positions():
    row = {"question": "3a?", "answer": "#### 42"}
    (item,) = gsm8k.direct([row], CHARACTERS, bos=77)
    assert item.ids == (77, 17, 18, 1, 5, 24, 21, 0, 12, 18, 1, 6, 4, 0)
    assert (item.prompt_len, item.anchors, item.targets) == (10, (10, 11, 12), (6, 4, 0))
    (cut,) = gsm8k.direct([row], CHARACTERS, limit=12, bos=77)
    assert CHARACTERS.decode(cut.ids[1:]) == "Q:a?\nA: 42\n"
    assert (cut.ids[0], len(cut.ids), cut.cut) == (77, 12, 2)


def test_tokenizers_that_cannot_be_scored_are_refused():
    with pytest.raises(ValueError, match="joins digits"):
        gsm8k.direct([{"question": "?", "answer": "#### 42"}], Pieces(r"\d+|."))
    with pytest.raises(ValueError, match="does not write each of A, B, C, D, E"):
        commonsense_qa.direct([UMBRELLA], Pieces(r"[A-E]\n|."))


def test_the_gold_number_is_what_stands_after_the_hashes():
    assert gsm8k.gold("2*3=6\n6+1=7\n#### 1,007") == "1,007"
