import json
import pickle

import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import models, pre_tokenizers

from qstar.data import tokenizer as tokenizers

VOCAB = {"<|end|>": 0, "a": 1, "b": 2, "1": 3, "2": 4, "Ġ": 5, "ab": 6, "Ġab": 7, "12": 8, "Ã": 9, "©": 10, "Ċ": 11}
MERGES = [("a", "b"), ("Ġ", "ab"), ("1", "2")]


def bpe(style="smollm"):
    return tokenizers.byte_level_bpe(VOCAB, MERGES, ["<|end|>"], style)


def test_merges_join_pieces_and_spaces_lead_words():
    assert bpe().encode("ab ab") == [6, 7]
    assert bpe().decode([6, 7]) == "ab ab"


def test_digits_are_separate_only_where_requested():
    assert bpe("smollm").encode("12") == [3, 4]
    assert bpe("gpt-2").encode("12") == [8]


def test_special_tokens_are_matched_whole_and_kept_when_decoding():
    assert bpe().encode("ab<|end|>ab") == [6, 0, 6]
    assert bpe().decode([6, 0, 6]) == "ab<|end|>ab"


def test_bytes_beyond_ascii_survive():
    assert bpe().encode("é\n") == [9, 10, 11]
    assert bpe().decode([9, 10, 11]) == "é\n"


def test_a_character_of_several_tokens_is_whole_after_the_last_of_them():
    assert bpe().lengths([1, 9, 10, 7, 9, 10]) == [0, 1, 1, 2, 5, 5, 6]  # a, é, " ab", é
    assert bpe().lengths([9, 1, 9]) == [0, 0, 2, 3]  # bytes that make no character
    assert bpe().lengths([]) == [0]


def test_token_is_readable_text():
    assert bpe().spellings([7, 11, 0]) == [" ab", "\n", "<|end|>"]


def test_ids_without_a_spelling_are_shown_as_ids_and_decode_to_nothing():
    assert bpe().token(12) == "<12>"
    assert bpe().decode([6, 12, 6]) == "abab"


def test_id_of_a_text_is_its_single_token_or_the_entry_of_that_name():
    tokenizer = bpe()
    assert tokenizer.id_of(" ab") == 7  # by encoding
    assert tokenizer.id_of("Ġab") == 7  # by name
    assert tokenizer.id_of("<|end|>") == 0
    assert tokenizer.id_of("a b") is None


def test_size_is_the_largest_id_plus_one():
    assert bpe().size == 12
    assert tokenizers.byte_level_bpe(VOCAB | {"c": 40}, MERGES, [], "smollm").size == 41


def test_json_round_trip_gives_the_same_ids(tmp_path):
    (tmp_path / "tokenizer.json").write_text(bpe().to_json(), encoding="utf-8")
    again = tokenizers.Tokenizer.from_file(tmp_path / "tokenizer.json")
    assert again.encode("ab 12<|end|>é") == [6, 5, 3, 4, 0, 9, 10]
    assert again.decode([6, 5, 3, 4, 0, 9, 10]) == "ab 12<|end|>é"


def test_no_special_tokens_are_added_even_where_the_file_says_so():
    raw = json.loads(bpe().to_json())
    raw["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<|end|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {"<|end|>": {"id": "<|end|>", "ids": [0], "tokens": ["<|end|>"]}},
    }
    assert tokenizers.Tokenizer.from_json(json.dumps(raw)).encode("ab") == [6]


def test_characters_are_numbered_in_order():
    tokenizer = tokenizers.characters("01+=\n é")
    assert tokenizer.size == 7
    assert tokenizer.encode("1+0 =\né") == [1, 2, 0, 5, 3, 4, 6]
    assert tokenizer.decode([1, 2, 0, 5, 3, 4, 6]) == "1+0 =\né"
    assert tokenizer.spellings([4, 5]) == ["\n", " "]
    assert tokenizer.id_of("+") == 2
    assert tokenizer.id_of("x") is None


def test_a_character_outside_the_alphabet_is_named_with_the_alphabet():
    tokenizer = tokenizers.characters("abc")
    for kept in (tokenizer, tokenizers.Tokenizer.from_json(tokenizer.to_json())):
        with pytest.raises(ValueError, match=r"character 'z' at 1 is not in this tokenizer's alphabet 'abc'"):
            kept.encode("azb")


def test_an_alphabet_has_each_character_once():
    with pytest.raises(ValueError, match=r"repeated: \['a'\]"):
        tokenizers.characters("aba")
    with pytest.raises(ValueError, match="at least one character"):
        tokenizers.characters("")


def test_a_tokenizer_larger_than_the_model_is_refused():
    tokenizers.check_fits(bpe(), 12)
    tokenizers.check_fits(bpe(), 64)
    with pytest.raises(ValueError, match="ids up to 11, the model embeds only 11 tokens"):
        tokenizers.check_fits(bpe(), 11)


def test_pieces_that_do_not_fit_together_are_refused():
    with pytest.raises(ValueError, match=r"special tokens \['<\|x\|>'\] are not in the vocabulary of 12"):
        tokenizers.byte_level_bpe(VOCAB, MERGES, ["<|x|>"], "smollm")
    with pytest.raises(ValueError, match="the merges do not fit the vocabulary"):
        tokenizers.byte_level_bpe(VOCAB, [("a", "Ġ")], [], "smollm")


def test_files_that_are_not_tokenizer_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no tokenizer at .*tokenizer\.json"):
        tokenizers.Tokenizer.from_file(tmp_path / "tokenizer.json")
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match=r"tokenizer\.json: not the contents of a tokenizer\.json"):
        tokenizers.Tokenizer.from_file(tmp_path / "tokenizer.json")


def test_words_of_a_character_tokenizer_are_single_tokens_the_longest_first():
    made = tokenizers.characters("ab +", ["a ", "ab", "aba"])
    assert made.encode("aba ab+a b") == [6, 2, 5, 3, 4, 1]
    assert tokenizers.Tokenizer.from_json(made.to_json()).encode("aba ") == [6, 2]
    assert made.decode([6, 2, 5, 3, 4, 1]) == "aba ab+a b"


@pytest.mark.parametrize("words", [["a"], ["ac"], ["ab", "ab"]])
def test_words_that_are_none_are_refused(words):
    with pytest.raises(ValueError, match=r"words \["):
        tokenizers.characters("ab", words)


def test_a_foreign_character_is_named_beside_the_alphabet_without_words():
    with pytest.raises(ValueError, match=r"character 'c' at 1 is not in this tokenizer's alphabet 'ab'"):
        tokenizers.characters("ab", ["ab"]).encode("ac")


@pytest.mark.parametrize(
    "carried",
    [
        {"truncation": {"max_length": 2, "stride": 0, "strategy": "LongestFirst", "direction": "Right"}},
        {"padding": {"strategy": {"Fixed": 9}, "direction": "Left", "pad_to_multiple_of": None, "pad_id": 1,
                     "pad_type_id": 0, "pad_token": "a"}},
        {"model": {"dropout": 1.0}},
    ],
)  # fmt: skip
def test_what_a_file_carries_of_its_training_is_not_obeyed(tmp_path, carried):
    contents = json.loads(bpe().to_json())
    contents |= {name: contents[name] | value if name == "model" else value for name, value in carried.items()}
    (tmp_path / "tokenizer.json").write_text("\ufeff" + json.dumps(contents), encoding="utf-8")
    read = tokenizers.Tokenizer.from_file(tmp_path / "tokenizer.json")
    assert read.encode("ab ab ab") == [6, 7, 7]
    assert json.loads(read.to_json()) == json.loads(bpe().to_json())


def special(id, content):
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": id, "content": content, "special": True} | flags


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda words, added: words.update(zz=0), "the tokens 'a' and 'zz' have the same id, 0"),
        (
            lambda words, added: words.pop("b") and added(1, "<x>"),
            "'<x>' has the id 1 in the file, and 2 in the library",
        ),
        (lambda words, added: added(0, "<x>"), "'<x>' has the id 0 in the file, and 3 in the library"),
        (lambda words, added: added(9, "<x>"), "'<x>' has the id 9 in the file, and 3 in the library"),
        (lambda words, added: added(2, "a"), "'a' has the id 2 in the file, and 0 in the library"),
        (
            lambda words, added: added(4, "<x>") or added(3, "<y>"),
            "'<x>' has the id 4 in the file, and 3 in the library",
        ),
    ],
)
def test_ids_that_the_library_would_give_to_other_tokens_are_refused(tmp_path, change, message):
    contents = json.loads(tokenizers.characters("abc").to_json())
    change(contents["model"]["vocab"], lambda id, content: contents["added_tokens"].append(special(id, content)))
    (tmp_path / "tokenizer.json").write_text(json.dumps(contents))
    with pytest.raises(ValueError, match=rf"tokenizer\.json: .*{message}"):
        tokenizers.Tokenizer.from_file(tmp_path / "tokenizer.json")


def test_special_tokens_of_a_character_tokenizer_are_encoded_from_their_spelling():
    contents = json.loads(tokenizers.characters("abc").to_json())
    tokenizer = tokenizers.Tokenizer.from_json(json.dumps(contents | {"added_tokens": [special(3, "<x>")]}))
    assert tokenizer.encode("ab<x>") == tokenizer.encode_whole("ab<x>") == [0, 1, 3]
    assert tokenizer.encode_pair("ab", "<x>") == ([0, 1], [3])
    for encode in (tokenizer.encode, tokenizer.encode_prompt):
        with pytest.raises(ValueError, match="character 'z' at 5"):
            encode("ab<x>z")


def test_words_with_an_unknown_token_are_those_of_the_file():
    backend = Backend(models.WordLevel({"[UNK]": 0, "hello": 1, "world": 2}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = tokenizers.Tokenizer.from_json(backend.to_str())
    assert tokenizer.encode("hello you world") == [1, 0, 2]
    assert tokenizer.encode_after("world") == [2]
    assert not tokenizer.spells_characters


def test_a_token_id_that_no_vocabulary_reaches_is_refused_at_once(tmp_path):
    (tmp_path / "tokenizer.json").write_text(bpe().to_json().replace('"ab": 6', '"ab": 1000000000'), encoding="utf-8")
    with pytest.raises(ValueError, match=r"tokenizer\.json: a token has the id 1000000000"):
        tokenizers.Tokenizer.from_file(tmp_path / "tokenizer.json")


def test_a_prompt_is_encoded_once_for_all_tokenizers_of_a_file():
    text = tokenizers.characters("abc 0123456789").to_json()
    first, second = (tokenizers.Tokenizer.from_json(text) for _ in range(2))
    before = tokenizers._ids.cache_info().misses
    ids = first.encode_prompt("abc 1234")
    ids.append(0)  # the caller's own
    assert second.encode_prompt("abc 1234") == first.encode_prompt("abc 1234") == first.encode("abc 1234") == ids[:-1]
    assert tokenizers._ids.cache_info().misses == before + 1
    assert pickle.loads(pickle.dumps(first)).encode_prompt("abc 1234") == ids[:-1]


def test_documents_and_long_prompts_are_not_kept():
    tokenizer = tokenizers.characters("ab")
    before = tokenizers._ids.cache_info().misses
    ids = tokenizer.encode_whole("ab")
    assert tokenizer.encode_prompt("ab" * tokenizers.LONGEST_KEPT) == ids * tokenizers.LONGEST_KEPT
    assert tokenizers._ids.cache_info().misses == before
