"""Begin and end of text, as the files beside a tokenizer.json name them; prompts and completions encoded together."""

import json

import pytest
from test_tokenizer_families import LETTERS, byte_level, llama3
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers

from qstar.data import pipeline
from qstar.data import tokenizer as tokenizers
from qstar.data.examples import as_sampled
from qstar.data.generated import CupsText
from qstar.data.marks import Marks
from qstar.data.pipeline import TextConfig
from qstar.data.tokenizer import Tokenizer
from qstar.evals.perplexity import PerplexityEval
from qstar.models.formats import companions
from qstar.tasks import conversation

PIECES = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "a", "b", "▁a", "ab", "▁ab"]
FIRST = PIECES.index("▁")
UNDERSCORE, A, B, _A, AB, _AB = range(FIRST, FIRST + 6)


def metaspace_bpe():
    """SentencePiece-style BPE as newer tokenizer.json files have it: a Metaspace pre-tokeniser, bytes for the rest."""
    backend = Backend(
        models.BPE(
            vocab={piece: id for id, piece in enumerate(PIECES)},
            merges=[("▁", "a"), ("▁a", "b"), ("a", "b")],
            byte_fallback=True,
        )
    )
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.add_special_tokens(["<s>", "</s>"])
    return backend


def unigram():
    scores = {"▁": -3.0, "a": -3.0, "b": -3.0, "▁a": -2.0, "ab": -2.5, "▁ab": -2.0}
    backend = Backend(models.Unigram([(piece, scores.get(piece, -20.0)) for piece in PIECES], 0, byte_fallback=True))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    backend.decoder = metaspace_bpe().decoder
    backend.add_special_tokens(["<s>", "</s>"])
    return backend


def saved(folder, text, **files):
    """The tokenizer of a directory of Hugging Face's layout."""
    folder.mkdir(exist_ok=True)
    (folder / "tokenizer.json").write_text(text, encoding="utf-8")
    for name, contents in files.items():
        (folder / f"{name}.json").write_text(json.dumps(contents), encoding="utf-8")
    return Tokenizer.from_file(folder / "tokenizer.json")


@pytest.fixture
def spiece(tmp_path):
    named = {"bos_token": "<s>", "eos_token": "</s>", "add_bos_token": True}
    return saved(tmp_path / "spiece", metaspace_bpe().to_str(), tokenizer_config=named)


@pytest.mark.parametrize("options", [{}, {"unk_token": "<unk>"}, {"unk_token": "<unk>", "fuse_unk": True}])
@pytest.mark.parametrize("newline", ["\n", "."])
def test_a_text_goes_on_without_a_space_where_the_vocabulary_has_no_bytes(options, newline):
    vocab = {"<unk>": 0, "▁": 1, "a": 2, "b": 3, "▁a": 4, "ab": 5, "▁ab": 6, newline: 7}
    backend = Backend(models.BPE(vocab, [("▁", "a"), ("▁a", "b"), ("a", "b")], **options))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    backend.decoder = decoders.Metaspace(prepend_scheme="first", split=False)
    tokenizer = Tokenizer(backend)
    assert (tokenizer.encode_after("ab"), tokenizer.encode_after(" ab")) == ([5], [6])
    assert tokenizer.encode_after("éab") == ([0, 5] if options else [5])


# --- settings -----------------------------------------------------------------------------------------------------


def test_a_post_processor_says_that_texts_begin_with_a_token(tmp_path):
    tokenizer = saved(tmp_path, llama3())
    assert tokenizer.encode_whole("ab") == [13, 11]
    assert tokenizer.encode("ab") == [11]
    assert tokenizer.encode_whole("<|begin_of_text|>ab") == [13, 11]  # not twice
    assert tokenizer.ends == (14,)  # <|eot_id|>, by its spelling: no file names an end


@pytest.mark.parametrize("setting", [True, False])
def test_the_tokenizers_own_setting_comes_before_the_post_processor(tmp_path, setting):
    tokenizer = saved(tmp_path, llama3(), tokenizer_config={"add_bos_token": setting})
    assert tokenizer.begin == ((13,) if setting else ())
    assert tokenizer.beginning("true").begin == (13,)
    assert tokenizer.beginning("false").begin == ()
    assert tokenizer.beginning("auto").begin == tokenizer.begin


def test_ends_are_those_of_tokenizer_generation_and_model_the_tokenizers_own_first(tmp_path):
    specials = ["<|endoftext|>", "<|im_end|>", "<|tool|>"]
    text = byte_level(r"\p{L}+|\s+", specials)
    first = len(LETTERS) + 2
    files = {
        "tokenizer_config": {"eos_token": {"content": "<|im_end|>"}},
        "generation_config": {"eos_token_id": [first, first + 2]},
        "config": {"eos_token_id": first},
    }
    assert saved(tmp_path, text, **files).ends == (first + 1, first, first + 2)
    assert saved(tmp_path, text, **(files | {"tokenizer_config": {}})).ends == (first, first + 2)
    assert saved(tmp_path, text, **(files | {"tokenizer_config": {}, "generation_config": {}})).ends == (first,)


def test_ids_of_ordinary_text_end_nothing_whatever_a_default_config_says(tmp_path):
    text = byte_level(r"\p{L}+|\s+", ["<|im_end|>"])
    defaults = {"bos_token_id": 1, "eos_token_id": 2}  # the letters b and c here
    tokenizer = saved(tmp_path, text, config=defaults, generation_config=defaults)
    assert tokenizer.marks == Marks(None, False, (len(LETTERS) + 2,))
    characters = saved(tmp_path, tokenizers.characters("abcd").to_json(), config=defaults, generation_config=defaults)
    assert characters.marks == Marks()


@pytest.mark.parametrize(
    ("files", "begin", "ends"),
    [
        ({"tokenizer_config": {"bos_token": "b", "eos_token": "c"}}, 1, (2,)),
        ({"special_tokens_map": {"bos_token": "b", "eos_token": {"content": "c"}}}, 1, (2,)),
        ({"generation_config": {"bos_token_id": 3, "eos_token_id": [3, 0, 2]}}, 3, (3, 0)),
        ({"config": {"bos_token_id": 3, "eos_token_id": 3}}, 3, (3,)),
    ],
)
def test_a_token_of_ordinary_text_that_no_config_names_by_default_is_what_it_is_said_to_be(
    tmp_path, files, begin, ends
):
    begun = {"tokenizer_config": {"add_bos_token": True} | files.get("tokenizer_config", {})}
    tokenizer = saved(tmp_path, tokenizers.characters("abcd").to_json(), **(files | begun))
    assert tokenizer.marks == Marks(begin, True, ends)
    assert tokenizer.told_by(tokenizer.settled(companions.read(tmp_path))).marks == tokenizer.marks


@pytest.mark.parametrize("value", ["2", [2, "x"], True, 1.5])
def test_an_end_that_is_not_an_id_is_named(tmp_path, value):
    for name in ("generation_config", "config"):
        with pytest.raises(ValueError, match=rf"{name}\.json: eos_token_id"):
            saved(tmp_path / name, llama3(), **({"generation_config": {}} | {name: {"eos_token_id": value}}))
        with pytest.raises(ValueError, match=rf"/{name}\.json: eos_token_id"):
            companions.read(tmp_path / name)


@pytest.mark.parametrize("id", [-1, 10**6, 2**32, 10**30])
def test_an_end_beyond_the_vocabulary_is_none(tmp_path, id):
    tokenizer = saved(tmp_path, llama3(), generation_config={"eos_token_id": [id, 14], "bos_token_id": id})
    assert tokenizer.ends == (14,)


def test_a_beginning_that_the_model_alone_names_is_the_same_after_saving(tmp_path):
    text = byte_level(r"\p{L}+|\s+", ["<|start|>", "<|im_end|>"])
    first = len(LETTERS) + 2
    given = {"tokenizer_config": {"add_bos_token": True}, "config": {"bos_token_id": first}}
    tokenizer = saved(tmp_path, text, **given)
    assert tokenizer.begin == (first,)
    companions.write(tmp_path, tokenizer.settled(companions.read(tmp_path)))
    (tmp_path / "config.json").unlink()
    assert Tokenizer.from_file(tmp_path / "tokenizer.json").marks == tokenizer.marks


@pytest.mark.parametrize("name", ["add_bos_token", "qstar_chat"])
@pytest.mark.parametrize("value", ["false", 0, 1.0, []])
def test_a_switch_that_is_no_truth_value_is_named(tmp_path, name, value):
    with pytest.raises(ValueError, match=rf"tokenizer_config\.json: {name} is .*, expected true or false"):
        saved(tmp_path, llama3(), tokenizer_config={name: value})


def test_the_beginning_is_found_whatever_the_tokenizer_can_encode(tmp_path):
    processor = {
        "type": "TemplateProcessing", "pair": [{"Sequence": {"id": "A", "type_id": 0}}],
        "single": [{"SpecialToken": {"id": "x", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "special_tokens": {"x": {"id": "x", "ids": [0], "tokens": ["x"]}},
    }  # fmt: skip
    words = Backend(models.WordLevel({"x": 0, "y": 1}, unk_token=""))
    words.add_special_tokens(["x"])
    for text in (words.to_str(), tokenizers.byte_level_bpe({"x": 0, "y": 1}, [], ["x"], "gpt-2").to_json()):
        tokenizer = saved(tmp_path, json.dumps(json.loads(text) | {"post_processor": processor}))
        assert tokenizer.encode_whole("y") == [0, 1]  # neither of them encodes every letter


def listed(**tokens):
    return {"tokenizer_config": {"added_tokens_decoder": tokens}}


def test_added_tokens_that_the_config_alone_lists_are_tokens(tmp_path):
    text = byte_level(r"\p{L}+|\s+", ["<|im_end|>"])
    first = len(LETTERS) + 3
    config = listed(**{str(first + 1): {"content": "<x>"}, str(first): {"content": "<s>", "special": True}})
    config["tokenizer_config"]["eos_token"] = "<s>"
    tokenizer = saved(tmp_path, text, **config)
    assert tokenizer.encode("<x>a<s>") == [first + 1, 0, first]
    assert tokenizer.ends == (first,)
    again = Tokenizer.from_json(tokenizer.to_json())
    assert again.encode("<x>a<s>") == tokenizer.encode("<x>a<s>")
    assert tokenizers.without_added(tokenizer, first).encode("<x>") == saved(tmp_path / "plain", text).encode("<x>")


@pytest.mark.parametrize(
    ("listed", "message"),
    [
        (listed(**{"99": {"content": "<x>"}}), "'<x>' has the id 99"),
        (listed(x={"content": "<x>"}), "added_tokens_decoder has 'x'"),
        (listed(**{"9": "<x>"}), "added_tokens_decoder has '9'"),
        ({"tokenizer_config": {"added_tokens_decoder": [1]}}, "added_tokens_decoder is"),
    ],
)
def test_added_tokens_of_the_config_that_cannot_be_are_named(tmp_path, listed, message):
    with pytest.raises(ValueError, match=rf"tokenizer\.json: .*{message}"):
        saved(tmp_path, byte_level(r"\p{L}+|\s+", ["<|im_end|>"]), **listed)


def test_begin_true_without_such_a_token_is_refused():
    with pytest.raises(ValueError, match=r"model\.begin"):
        tokenizers.characters("ab").beginning("true")


def documents(batch):
    """The tokens of every document of a row."""
    return [batch.tokens[0][batch.segment[0] == one].tolist() for one in range(1, int(batch.segment[0].max()) + 1)]


@pytest.mark.parametrize("begins", [True, False])
def test_all_that_is_trained_on_or_measured_begins_as_the_tokenizer_says(tmp_path, spiece, begins):
    """Plain text, generated problems, and the documents of a perplexity, whose bytes are those of the text."""
    tokenizer, begin = spiece.beginning("true" if begins else "false"), [1] if begins else []
    (tmp_path / "text.txt").write_text("ab b\n<|doc|>\nbab")
    kept = {"cache_dir": str(tmp_path / "cache")}
    text = TextConfig((str(tmp_path / "text.txt"),), length=8, heldout_fraction=0.0, **kept)
    corpus = pipeline.load_corpus(text, tokenizer)
    texts = [corpus.document(i).tolist() for i in range(len(corpus.starts) - 1)]
    assert texts == [[*begin, *tokenizer.encode(text)] for text in ("ab b", "bab")]
    problems = documents(CupsText(length=64, min_moves=6, max_moves=6).build(tokenizer, 1, 0)[0])
    assert len(problems) > 1 and all((ids[:1] == [1]) == begins and 1 not in ids[1:] for ids in problems)
    [measure] = PerplexityEval((str(tmp_path / "text.txt"),), **kept).measures(tokenizer)
    assert [list(document.tokens) for document in measure.items] == texts
    # Without a token before it the first one is not predicted: "▁ab" of "ab b", "▁" of "bab".
    sizes = [len(text) for text in ("ab b", "bab")]
    assert [document.size(tokenizer) for document in measure.items] == (sizes if begins else [2, 3])


@pytest.mark.parametrize("begins", ["true", "false"])
def test_settings_survive_saving_and_an_export_carries_them_in_its_post_processor(tmp_path, spiece, begins):
    tokenizer = spiece.beginning(begins)
    texts = companions.read(tmp_path / "spiece")
    assert tokenizer.told_by(tokenizer.settled(texts)).marks == tokenizer.marks
    assert tokenizer.told_by(tokenizer.settled({})).marks == tokenizer.marks
    exported = Backend.from_str(tokenizer.exported_json())
    assert exported.encode("ab").ids == ([1, _AB] if begins == "true" else [_AB])


def test_ends_beyond_those_that_files_name_are_kept_with_them():
    tokenizer = Tokenizer(metaspace_bpe(), Marks(1, True, (2, 1)))
    texts = tokenizer.settled({"tokenizer_config.json": '{"eos_token": "</s>", "model_max_length": 9}'})
    assert tokenizer.told_by(texts).marks == tokenizer.marks
    assert json.loads(texts["tokenizer_config.json"])["model_max_length"] == 9
    assert json.loads(texts["generation_config.json"])["eos_token_id"] == [2, 1]


def test_a_tokenizer_without_marks_has_no_files_of_settings():
    assert tokenizers.characters("ab").settled({}) == {}


UNKNOWN = {"SpecialToken": {"id": "<none>", "type_id": 0}}
SEQUENCE = {"Sequence": {"id": "A", "type_id": 0}}
TEMPLATE = {"type": "TemplateProcessing", "single": [UNKNOWN, SEQUENCE], "pair": [SEQUENCE], "special_tokens": {}}
PIECE = {"type": "WordPiece", "vocab": {"a": 0}, "unk_token": "?", "continuing_subword_prefix": "##",
         "max_input_chars_per_word": 9}  # fmt: skip
STRIP = {"type": "Strip", "content": "a", "start": 5, "stop": 5}


@pytest.mark.parametrize(
    "change",
    [
        {"normalizer": {"type": "Precompiled", "precompiled_charsmap": ""}},
        {"normalizer": {"type": "Replace", "pattern": {"String": ""}, "content": "x"}},
        {
            "model": {
                "type": "BPE",
                "vocab": {"a": 0, "b": 1},
                "merges": [["a", "b"]],
                "continuing_subword_prefix": "##",
            }
        },
        {"model": {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": "ab"}},
        {"post_processor": TEMPLATE},
        {"model": PIECE, "added_tokens": []},
        {"decoder": STRIP},
    ],
    ids=str,
)
def test_a_tokenizer_that_makes_its_library_panic_is_refused_on_loading_or_when_it_is_used(tmp_path, change):
    text = json.dumps(
        json.loads(tokenizers.byte_level_bpe({"a": 0, "b": 1, "c": 2}, [], [], "gpt-2").to_json()) | change
    )
    with pytest.raises(ValueError, match=r"tokenizer"):
        tokenizer = saved(tmp_path, text)
        tokenizer.decode(tokenizer.encode("abc"))


@pytest.mark.parametrize("backend", [metaspace_bpe, unigram])
def test_bytes_of_another_encoding_on_a_command_line_are_no_text(backend):
    tokenizer = Tokenizer(backend(), Marks(1, True, (2,), template="{{ messages[0].content }}"))
    text = b"caf\xe9".decode("utf-8", "surrogateescape")
    asked = conversation.spelled([{"role": "user", "content": text}])
    for encode in (tokenizer.encode, tokenizer.encode_whole, tokenizer.encode_prompt, tokenizer.encode_after):
        with pytest.raises(ValueError, match=r"is not Unicode: it holds '\\udce9'"):
            encode(text)
    for prompt in (text, asked):
        with pytest.raises(ValueError, match="is not Unicode"):
            tokenizer.encode_pair(prompt, "ab")


# --- prompts and completions --------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", [metaspace_bpe, unigram])
def test_a_completion_begins_without_a_spare_space(backend):
    tokenizer = Tokenizer(backend(), Marks(1, True, (2,)))
    assert tokenizer.encode_pair("ab", "ab") == ([1, _AB], [AB])
    assert tokenizer.encode_pair("ab", " ab") == ([1, _AB], [_AB])
    assert tokenizer.encode_pair("ab\n", "a") == ([1, _AB, PIECES.index("<0x0A>")], [A])
    assert tokenizer.encode_after("ab") == [AB]
    assert tokenizer.encode_after(" ab") == [_AB]
    assert tokenizer.encode_pair("", "ab") == ([1], [_AB])


@pytest.mark.parametrize("backend", [metaspace_bpe, unigram])
@pytest.mark.parametrize(
    ("prompt", "completion", "expected"),
    [
        ("ab a", "b", ([1, _AB], [_AB])),  # the last token holds " a" of the prompt and "b"
        ("ab ", "a", ([1, _AB], [_A])),
        ("aba", "b", ([1, _AB], [AB])),
    ],
)
def test_a_token_of_both_belongs_to_the_completion(backend, prompt, completion, expected):
    assert Tokenizer(backend(), Marks(1, True, (2,))).encode_pair(prompt, completion) == expected


def test_tokens_of_the_prompt_alone_stay_in_it_where_its_end_is_split_differently():
    vocab = {letter: id for id, letter in enumerate("abcd")} | {"bc": 4, "cd": 5}
    tokenizer = tokenizers.byte_level_bpe(vocab, [("c", "d"), ("b", "c")], [], "gpt-2")
    assert tokenizer.encode("abc") == [0, 4]
    assert tokenizer.encode_pair("abc", "d") == ([0, 1], [5])  # a, b | cd


def test_byte_level_tokens_of_both_belong_to_the_completion():
    vocab = {"a": 0, "b": 1, "Ġ": 2, "Ġa": 3, "ab": 4, "Ã": 5, "©": 6}
    tokenizer = tokenizers.byte_level_bpe(vocab, [("Ġ", "a"), ("a", "b")], [], "gpt-2")
    assert tokenizer.encode_pair("b ", "a") == ([1], [3])
    assert tokenizer.encode_pair("b", " a") == ([1], [3])
    assert tokenizer.encode_pair("a", "b") == ([], [4])
    assert tokenizer.encode_pair("b", "é") == ([1], [5, 6])


def test_character_tokenizers_encode_both_as_each_alone():
    tokenizer = tokenizers.characters("ab\n", ["ab"])
    assert tokenizer.encode_pair("ab\n", "abb") == ([3, 2], [3, 1])


# --- what was sampled ---------------------------------------------------------------------------------------------

NEWLINE = PIECES.index("<0x0A>")


@pytest.mark.parametrize(
    ("tokens", "stored", "expected"),
    [
        # As sampled, though encoding the text would give other tokens than these three.
        ([UNDERSCORE, A, B, NEWLINE, NEWLINE], " ab\n\n", [UNDERSCORE, A, B, NEWLINE, NEWLINE]),
        ([AB, NEWLINE, NEWLINE], " ab\n\n", [AB, NEWLINE, NEWLINE]),  # stored with a space that was not sampled
        ([_AB, UNDERSCORE, NEWLINE, NEWLINE], " ab\n\n", [_AB, UNDERSCORE, NEWLINE, NEWLINE]),
        ([UNDERSCORE, A, B, 2], " ab\n\n", [UNDERSCORE, A, B, 2]),  # the end of text takes the place of the stop
        ([UNDERSCORE, A, B, NEWLINE, 2], " ab\n\n", [UNDERSCORE, A, B, NEWLINE, 2]),
        # Cut behind what was stored: the stop is put there.
        ([UNDERSCORE, A, B, _A, B, NEWLINE, NEWLINE], " ab\n\n", [UNDERSCORE, A, B, NEWLINE, NEWLINE]),
        ([UNDERSCORE, A, B, _A, 2], " ab\n\n", [UNDERSCORE, A, B, NEWLINE, NEWLINE]),
        ([_A, AB], " aa\n\n", [_A, A, NEWLINE, NEWLINE]),  # a token that goes on beyond what was stored
        ([UNDERSCORE, A, B], " ab\n\n", [UNDERSCORE, A, B, NEWLINE, NEWLINE]),  # the limit was met
        ([_A, B], " ba\n\n", None),  # other text
    ],
)
def test_what_was_sampled_is_trained_on_as_it_was_sampled(tokens, stored, expected):
    tokenizer = Tokenizer(metaspace_bpe(), Marks(1, True, (2,)))
    assert as_sampled(tokens, stored, tokenizer, ("\n\n", "\nb")) == expected


def test_a_stop_with_letters_is_distinguished_from_the_text():
    vocab = {letter: id for id, letter in enumerate("ab!")} | {"<e>": 3}
    tokenizer = tokenizers.byte_level_bpe(vocab, [], ["<e>"], "gpt-2").marked(Marks(ends=(3,)))
    assert as_sampled([0, 2], "a!", tokenizer, ("!",)) == [0, 2]
    assert as_sampled([0, 3], "a!", tokenizer, ("!",)) == [0, 3]
    assert as_sampled([0, 1, 2], "a!", tokenizer, ("!",)) == [0, 2]


def test_a_character_of_several_tokens_is_kept_whole():
    vocab = {letter: id for id, letter in enumerate(["a", "Ã", "©", "!", "©a"])} | {"<e>": 5}
    tokenizer = tokenizers.byte_level_bpe(vocab, [("©", "a")], ["<e>"], "gpt-2").marked(Marks(ends=(5,)))
    assert as_sampled([1, 2, 0, 0], "é!", tokenizer, ("!",)) == [1, 2, 3]
    assert as_sampled([0, 1, 4, 0], "aé!", tokenizer, ("!",)) == [0, 1, 2, 3]  # half of it is in a token that goes on


def test_with_characters_the_stored_text_is_trained_on_with_the_sampled_tokens():
    tokenizer = tokenizers.characters("ab \n", ["ab"])
    assert as_sampled([3, 0, 1, 3, 3], "ab\n\n", tokenizer, ("\n\n",)) == [0, 1, 3, 3]  # "a", "b": no word
    assert as_sampled([4, 3, 3], " ab\n\n", tokenizer, ("\n\n",)) == [2, 4, 3, 3]
