"""Pairs of completions: what counts in their rows, and what is refused."""

import json

import numpy as np
import pytest

from qstar.data import pairs
from qstar.data import tokenizer as tokenizers
from qstar.data.pairs import PairsText

LETTERS = tokenizers.characters("abcdefgh=;")
PAIR = {"prompt": "ab=", "chosen": "cd;", "rejected": "e;"}


def read(folder, *records):
    (folder / "pairs.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return PairsText(str(folder / "pairs.jsonl")).read(LETTERS)


def test_a_pair_is_two_rows_whose_completions_count(tmp_path):
    (row,) = pairs.rows(read(tmp_path, PAIR), 8)
    for side, text in ((row.chosen, "cd;"), (row.rejected, "e;")):
        assert LETTERS.decode(side.tokens[side.mask].tolist()) == text
        assert LETTERS.decode(side.tokens[side.segment == 1].tolist()) == "ab=" + text
        assert side.tokens.shape == (8,) and not np.any(side.mask[side.segment == 0])


def test_sampled_ids_are_kept(tmp_path):
    ids = LETTERS.encode("h;")
    (pair,) = read(tmp_path, PAIR | {"rejected_ids": ids})
    assert pair.rejected.completion == tuple(ids)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"prompt": "a=", "chosen": "b"}, "lacks the text of rejected"),
        (PAIR | {"rejected": "cd;"}, "chosen and rejected are the same"),
        (PAIR | {"chosen": ""}, "chosen is empty"),
        (PAIR | {"chosen_ids": [77]}, "completion_ids"),
        (PAIR | {"chosen_ids": [True]}, "completion_ids"),
    ],
)
def test_lines_that_are_not_pairs_are_named(tmp_path, record, message):
    with pytest.raises(ValueError, match=rf"pairs.jsonl.*1.*{message}"):
        read(tmp_path, record)


def test_pairs_that_are_longer_than_a_row_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"1 of 1 pairs are longer than a row of 5 tokens, the longest has 6"):
        pairs.rows(read(tmp_path, PAIR), 5)
    with pytest.raises(ValueError, match="no pair to train on"):
        pairs.rows([], 5)
    with pytest.raises(FileNotFoundError, match=r"data.path = .*absent"):
        PairsText(str(tmp_path / "absent")).read(LETTERS)
