"""Records that are longer than a row: refused by name, or left out and counted, in every format that reads a file; and
questions that are longer than what the model can read and answer."""

import json

import pytest

from qstar.data import overlong
from qstar.data import tokenizer as tokenizers
from qstar.data.examples import ExamplesText
from qstar.data.labelled import LabelledText
from qstar.data.pairs import PairsText

LETTERS = tokenizers.characters("abcdefghij")
FORMATS = {
    "examples": (ExamplesText, lambda text: {"prompt": "a", "completion": text}),
    "grouped": (ExamplesText, lambda text: {"prompt": "a", "completion": text, "group": text}),
    "solutions": (LabelledText, lambda text: {"prompt": "a", "completion": text, "label": 1}),
    "pairs": (PairsText, lambda text: {"prompt": "a", "chosen": "j", "rejected": text}),
}


@pytest.fixture(params=FORMATS)
def data(request, tmp_path):
    """Of three records, the second of which has nine tokens."""
    kind, record = FORMATS[request.param]
    file = tmp_path / "records.jsonl"
    file.write_text("".join(json.dumps(record(text)) + "\n" for text in ("bc", "bcdefghi", "de")))
    return lambda **options: kind(str(file), **{"length": 8, **options})


def test_a_record_longer_than_a_row_is_named(data):
    with pytest.raises(ValueError, match=r"1 of 3 .* 8 tokens, .* 9 .*records.jsonl:2.*data.length=9"):
        data().build(LETTERS, 1, 0)


def test_records_longer_than_a_row_are_left_out_and_counted(data):
    said = []
    dataset = data(overlong="skip").build(LETTERS, 1, 0, said.append)
    (line,) = said
    assert line.startswith("1 ") and "data.length = 8" in line and line.endswith("records.jsonl:2")
    batches = [dataset[k] for k in range(3)]
    tokens = {int(token) for batch in batches for token in getattr(batch, "rejected", batch).tokens.flatten()}
    assert {*LETTERS.encode("bcde")} <= tokens
    assert not {*LETTERS.encode("fghi")} & tokens


def test_nothing_is_said_where_every_record_fits(data):
    said = []
    data(overlong="skip", length=9).build(LETTERS, 1, 0, said.append)
    assert said == []


@pytest.mark.parametrize(
    ("sizes", "rooms", "left"),
    [
        ({"a": 4, "b": 6}, {"a": 4, "b": 4}, {}),
        ({"a": 4, "b": 7}, {"a": 4, "b": 4}, {"b": (7, 4)}),
        ({"a": 8, "b": 2}, {"a": 2, "b": 7}, {"a": (8, 7)}),  # its own answer fits, the longest among them does not
        ({"a": 8, "b": 9}, {"a": 2, "b": 7}, {"b": (9, 7)}),  # the longest answer is gone with its question
        ({"a": 9, "b": 9}, {"a": 2, "b": 2}, {"a": (9, 2), "b": (9, 2)}),
    ],
)
def test_questions_whose_prompt_leaves_no_room_for_the_longest_answer_are_told(sizes, rooms, left):
    found = {question.id: (question.tokens, question.room) for question in overlong.of_questions(sizes, rooms, 10)}
    assert found == left


def test_a_prompt_that_the_tokenizer_refuses_is_named():
    assert overlong.prompt_tokens(LETTERS, "dev-3", "abc") == 3
    with pytest.raises(ValueError, match=r"question dev-3, asked as 'a\?': character '\?' at 1"):
        overlong.prompt_tokens(LETTERS, "dev-3", "a?")


def test_where_all_questions_are_too_long_none_are_left_out():
    (long,) = overlong.of_questions({"a": 9}, {"a": 2}, 10)
    with pytest.raises(ValueError, match=r"cups: 1 of 1 dev questions do not fit into ten tokens: a \(9 tokens and 2"):
        overlong.check_questions([long], 1, "cups", "dev", "ten tokens", "shorten it", skip=True)
    overlong.check_questions([long], 2, "cups", "dev", "ten tokens", "shorten it", skip=True)
