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


def test_words_of_llama_3_have_three_digits_and_are_tokens_where_there_is_an_entry():
    vocab = {letter: id for id, letter in enumerate("1234abcĠ'sÃ©")} | {"12": 20, "34": 21, "Ġabc": 22, "41": 23}
    merges = [("1", "2"), ("3", "4"), ("4", "1")]
    llama3 = tokenizers.byte_level_bpe(vocab, merges, [], "llama3")
    assert llama3.encode("1234") == [20, 2, 3]  # 123, 4: no pair across
    assert llama3.encode("123412") == [20, 2, 3, 20]  # 123, 412
    assert llama3.encode(" abc") == [22]  # no merges lead there
    assert llama3.encode("b's") == [5, 8, 9]
    qwen2 = tokenizers.byte_level_bpe(vocab, merges, [], "qwen2")
    assert qwen2.encode("1234") == [0, 1, 2, 3]
    assert qwen2.encode(" abc") == [7, 4, 5, 6]
    letter_and_accent = "e\u0301"  # which Qwen makes one character, é
    assert qwen2.encode(letter_and_accent) == [10, 11]
    for text in ("1234 abc's", "12 a"):
        assert llama3.decode(llama3.encode(text)) == text == qwen2.decode(qwen2.encode(text))


@pytest.mark.parametrize("style", ["llama3", "qwen2"])
def test_words_keep_a_leading_space_or_mark_and_lines_their_ends(style):
    vocab = {letter: id for id, letter in enumerate("ab!ĠĊ")}
    pairs = [("Ġ", "a"), ("!", "a"), ("!", "Ċ"), ("a", "b"), ("Ċ", "Ċ"), ("Ġ", "Ġ"), ("b", "!"), ("Ċ", "a")]
    vocab |= {"".join(pair): 5 + number for number, pair in enumerate(pairs)}
    spelled = tokenizers.byte_level_bpe(vocab, pairs, [], style).encode
    assert spelled("b a") == [1, 5]
    assert spelled("!a") == [6]  # a mark in front of a word belongs to it
    assert spelled("b!\n\n") == [1, 7, 4]  # ends of lines belong to the marks before them, letters do not
    assert spelled("a\n\na") == [0, 9, 0]
    assert spelled("b   a") == [1, 10, 5]  # of several spaces the last is the word's


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


def test_bytes_of_characters_side_by_side_do_not_grow_the_text():
    tokenizer, space, a = pieces(prefix=True), 262, 260
    e_acute = [4 + 0xC3, 4 + 0xA9]
    assert tokenizer.lengths([space, a, *e_acute, *e_acute, space, a]) == [0, 0, 1, 1, 2, 2, 3, 4, 5]


def test_only_tokenizers_with_a_prefix_put_a_space_before_the_text():
    assert pieces(prefix=True).encode("ab") == [264]
    assert pieces(prefix=False).encode("ab") == [263]


def test_turns_are_one_token_and_their_spelling_is_never_merged():
    assert pieces(prefix=False).encode("<start_of_turn>ab<bos>") == [266, 263, 2]


def test_what_users_defined_goes_before_every_merge():
    tokens = ["<unk>", *BYTES, "a", "▁", "▁a", "  ", "   ", "\n"]
    scores = [0.0] * 257 + [-10.0, -11.0, -1.0, -1000.0, -1000.0, -1000.0]
    tokenizer = tokenizers.sentencepiece_bpe(tokens, scores, ["<unk>", "  ", "   ", "\n"], prefix=False)
    a, spaced, two, three, line = 257, *range(259, 263)
    assert tokenizer.encode("a a") == [a, spaced]
    assert tokenizer.encode("a  a") == [a, two, a]  # not one space and " a", though that has the higher score
    assert tokenizer.encode("a    a\n") == [a, three, spaced, line]  # the longest first
    assert tokenizer.decode([a, three, spaced, line]) == "a    a\n"
    again = Tokenizer.from_json(tokenizer.to_json())
    assert again.encode("a    a\n") == [a, three, spaced, line]


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
