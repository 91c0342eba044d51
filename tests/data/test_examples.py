"""Prompts with completions as rows."""

import numpy as np
import pytest

from qstar.data.examples import Example, ExamplesText, rows, write


class Letters:
    ends, size, spells_characters = (), 128, True

    def encode(self, text):
        return [ord(letter) for letter in text]

    encode_prompt = encode_after = encode

    def reply_end(self, prompt):
        return []

    def encode_pair(self, prompt, completion):
        return self.encode(prompt), self.encode(completion)


def test_a_file_of_examples_is_read_as_it_was_written(tmp_path):
    file = tmp_path / "examples.jsonl"
    write(file, [{"prompt": "a", "completion": "bc\n"}, {"prompt": "d", "completion": "e", "weight": -0.5}])
    assert ExamplesText(str(file)).read(Letters()) == [Example((97,), (98, 99, 10)), Example((100,), (101,), -0.5)]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"prompt": "a", "answer": "b"}', ":2 lacks the text of completion; it has prompt, answer"),
        ('{"prompt": "a", "completion": 3}', ":2 lacks the text of completion"),
        (
            '{"prompt": "a", "completion": "b", "weight": "heavy"}',
            ":2: field 'weight' is a str .'heavy'., expected a number",
        ),
    ],
)
def test_a_line_that_is_not_an_example_is_named(tmp_path, line, message):
    (tmp_path / "examples.jsonl").write_text('{"prompt": "a", "completion": "b"}\n' + line + "\n")
    with pytest.raises(ValueError, match=message):
        ExamplesText(str(tmp_path / "examples.jsonl")).read(Letters())


@pytest.mark.parametrize(
    ("line", "place"),
    [
        ("{", ":2 is not JSON"),
        ('{"prompt": "a", "prompt": "b", "completion": "c"}', ":2 has the key 'prompt' twice in one object"),
        ("[]", ":2 is a JSON list"),
        ('{"prompt": NaN, "completion": "b"}', ":2 lacks the text of prompt"),
        ('{"prompt": "a", "completion": "b", "weight": NaN}', ":2: field 'weight' is nan"),
        ('{"prompt": "a", "completion": "b", "weight": 1e999}', ":2: field 'weight' is inf"),
        ('{"prompt": "a", "completion": "b", "weight": true}', ":2: field 'weight' is a bool"),
        ('{"prompt": "a", "completion": "b", "weight": ' + 5000 * "9" + "}", ":2 is not JSON that can be read"),
        (5000 * "[", ":2 is (not )?JSON"),
        (r'{"prompt": "a \uD83D b", "completion": "b"}', ":2 is not Unicode"),
    ],
)
def test_a_damaged_line_is_named_by_file_and_number(tmp_path, line, place):
    (tmp_path / "examples.jsonl").write_text('{"prompt": "a", "completion": "b"}\n' + line + "\n")
    with pytest.raises(ValueError, match=rf"examples\.jsonl{place}"):
        ExamplesText(str(tmp_path / "examples.jsonl")).read(Letters())


def test_lines_end_at_newlines_alone_and_blank_ones_and_a_mark_are_nothing(tmp_path):
    raw = '\ufeff{"prompt": "a\u2028b", "completion": "\u0085"}\r\n\n \t\n'
    raw += '{"prompt": "c", "completion": "\u2029d", "weight": null}'
    (tmp_path / "examples.jsonl").write_bytes(raw.encode())
    assert ExamplesText(str(tmp_path / "examples.jsonl")).read(Letters()) == [
        Example((97, 0x2028, 98), (0x85,)),
        Example((99,), (0x2029, 100), 1.0),
    ]


def test_escaped_characters_of_two_halves_are_read(tmp_path):
    (tmp_path / "examples.jsonl").write_text(r'{"prompt": "\ud83d\ude00", "completion": "b"}')
    assert ExamplesText(str(tmp_path / "examples.jsonl")).read(Letters()) == [Example((0x1F600,), (98,))]


def test_examples_in_another_encoding_are_named_with_the_byte(tmp_path):
    (tmp_path / "examples.jsonl").write_bytes(b'{"prompt": "a", "completion": "b"}\n{"prompt": "\xff')
    with pytest.raises(ValueError, match=r"examples\.jsonl is not UTF-8: byte 0xff at byte offset 47"):
        ExamplesText(str(tmp_path / "examples.jsonl")).read(Letters())


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none.jsonl' is no file: .* with prompt and completion"):
        ExamplesText(str(tmp_path / "none.jsonl")).read(Letters())


def test_a_row_holds_whole_examples_and_only_completions_count():
    found = rows([Example((1, 2), (3,), 0.5), Example((4,), (5, 6), -1.0), Example((7,), (8, 9, 1))], 7, seed=0)
    assert len(found) == 2
    by_first = {int(row.tokens[0]): row for row in found}
    documents = sorted(
        (tuple(row.tokens[row.segment == s].tolist()), tuple(row.mask[row.segment == s].tolist()))
        for row in found
        for s in range(1, int(row.segment.max()) + 1)
    )
    assert documents == [
        ((1, 2, 3), (False, False, True)),
        ((4, 5, 6), (False, True, True)),
        ((7, 8, 9, 1), (False, True, True, True)),
    ]
    weight = {int(row.tokens[i]): float(row.weight[i]) for row in found for i in range(7) if row.mask[i]}
    assert (weight[3], weight[6], weight[9]) == (0.5, -1.0, 1.0)
    for row in by_first.values():
        padding = row.segment == 0
        assert not row.mask[padding].any()
        assert not row.weight[padding].any()
        assert row.position[row.segment == 1].tolist() == list(range(int((row.segment == 1).sum())))


def test_prompts_count_where_the_loss_is_on_all_of_the_text():
    (row,) = rows([Example((1, 2), (3,))], 5, seed=0, prompts_count=True)
    assert row.mask.tolist() == [True, True, True, False, False]
    assert row.weight.tolist() == [1, 1, 1, 0, 0]


def test_rows_are_a_function_of_the_seed_and_hold_every_example_once():
    examples = [Example((i,), (i,) * (i % 5 + 1)) for i in range(1, 300)]
    one, same, other = (rows(examples, 12, seed) for seed in (1, 1, 2))
    text = lambda found: np.stack([row.tokens for row in found]).tolist()  # noqa: E731
    assert text(one) == text(same) != text(other)
    for found in (one, other):
        first = np.concatenate([row.tokens[(row.position == 0) & (row.segment > 0)] for row in found])
        assert sorted(first.tolist()) == list(range(1, 300))
        used = sum(int((row.segment > 0).sum()) for row in found)
        assert used / (12 * len(found)) > 0.95


@pytest.mark.parametrize(
    ("examples", "message"),
    [
        ([], "no example to train on"),
        ([Example((1,), ()), Example((1,), (2,))], "1 of 2 examples have no completion"),
        (
            [Example((1,) * 9, (2,)), Example((1,), (2,))],
            "1 of 2 examples are longer than a row of 8 tokens, the longest has 10",
        ),
    ],
)
def test_what_makes_no_rows_is_refused(examples, message):
    with pytest.raises(ValueError, match=message):
        rows(examples, 8, seed=0)
