"""Records that are longer than a row: refused by name, or left out and counted, in every format that reads a file."""

import json

import pytest

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
