"""Labelled solutions: which tokens are judged, with which label, and what is refused."""

import json

import numpy as np
import pytest

from qstar.data import labelled
from qstar.data import tokenizer as tokenizers
from qstar.data.labelled import LabelledText
from qstar.structs import Labelled

LETTERS = tokenizers.characters("abcdefgh=;\n")
STEPS = {"prompt": "ab=", "completions": ["cd\n", "ef", "gh;"], "labels": [True, 0.25, False]}
OUTCOME = {"prompt": "a=", "completion": "bcd", "label": 1}


def config(folder, *records, **options):
    (folder / "labelled.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return LabelledText(str(folder / "labelled.jsonl"), **options)


def read(folder, *records, **options):
    return config(folder, *records, **options).read(LETTERS)


def test_the_last_token_of_each_step_is_judged(tmp_path):
    (solution,) = read(tmp_path, STEPS)
    assert LETTERS.decode(list(solution.completion)) == "cd\nef\ngh;\n"
    assert [LETTERS.decode([solution.completion[end]]) for end in solution.ends] == ["\n", "\n", "\n"]
    assert (solution.ends, solution.labels) == ((2, 5, 9), (1.0, 0.25, 0.0))


def test_a_step_that_ends_in_a_character_of_several_tokens_is_judged_at_the_last(tmp_path):
    tokenizer = tokenizers.byte_level_bpe({"a": 0, "=": 1, "Ã": 2, "©": 3}, [], [], "gpt-2")
    cfg = config(tmp_path, {"prompt": "a=", "completions": ["aé", "é"], "labels": [1, 0]}, separator="")
    (solution,) = cfg.read(tokenizer)
    assert (solution.completion, solution.ends) == ((0, 2, 3, 2, 3), (2, 4))


def test_without_a_separator_steps_stand_as_they_are(tmp_path):
    (solution,) = read(tmp_path, STEPS, separator="")
    assert LETTERS.decode(list(solution.completion)) == "cd\nefgh;"
    assert solution.ends == (2, 4, 7)


def test_an_outcome_judges_every_token_of_the_solution(tmp_path):
    (solution,) = read(tmp_path, OUTCOME)
    assert (solution.ends, solution.labels) == ((0, 1, 2), (1.0, 1.0, 1.0))


def test_sampled_ids_are_judged_as_they_were_sampled(tmp_path):
    ids = LETTERS.encode("bcd")[::-1]
    (solution,) = read(tmp_path, OUTCOME | {"completion_ids": ids})
    assert solution.completion == tuple(ids)


@pytest.mark.parametrize("separator", ["", "\n", ";"])
def test_steps_of_sampled_ids_end_where_they_were_written(tmp_path, separator):
    ids = LETTERS.encode("cd=efgh;")
    sampled = {"prompt": "ab=", "completions": ["cd=", "ef", "gh;"], "labels": [1, 0, 0], "completion_ids": ids}
    (solution,) = read(tmp_path, sampled, separator=separator)
    assert solution.completion == tuple(ids)
    assert solution.ends == (2, 4, 7)


def test_steps_that_are_not_the_text_of_the_sampled_ids_are_refused(tmp_path):
    sampled = {"prompt": "a=", "completions": ["cd", "ef"], "labels": [1, 0], "completion_ids": LETTERS.encode("cdeg")}
    with pytest.raises(ValueError, match=r"labelled.jsonl.*'cdef'.*'cdeg'"):
        read(tmp_path, sampled)


def test_a_step_without_a_label_is_not_judged(tmp_path):
    (solution,) = read(tmp_path, STEPS | {"labels": [True, None, False]})
    assert (solution.ends, solution.labels) == ((2, 9), (1.0, 0.0))
    with pytest.raises(ValueError, match="no step has a label"):
        read(tmp_path, STEPS | {"labels": [None, None, None]})


def test_steps_after_the_first_wrong_one_are_not_judged_where_that_is_asked(tmp_path):
    (solution,) = read(tmp_path, STEPS, until_first_wrong=True)
    assert (solution.ends, solution.labels) == ((2, 5), (1.0, 0.25))
    (right,) = read(tmp_path, STEPS | {"labels": [1, 1, 1]}, until_first_wrong=True)
    assert len(right.ends) == 3


def test_rows_hold_every_solution_once_with_its_labels(tmp_path):
    solutions = read(tmp_path, STEPS, OUTCOME, STEPS, separator="")
    rows = labelled.rows(solutions, 16, seed=0)
    assert all(isinstance(row, Labelled) for row in rows)
    judged = [
        (LETTERS.decode([int(row.tokens[s])]), float(row.label[s])) for row in rows for s in np.flatnonzero(row.judged)
    ]
    of_steps, of_outcome = [("\n", 1.0), ("f", 0.25), (";", 0.0)], [("b", 1.0), ("c", 1.0), ("d", 1.0)]
    assert sorted(judged) == sorted(2 * of_steps + of_outcome)
    assert all(not np.any(row.judged & ~row.mask) and not np.any(row.label[~row.judged]) for row in rows)
    assert sum(int(row.mask.sum()) for row in rows) == 8 + 3 + 8  # prompts do not count


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"completion": "b", "label": 1}, "lacks the text of prompt"),
        ({"prompt": "a=", "completion": "b"}, "expected completion"),
        ({"prompt": "a=", "completions": ["b"], "labels": [1, 0]}, "a list as long"),
        ({"prompt": "a=", "completions": [], "labels": []}, "a list as long"),
        ({"prompt": "a=", "completions": [1], "labels": [1]}, "a list as long"),
        (OUTCOME | {"label": 1.5}, "label 1.5: expected"),
        (OUTCOME | {"label": float("nan")}, "label nan: expected"),
        (OUTCOME | {"label": "yes"}, "label 'yes': expected"),
        (OUTCOME | {"completion": ""}, "the solution is empty"),
        (OUTCOME | {"completion_ids": [99]}, "completion_ids"),
        (OUTCOME | {"completion": "bzd"}, "character 'z' at "),
    ],
)
def test_lines_that_are_not_labelled_solutions_are_named(tmp_path, record, message):
    with pytest.raises(ValueError, match=rf"labelled.jsonl.*1.*{message}"):
        read(tmp_path, record)


def test_a_separator_that_the_tokenizer_cannot_write_is_named(tmp_path):
    cfg = config(tmp_path, {"prompt": "a=", "completions": ["c", "d"], "labels": [1, 0]}, separator="\t")
    with pytest.raises(ValueError, match=r"labelled.jsonl.*1: data.separator = '\\t' .* character '\\t'"):
        cfg.read(LETTERS)


@pytest.mark.parametrize("step", ["", " "])
def test_a_first_step_without_a_token_is_refused(tmp_path, step):
    """It would be judged at the last token of the prompt."""
    cfg = config(tmp_path, {"prompt": "a=", "completions": [step, "cd"], "labels": [1, 0]}, separator="")
    tokenizer = LETTERS if not step else tokenizers.byte_level_bpe({"a": 0, "=": 1, "c": 2, "d": 3}, [], [], "gpt-2")
    with pytest.raises(ValueError, match=rf"labelled\.jsonl:1: step 1 is '{step}'"):
        cfg.read(tokenizer)


def test_a_record_in_no_known_format_is_told_the_known_ones(tmp_path):
    with pytest.raises(ValueError, match=r"it has steps: expected .*Math-Shepherd, PRM800K or OmegaPRM"):
        read(tmp_path, {"steps": ["cd"]})


def test_ten_thousand_steps_are_found_in_linear_time(tmp_path, monkeypatch):
    decoded, decode = [], tokenizers.Tokenizer.decode
    monkeypatch.setattr(tokenizers.Tokenizer, "decode", lambda self, ids: decoded.append(len(ids)) or decode(self, ids))
    steps = {"prompt": "a=", "completions": ["cd"] * 10_000, "labels": [1] * 10_000}
    (solution,) = read(tmp_path, steps)
    assert solution.ends == tuple(range(2, 30_000, 3))
    assert sum(decoded) < 10 * 30_000


def test_two_steps_that_end_in_one_token_are_refused(tmp_path):
    joined = tokenizers.characters("abcd=", words=("cd",))
    cfg = config(tmp_path, {"prompt": "a=", "completions": ["c", "d"], "labels": [1, 0]}, separator="")
    with pytest.raises(ValueError, match="steps 1 and 2 end in the same token"):
        cfg.read(joined)


def test_solutions_that_are_longer_than_a_row_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"1 of 2 solutions are longer than a row of 8 tokens, the longest has 13"):
        labelled.rows(read(tmp_path, OUTCOME, STEPS), 8, seed=0)
    with pytest.raises(ValueError, match="no labelled solution"):
        labelled.rows([], 8, seed=0)
    with pytest.raises(FileNotFoundError, match=r"data.path = .*absent"):
        LabelledText(str(tmp_path / "absent")).read(LETTERS)


def test_a_separator_of_a_backslash_and_an_n_is_refused():
    with pytest.raises(ValueError, match=r"data.separator = .* has a backslash and an n, which are not a line break"):
        LabelledText("labelled.jsonl", separator=r"\n")
