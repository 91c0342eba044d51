import dataclasses
from pathlib import Path

import numpy as np
import pytest

from qstar.data import pipeline, tokenizer
from qstar.data.pipeline import TextConfig
from qstar.structs import Batch

LETTERS = tokenizer.characters("abcdefghijklmnopqrstuvwxyz")
PAD = 99


def config(folder: Path, *documents: str, **options) -> TextConfig:
    file = folder / "text.txt"
    file.write_text("\n<|doc|>\n".join(documents))
    return TextConfig(paths=(str(file),), cache_dir=str(folder / "cache"), **options)


def take(batches, count: int) -> list[Batch]:
    return [next(batches) for _ in range(count)]


def rows(batches: list[Batch]) -> list[list[int]]:
    return [row.tolist() for batch in batches for row in batch.tokens]


def words(count: int) -> list[str]:
    return [chr(97 + i // 26) + chr(97 + i % 26) + "xyz" for i in range(count)]


def test_a_short_document_is_padded_and_the_padding_does_not_count(tmp_path):
    batch = next(pipeline.text_batches(config(tmp_path, "abc", length=5), LETTERS, 2, seed=0, pad_id=PAD))
    np.testing.assert_array_equal(batch.tokens, [[0, 1, 2, PAD, PAD]] * 2)
    np.testing.assert_array_equal(batch.mask, [[True, True, True, False, False]] * 2)
    np.testing.assert_array_equal(batch.segment, [[1, 1, 1, 0, 0]] * 2)
    np.testing.assert_array_equal(batch.position, [[0, 1, 2, 0, 0]] * 2)
    assert [leaf.dtype.name for leaf in dataclasses.astuple(batch)] == ["int32", "bool", "int32", "int32"]


def test_crops_are_windows_of_a_document_and_every_window_comes_up(tmp_path):
    batches = pipeline.text_batches(config(tmp_path, "abcdef", length=4), LETTERS, 10, seed=0, pad_id=PAD)
    seen = {tuple(row) for row in rows(take(batches, 10))}
    assert seen == {(0, 1, 2, 3), (1, 2, 3, 4), (2, 3, 4, 5)}


def test_every_epoch_visits_every_document_once_in_another_order_with_other_crops(tmp_path):
    documents = [letter * 3 + letter * i for i, letter in enumerate("abcdefghij")]
    batches = pipeline.text_batches(config(tmp_path, *documents, length=2), LETTERS, 10, seed=0, pad_id=PAD)
    first, second = ([row[0] for row in rows([batch])] for batch in take(batches, 2))
    assert sorted(first) == sorted(second) == list(range(10))
    assert first != second


def test_windows_of_one_document_differ_between_epochs(tmp_path):
    batches = pipeline.text_batches(
        config(tmp_path, "abcdefghijklmnopqrstuvwxyz", length=2), LETTERS, 1, seed=0, pad_id=PAD
    )
    assert len({row[0] for row in rows(take(batches, 8))}) > 3


def test_packing_fills_windows_and_numbers_documents_and_positions_again(tmp_path):
    cfg = config(tmp_path, "abc", "defg", "ab", "xyzv", window="pack", length=4)
    corpus = pipeline.load_corpus(cfg, LETTERS)
    first, second, third = (pipeline.packed(corpus, 4, i) for i in range(3))
    assert first.tokens.tolist() == [0, 1, 2, 3]
    assert first.segment.tolist() == [1, 1, 1, 2]
    assert first.position.tolist() == [0, 1, 2, 0]
    assert second.tokens.tolist() == [4, 5, 6, 0]
    assert second.segment.tolist() == [1, 1, 1, 2]
    assert second.position.tolist() == [0, 1, 2, 0]
    assert third.tokens.tolist() == [1, 23, 24, 25]
    assert third.segment.tolist() == [1, 2, 2, 2]
    assert third.position.tolist() == [0, 0, 1, 2]
    assert third.mask.tolist() == [True] * 4


def test_packed_batches_hold_every_full_window_once_an_epoch(tmp_path):
    cfg = config(tmp_path, "abc", "defg", "ab", "xyzv", window="pack", length=4)
    batch = next(pipeline.text_batches(cfg, LETTERS, 3, seed=0, pad_id=PAD))
    assert sorted(rows([batch])) == [[0, 1, 2, 3], [1, 23, 24, 25], [4, 5, 6, 0]]  # "v" does not fill a window
    assert [leaf.dtype.name for leaf in dataclasses.astuple(batch)] == ["int32", "bool", "int32", "int32"]


@pytest.mark.parametrize("window", ["crop", "pack"])
def test_batch_k_is_a_function_of_seed_and_k(tmp_path, window):
    cfg = config(tmp_path, *words(40), window=window, length=3)
    straight = rows(take(pipeline.text_batches(cfg, LETTERS, 4, seed=7, pad_id=PAD), 30))
    dataset = pipeline.text_dataset(cfg, LETTERS, 4, seed=7, pad_id=PAD)
    assert rows([dataset[k] for k in (29, 3, 17)]) == straight[116:120] + straight[12:16] + straight[68:72]
    assert rows(take(pipeline.text_batches(cfg, LETTERS, 4, seed=8, pad_id=PAD), 30)) != straight


def test_an_iterator_restored_from_its_state_resumes_where_it_was(tmp_path):
    cfg = config(tmp_path, *words(40), length=3)
    batches = pipeline.text_batches(cfg, LETTERS, 4, seed=7, pad_id=PAD)
    take(batches, 11)
    state, expected = batches.get_state(), rows(take(batches, 5))
    again = pipeline.text_batches(cfg, LETTERS, 4, seed=7, pad_id=PAD)
    again.set_state(state)
    assert rows(take(again, 5)) == expected


def epoch(cfg: TextConfig, split: str) -> set[str]:
    corpus = pipeline.load_corpus(cfg, LETTERS, split)
    return {LETTERS.decode(corpus.document(i)) for i in range(len(corpus.starts) - 1)}


def test_the_heldout_split_and_the_train_split_are_disjoint_and_complete(tmp_path):
    cfg = config(tmp_path, *words(200), heldout_fraction=0.25)
    train, heldout = epoch(cfg, "train"), epoch(cfg, "heldout")
    assert not train & heldout
    assert train | heldout == set(words(200))
    assert 30 < len(heldout) < 70


def test_a_document_stays_in_its_split_when_others_come_and_go(tmp_path):
    heldout = epoch(config(tmp_path, *words(100), heldout_fraction=0.25), "heldout")
    more = epoch(config(tmp_path, *reversed(words(200)), heldout_fraction=0.25), "heldout")
    assert heldout == more & set(words(100))


def test_an_end_of_text_token_follows_every_document_where_it_is_requested(tmp_path):
    ending = LETTERS.marked(dataclasses.replace(LETTERS.marks, ends=(25, 24)))
    plain, ended = (
        pipeline.load_corpus(config(tmp_path, "abc", "de", end_of_text=end), ending) for end in (False, True)
    )
    assert plain.tokens.tolist() == [0, 1, 2, 3, 4]
    assert ended.tokens.tolist() == [0, 1, 2, 25, 3, 4, 25]
    with pytest.raises(ValueError, match=r"data.end_of_text=true: .* no end-of-text token"):
        pipeline.load_corpus(config(tmp_path, "abc", end_of_text=True), LETTERS)


def test_a_larger_heldout_share_contains_the_smaller(tmp_path):
    small = epoch(config(tmp_path, *words(200), heldout_fraction=0.1), "heldout")
    large = epoch(config(tmp_path, *words(200), heldout_fraction=0.3), "heldout")
    assert small < large


def test_real_text_keeps_its_characters(tmp_path):
    file = Path(__file__).parents[1] / "excerpts" / "logic.txt"
    letters = tokenizer.characters("".join(sorted(set(file.read_text()))))
    cfg = TextConfig(paths=[str(file)], length=64, cache_dir=str(tmp_path))
    for row in rows(take(pipeline.text_batches(cfg, letters, 4, seed=0, pad_id=0), 3)):
        assert letters.decode(row) in file.read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"paths": ()}, "data.paths is empty"),
        ({"window": "slide"}, "data.window = 'slide': choose one of crop, pack"),
        ({"length": 1}, "data.length = 1: expected an integer of at least 2"),
        ({"heldout_fraction": 1.0}, "data.heldout_fraction = 1.0: expected a number from 0 up to, not including, 1"),
    ],
)
def test_bad_settings_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        TextConfig(**{"paths": ("a.txt",), **options})


def test_a_config_from_lists_can_be_hashed():
    assert hash(TextConfig(paths=["a.txt"])) == hash(TextConfig(paths=("a.txt",)))


def test_a_text_that_cannot_be_encoded_is_shown_with_the_setting_of_its_file(tmp_path):
    with pytest.raises(ValueError, match=r"data.paths: the document that begins with 'no 1': character ' ' at 2"):
        pipeline.load_corpus(config(tmp_path, "abc", "no 1"), LETTERS)


def test_a_corpus_without_a_usable_window_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no usable window: 3 tokens in 1 documents, window 'pack' of 8 tokens"):
        pipeline.text_batches(config(tmp_path, "abc", window="pack", length=8), LETTERS, 1, seed=0, pad_id=PAD)
    with pytest.raises(ValueError, match="no usable window: 0 tokens in 0 documents"):
        pipeline.text_batches(config(tmp_path, "a", "b"), LETTERS, 1, seed=0, pad_id=PAD)
    with pytest.raises(ValueError, match=r"split 'heldout' .* heldout_fraction 0\.0"):
        pipeline.text_batches(config(tmp_path, "abc"), LETTERS, 1, seed=0, pad_id=PAD, split="heldout")
    with pytest.raises(ValueError, match="split is 'test'"):
        pipeline.load_corpus(config(tmp_path, "abc"), LETTERS, "test")


class Counting:
    """A generated task: item i is a function of i."""

    def __getitem__(self, index: int) -> Batch:
        return pipeline.pad_row(np.asarray([index, index + 1]), 3, PAD)


class FiveRows(Counting):
    def __len__(self) -> int:
        return 5


def test_a_generated_task_comes_in_its_own_order_without_end():
    batches = pipeline.source_batches(Counting(), 2)
    assert rows(take(batches, 2)) == [[0, 1, PAD], [1, 2, PAD], [2, 3, PAD], [3, 4, PAD]]
    batches.set_state({"next_index": 10**9})
    assert rows([next(batches)])[0] == [2 * 10**9, 2 * 10**9 + 1, PAD]


def test_a_source_with_a_length_is_repeated_and_with_a_seed_shuffled_each_epoch():
    assert [row[0] for row in rows(take(pipeline.source_batches(FiveRows(), 2), 4))] == [0, 1, 2, 3, 4, 0, 1, 2]
    shuffled = [row[0] for row in rows(take(pipeline.source_batches(FiveRows(), 5, seed=3), 6))]
    epochs = [tuple(shuffled[i : i + 5]) for i in range(0, 30, 5)]
    assert all(sorted(order) == [0, 1, 2, 3, 4] for order in epochs)
    assert len(set(epochs)) > 2


def test_a_source_that_cannot_be_shuffled_is_refused():
    with pytest.raises(ValueError, match="Counting has no length and cannot be shuffled"):
        pipeline.source_batches(Counting(), 2, seed=0)
    with pytest.raises(ValueError, match="list has 0 rows"):
        pipeline.source_batches([], 2)
