import json
import os
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from qstar.data import builders

EXCERPTS = Path(__file__).parents[1] / "excerpts"


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def texts(*paths: Path, **options) -> list[str]:
    return [record["text"].decode() for record in builders.prepare_text(paths, paths[0].parent / "cache", **options)]


def only(cache: Path, pattern: str) -> Path:
    (found,) = cache.glob(pattern)
    return found


def test_a_text_file_is_split_at_separator_lines_in_order_and_blank_documents_vanish(tmp_path):
    file = write(tmp_path / "a.txt", "one\nline two\n<|doc|>\n \n\n<|doc|>  \n\ntwo <|doc|> inline\n<|doc|>\nthree")
    assert texts(file) == ["one\nline two", "two <|doc|> inline", "three"]


def test_a_file_without_separator_is_one_document(tmp_path):
    assert texts(write(tmp_path / "a.txt", "one\n\ntwo\n")) == ["one\n\ntwo"]


def test_json_lines_give_the_named_field_and_several_are_joined_by_newlines(tmp_path):
    file = write(tmp_path / "a.jsonl", '{"q": "1+1?", "a": "2"}\n\n{"q": "ü", "a": "x"}\n')
    assert texts(file, field="q") == ["1+1?", "ü"]
    assert texts(file, field="q+a") == ["1+1?\n2", "ü\nx"]


@pytest.mark.parametrize(("name", "content"), [("a.txt", "one\u2028two"), ("a.jsonl", '{"text": "one\u2028two"}')])
def test_a_byte_order_mark_is_no_text_and_a_line_separator_ends_no_line(tmp_path, name, content):
    assert texts(write(tmp_path / name, b"\xef\xbb\xbf" + content.encode())) == ["one\u2028two"]


def test_a_folder_gives_its_text_files_in_sorted_order(tmp_path):
    folder = tmp_path / "corpus"
    (folder / "sub").mkdir(parents=True)
    write(folder / "b.txt", "b"), write(folder / "a.md", "a"), write(folder / "sub" / "c.jsonl", '{"text": "c"}')
    write(folder / "LICENSE", "not text of the corpus")
    assert texts(folder) == ["a", "b", "c"]


def test_the_prepared_metadata_records_source_checksum_and_licence(tmp_path):
    builders.gsm8k(EXCERPTS / "gsm8k", "test", tmp_path)
    metadata = json.loads(only(tmp_path, "*/qstar_gsm8k/1.0.0/metadata.json").read_text())
    (source,) = metadata["sources"]["test"]
    assert source["path"].endswith("gsm8k/test.jsonl")
    assert source["bytes"] == 704
    assert source["sha256"] == "77db3cee0acdcb54270aa91ab7a45a449c5c12be8fec64017448c23e65c9fa5f"
    assert source["licence"].startswith("MIT License\n\nCopyright (c) 2021 OpenAI")


def test_the_same_content_is_prepared_once_even_from_another_place(tmp_path):
    builders.prepare_text([write(tmp_path / "a.txt", "one")], tmp_path / "cache")
    records = only(tmp_path / "cache", "*/qstar_text/1.0.1/*array_record*")
    os.utime(records, (1, 1))
    builders.prepare_text([write(tmp_path / "moved.txt", "one")], tmp_path / "cache")
    assert only(tmp_path / "cache", "*/qstar_text/1.0.1/*array_record*").stat().st_mtime == 1


def test_changed_content_and_changed_options_are_prepared_again(tmp_path):
    file = write(tmp_path / "a.txt", "one\n--\ntwo")
    assert texts(file) == ["one\n--\ntwo"]
    assert texts(file, separator="--") == ["one", "two"]
    write(file, "three")
    assert texts(file) == ["three"]


def test_a_failed_preparation_leaves_nothing_that_passes_for_data(tmp_path):
    file = write(tmp_path / "a.jsonl", '{"text": "fine"}\n{"text": broken}\n')
    with pytest.raises(ValueError):
        texts(file)
    assert list((tmp_path / "cache").rglob("*array_record*")) == []
    write(file, '{"text": "fine"}\n')
    assert texts(file) == ["fine"]


def test_a_preparation_that_another_process_finishes_first_is_used(tmp_path, monkeypatch):
    file = write(tmp_path / "a.txt", "one\n<|doc|>\ntwo")
    documents, rivals = builders.documents, []

    def overtaken(*args):
        if not rivals:
            rivals.append(True)
            builders.prepare_text([file], tmp_path / "cache")
        return documents(*args)

    monkeypatch.setattr(builders, "documents", overtaken)
    assert texts(file) == ["one", "two"]
    assert rivals


def test_preparing_announces_no_download_and_writes_nothing_to_standard_output(tmp_path, capsys):
    texts(write(tmp_path / "a.txt", "one"))
    said = capsys.readouterr()
    assert said.out == "" and "ownload" not in said.err


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"abc\xff", r"a\.txt is not UTF-8: byte 0xff at byte offset 3"),
        ("a.jsonl", b'{"text": "abc"}\n{"text": "\xff"}', r"a\.jsonl is not UTF-8: byte 0xff at byte offset 26"),
        ("a.jsonl", b'{"text": "a"}\n{"text": }', r"a\.jsonl:2 is not JSON: .* column 10"),
        ("a.jsonl", b'{"text": "a"}\n\n{"body": "b"}', r"a\.jsonl:3 lacks the field 'text'; it has body"),
        ("a.jsonl", b'{"text": 3}', r"a\.jsonl:1: field 'text' is a int, expected a str"),
        ("a.jsonl", b"[1]", r"a\.jsonl:1 is a JSON list"),
        ("a.txt", b" \n<|doc|>\n\t", r"no documents: .*a\.txt"),
        ("a.jsonl", b"", r"no documents: .*a\.jsonl"),
    ],
)
def test_bad_text_is_refused_with_its_place(tmp_path, name, content, message):
    with pytest.raises(ValueError, match=message):
        texts(write(tmp_path / name, content))


def test_missing_paths_and_empty_folders_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.txt does not exist"):
        builders.prepare_text([tmp_path / "nowhere.txt"], tmp_path)
    with pytest.raises(ValueError, match="holds no text"):
        builders.prepare_text([tmp_path], tmp_path)
    with pytest.raises(FileNotFoundError, match=r"train\.jsonl does not exist"):
        builders.gsm8k(tmp_path, "train", tmp_path)
    with pytest.raises(ValueError, match="split is 'validation', expected one of train, test"):
        builders.gsm8k(EXCERPTS / "gsm8k", "validation", tmp_path)


def test_gsm8k_comes_back_as_text(tmp_path):
    rows = builders.gsm8k(EXCERPTS / "gsm8k", "train", tmp_path)
    assert len(rows) == 3
    assert rows[0]["question"].startswith("Natalia sold clips to 48 of her friends in April")
    assert rows[0]["answer"].endswith("\n#### 72")


def test_commonsense_qa_comes_back_as_text(tmp_path):
    rows = builders.commonsense_qa(EXCERPTS / "commonsense_qa", "dev", tmp_path)
    assert rows == [
        {
            "question": "Where would a guest leave a wet umbrella?",
            "choices": ["oven", "hall stand", "piano", "fish tank", "letter"],
            "answer": "B",
        },
        {
            "question": "What does a baker need to make bread?",
            "choices": ["ink", "sand", "glass", "wool", "flour"],
            "answer": "E",
        },
    ]


def test_questions_of_the_wrong_form_are_refused_with_their_line(tmp_path):
    write(tmp_path / "train.jsonl", '{"question": "?", "answer": "72"}')
    with pytest.raises(ValueError, match=r"train\.jsonl:1: the answer has no '#### NUMBER'"):
        builders.gsm8k(tmp_path, "train", tmp_path)
    choices = [{"label": label, "text": "x"} for label in "ABCDF"]
    line = json.dumps({"answerKey": "A", "question": {"stem": "?", "choices": choices}})
    write(tmp_path / "dev_rand_split.jsonl", line)
    with pytest.raises(ValueError, match=r"dev_rand_split\.jsonl:1: the choices are not labelled A to E"):
        builders.commonsense_qa(tmp_path, "dev", tmp_path)
    write(tmp_path / "dev_rand_split.jsonl", line.replace('"F"', '"E"').replace('"answerKey": "A"', '"answerKey": "G"'))
    with pytest.raises(ValueError, match="answerKey is 'G'"):
        builders.commonsense_qa(tmp_path, "dev", tmp_path)


# --- the full sets ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data() -> Path:
    if "QSTAR_DATA" not in os.environ:
        pytest.skip("QSTAR_DATA is not set: it names the folder with the full data sets")
    return Path(os.environ["QSTAR_DATA"])


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


def test_the_full_sets_have_their_published_sizes(data, cache):
    assert len(builders.gsm8k(data / "gsm8k", "train", cache)) == 7473
    assert len(builders.gsm8k(data / "gsm8k", "test", cache)) == 1319
    assert len(builders.commonsense_qa(data / "commonsenseqa", "dev", cache)) == 1221


def test_no_gsm8k_test_question_is_in_the_mathematical_text(data, cache):
    paths = [data / "openlogic", data / "napkin", data / "discrete_book", data / "gsm8k" / "train.jsonl"]
    source = builders.prepare_text(paths, cache, field="question+answer")
    corpus = plain("\n".join(record["text"].decode() for record in source))
    train = builders.gsm8k(data / "gsm8k", "train", cache)
    assert all(plain(row["question"]) in corpus for row in train[::500])  # the search finds what is there
    test = builders.gsm8k(data / "gsm8k", "test", cache)
    assert [row["question"] for row in test if plain(row["question"]) in corpus] == []


def plain(text: str) -> str:
    """Letters and digits only, so that spacing, case and punctuation cannot hide a copy."""
    return re.sub(r"[\W_]+", " ", text).lower().strip()


@pytest.mark.parametrize("name", ["texts.parquet", "texts.arrow"])
def test_columnar_files_give_the_named_field(tmp_path, name):
    table = pa.table({"text": ["one", " ", "two\n"], "other": [1, 2, 3]})
    if name.endswith("parquet"):
        pq.write_table(table, tmp_path / name)
    else:
        with pa.OSFile(str(tmp_path / name), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
    assert texts(tmp_path / name) == ["one", "two"]
    with pytest.raises(ValueError, match=rf"{name}, row 1.*field 'other' is a int"):
        texts(tmp_path / name, field="other")
