import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models

from qstar.data import tokenizer as tokenizers
from qstar.data.tokenizer import Tokenizer
from qstar.reports import glyphs


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a b\n", "a b↵"),
        ("\x1b[31m", "\\x1b[31m"),
        ("\t\x00\x7f\x9b", "\\x09\\x00\\x7f\\x9b"),
        ("a\u202eb\u2028", "a\\u202eb\\u2028"),
        ("é😀<&>", "é😀<&>"),
    ],
)
def test_nothing_invisible_stays_invisible_and_nothing_else_changes(text, shown):
    assert glyphs.visible(text) == shown


@pytest.mark.parametrize(("text", "shown"), [(" a b ", "␣a b␣"), ("  ", "␣␣"), ("", ""), (" \n", "␣↵")])
def test_spaces_at_the_ends_of_a_text_alone_are_shown(text, shown):
    assert glyphs.quoted(text) == shown


def test_tokens_keep_their_space_where_the_tokenizer_drops_the_one_that_opens_a_text():
    backend = Backend(models.WordLevel({"▁the": 0, "▁cup": 1, "s": 2}, unk_token=""))
    backend.decoder = decoders.Metaspace()
    assert glyphs.pieces(Tokenizer(backend), [0, 1, 2, 1, 1]) == ["the", " cup", "s", " cup", " cup"]


def test_an_id_without_a_spelling_is_named():
    assert glyphs.pieces(tokenizers.characters("ab"), [0, 7, 1]) == ["a", "<7>", "b"]


def test_no_tokens_have_no_pieces():
    assert glyphs.pieces(tokenizers.characters("ab"), []) == []
