"""Tokenizers in the styles of the model families, as their tokenizer.json spells them, with tiny vocabularies."""

import json

import pytest

from qstar.data import tokenizer as tokenizers
from qstar.data.tokenizer import Tokenizer

BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
# Every byte's letter in the byte-level alphabet that the texts below need.
LETTERS = "abc1Ġ!ðŁĻĤĊ"


def added(id, content):
    return {
        "id": id, "content": content, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
        "special": True,
    }  # fmt: skip


def byte_level(split, specials, post_processor=None, normalizer=None):
    """A tokenizer.json of byte-level BPE behind a regular expression."""
    vocab = {letter: id for id, letter in enumerate(LETTERS)} | {"ab": len(LETTERS), "Ġab": len(LETTERS) + 1}
    first = len(vocab)
    vocab_specials = [added(first + number, special) for number, special in enumerate(specials)]
    by_regex = {"type": "Split", "pattern": {"Regex": split}, "behavior": "Isolated", "invert": False}
    by_bytes = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    return json.dumps(
        {
            "version": "1.0", "added_tokens": vocab_specials, "normalizer": normalizer,
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [by_regex, by_bytes]},
            "post_processor": post_processor, "decoder": by_bytes,
            "model": {"type": "BPE", "vocab": vocab, "merges": [["a", "b"], ["Ġ", "ab"]]},
        }
    )  # fmt: skip


def llama3():
    """Begins every text with a token of its own, through a template."""
    begin = "<|begin_of_text|>"
    template = {
        "type": "TemplateProcessing", "pair": [],
        "single": [{"SpecialToken": {"id": begin, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "special_tokens": {begin: {"id": begin, "ids": [13], "tokens": [begin]}},
    }  # fmt: skip
    return byte_level(r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+| ?\p{L}+|\s+", [begin, "<|eot_id|>"], template)


def qwen():
    return byte_level(
        r"\p{N}| ?[^\s\p{L}\p{N}]+| ?\p{L}+|\s+", ["<|endoftext|>", "<|im_start|>"], normalizer={"type": "NFC"}
    )


def pieces(prefix):
    tokens = ["<pad>", "<eos>", "<bos>", "<unk>", *BYTES, "a", "b", "▁", "ab", "▁ab", "▁▁", "<start_of_turn>"]
    scores = [0.0] * 260 + [-10.0, -11.0, -12.0, -1.0, -2.0, -3.0, 0.0]
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>"]
    return tokenizers.sentencepiece_bpe(tokens, scores, special, prefix)


@pytest.mark.parametrize("made", [llama3, qwen])
def test_byte_level_tokenizers_add_nothing_and_give_the_text_back(made):
    tokenizer = Tokenizer.from_json(made())
    assert tokenizer.encode("ab ab") == [11, 12]
    text = "a🙂b ab1!\n"
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.size == 15


def test_special_tokens_of_chat_templates_are_one_token():
    assert Tokenizer.from_json(llama3()).encode("<|begin_of_text|>ab<|eot_id|>") == [13, 11, 14]
    assert Tokenizer.from_json(qwen()).encode("<|im_start|>ab") == [14, 11]


def test_pieces_with_the_higher_score_are_merged_first():
    tokenizer = pieces(prefix=False)
    ab, spaced, double = 263, 264, 265
    assert tokenizer.encode("ab ab") == [ab, spaced]
    assert tokenizer.encode("ab  ab") == [ab, 262, spaced]  # " ab" is worth more than two spaces
    assert tokenizer.encode("b  a") == [261, double, 260]


@pytest.mark.parametrize("prefix", [False, True])
def test_characters_without_a_piece_become_their_bytes_and_come_back(prefix):
    tokenizer = pieces(prefix)
    assert tokenizer.encode("aé")[-3:] == [260 if not prefix else tokenizer.encode("a")[-1], 4 + 0xC3, 4 + 0xA9]
    for text in ("é", "ab 🙂\n a", "  ab", "ab "):
        assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.token(4 + 0xC3) == "\N{REPLACEMENT CHARACTER}"  # half a character


def test_only_tokenizers_with_a_prefix_put_a_space_before_the_text():
    assert pieces(prefix=True).encode("ab") == [264]
    assert pieces(prefix=False).encode("ab") == [263]


def test_turns_are_one_token_and_their_spelling_is_never_merged():
    assert pieces(prefix=False).encode("<start_of_turn>ab<bos>") == [266, 263, 2]


def test_a_sentencepiece_vocabulary_without_bytes_is_refused():
    with pytest.raises(ValueError, match=r"tokens \['<0x00>', .* are not in the vocabulary of 2 entries"):
        tokenizers.sentencepiece_bpe(["<unk>", "a"], [0.0, -1.0], ["<unk>"])


def test_added_tokens_that_the_model_does_not_embed_are_left_out():
    tokenizer = Tokenizer.from_json(llama3())
    less = tokenizers.without_added(tokenizer, 14)
    assert (tokenizer.size, less.size) == (15, 14)
    assert less.encode("<|begin_of_text|>ab") == [13, 11]
    assert 14 not in less.encode("ab<|eot_id|>")
    assert tokenizers.without_added(tokenizer, 15) is tokenizer


def test_an_added_token_that_is_in_the_vocabulary_as_well_is_left_out_of_both():
    assert tokenizers.without_added(pieces(prefix=False), 266).size == 266


def test_ordinary_tokens_that_the_model_does_not_embed_stay_and_are_refused():
    tokenizer = tokenizers.without_added(Tokenizer.from_json(llama3()), 11)
    assert tokenizer.size == 13
    with pytest.raises(ValueError, match="ids up to 12, the model embeds only 11 tokens"):
        tokenizers.check_fits(tokenizer, 11)
