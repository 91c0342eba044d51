"""Your own questions: fields, graders, templates and splits as the YAML says; what is wrong is named with its place."""

import json
from dataclasses import replace

import numpy as np
import pytest

from qstar.tasks.jsonl import Jsonl

ROWS = [{"question": f"What is {n} and {n}?", "answer": 2 * n} for n in range(200)]


@pytest.fixture
def write(tmp_path):
    def lines(name, rows):
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(tmp_path / name)

    return lines


def test_a_file_of_questions_and_answers_is_a_task(write):
    task = Jsonl(path=write("sums.jsonl", ROWS), answers="numeric")
    splits = {split: task.problems(split) for split in ("train", "dev", "test")}
    assert sum(map(len, splits.values())) == 200
    assert 8 <= len(splits["dev"]) <= 32 and 8 <= len(splits["test"]) <= 32
    assert len({one.question for found in splits.values() for one in found}) == 200
    one = splits["train"][0]
    assert (task.prompt(one), task.hinted(one)) == (f"Q: {one.question}\nA:", f"Q: {one.question} ({one.answer})\nA:")
    assert task.grader(task.direct(one), one.answer).correct
    assert task.problems("dev") == splits["dev"]


def test_a_question_that_occurs_twice_falls_into_one_split(write):
    task = Jsonl(path=write("twice.jsonl", ROWS + ROWS), answers="numeric", dev=0.3, test=0.3)
    questions = [{one.question for one in task.problems(split)} for split in ("train", "dev", "test")]
    assert sum(map(len, questions)) == len(set.union(*questions)) == 200


def test_files_of_dev_and_test_take_nothing_from_the_first(write):
    files = {"dev_path": write("d.jsonl", ROWS[:3]), "test_path": write("t.jsonl", ROWS[3:7])}
    task = Jsonl(path=write("sums.jsonl", ROWS[7:]), answers="numeric", **files)
    assert [len(task.problems(split)) for split in ("train", "dev", "test")] == [193, 3, 4]
    assert [one.id for one in task.problems("dev")] == ["d-0", "d-1", "d-2"]
    mixed = replace(task, test_path="", test=0.5)
    assert len(mixed.problems("train")) + len(mixed.problems("test")) == 193


def test_a_question_of_a_named_file_is_left_out_of_the_others(write, caplog):
    files = {"dev_path": write("d.jsonl", ROWS[:5]), "test_path": write("t.jsonl", ROWS[3:9])}
    task = Jsonl(path=write("sums.jsonl", ROWS), answers="numeric", **files)
    splits = {split: task.problems(split) for split in ("train", "dev", "test")}
    assert {split: len(found) for split, found in splits.items()} == {"train": 191, "dev": 3, "test": 6}
    assert len({one.question for found in splits.values() for one in found}) == 200
    assert "9 of 200 questions of train" in caplog.text and "2 of 5 questions of dev" in caplog.text
    whole = Jsonl(path=files["dev_path"], dev_path=files["dev_path"], answers="numeric")
    assert len(whole.problems("dev")) == 5
    with pytest.raises(ValueError, match=r"all 5 questions of train are in dev_path"):
        replace(whole, test=0.0).problems("train")


def test_fields_are_read_where_they_are(write):
    row = {
        "id": 17,
        "ask": " Who? ",
        "gold": "Ada  Byron",
        "hint": "a countess",
        "rationale": "A.\n\nB.",
        "group": "easy",
    }
    task = Jsonl(path=write("who.jsonl", [row]), question_field="ask", answer_field="gold", dev=0, test=0)
    (one,) = task.problems("train")
    assert (one.id, one.question, one.answer, one.hint) == ("17", "Who?", "ada byron", "a countess")
    assert (one.rationale, one.group) == ("A.\nB.", "easy")
    assert task.hinted(one) == "Q: Who? (a countess)\nA:"
    assert task.completion(one.rationale, one) == " A.\nB.\n#### ada byron\n\n"


@pytest.mark.parametrize(
    ("answer", "value"),
    [("1e16", "10000000000000000"), ("1E-7", "0.0000001"), ("3.0", "3.0"), ("-0.5", "-0.5"), ("7", "7"),
     (40 * "1", 40 * "1")],
)  # fmt: skip
def test_numbers_are_spelled_without_exponents(tmp_path, answer, value):
    (tmp_path / "n.jsonl").write_text('{"question": "?", "answer": ' + answer + "}\n")
    (one,) = Jsonl(path=str(tmp_path / "n.jsonl"), dev=0, test=0).problems("train")
    assert one.answer == value


def test_null_and_nan_are_absent_where_a_field_may_be_absent(tmp_path):
    absent = '"messages": null, "id": null, "hint": NaN, "rationale": null, "group": NaN'
    (tmp_path / "n.jsonl").write_text('\ufeff{"question": "a\u2028b", "answer": 1, ' + absent + "}\n")
    (one,) = Jsonl(path=str(tmp_path / "n.jsonl"), answers="numeric", dev=0, test=0).problems("train")
    assert (one.id, one.question, one.hint, one.rationale, one.group) == ("n-0", "a\u2028b", "", "", "")


def test_templates_ask_in_other_words(write):
    task = Jsonl(
        path=write("sums.jsonl", ROWS), answers="numeric", prompt_template="{question}\nThink:",
        hint_template="{question}\nHint: it is {hint}.\nThink:",
    )  # fmt: skip
    one = task.problems("train")[0]
    assert task.prompt(one) == f"{one.question}\nThink:"
    assert task.hinted(one) == f"{one.question}\nHint: it is {one.answer}.\nThink:"
    assert task.shown(one) == f"Hint: it is {one.answer}."
    assert Jsonl(path="x").shown(one) == f" ({one.answer})"


def test_braces_in_questions_are_text(write):
    task = Jsonl(path=write("set.jsonl", [{"question": "Is {hint} in {question}?", "answer": "no"}]), dev=0, test=0)
    (one,) = task.problems("train")
    assert task.prompt(one) == "Q: Is {hint} in {question}?\nA:"
    assert task.hinted(one) == "Q: Is {hint} in {question}? (no)\nA:"


def test_choices_have_the_letters_that_are_given(write):
    task = Jsonl(
        path=write("c.jsonl", [{"question": "?", "answer": "g"}]), answers="choice", letters="FG", dev=0, test=0
    )
    (one,) = task.problems("train")
    assert one.answer == "G"
    assert [task.grader(f" #### {letter}\n", "G").correct for letter in ("G", "F", "A")] == [True, False, False]


def test_options_that_a_question_lists_are_known_to_the_grader(write):
    rows = [{"question": "Which?\nA. not sure\nB. ink", "answer": "A"}, {"question": "Which one?", "answer": "A"}]
    task = Jsonl(path=write("c.jsonl", rows), answers="choice", dev=0, test=0)
    listed, bare = task.problems("train")
    assert task.grader(" #### not sure (a)\n", listed.gold).correct
    assert not task.grader(" #### ink (a)\n", listed.gold).correct
    assert bare.gold == "A"
    strict = replace(task, strict=True)
    assert not strict.grader(" #### not sure (a)\n", listed.gold).correct
    assert strict.grader(" #### (a)\n", listed.gold).correct


def test_few_shot_examples_come_from_a_file(write):
    shots = [{"question": f"{n}?", "answer": n, "rationale": "Count."} for n in range(3)]
    task = Jsonl(path=write("sums.jsonl", ROWS), answers="numeric", shots_path=write("s.jsonl", shots), num_shots=2)
    one = task.problems("train")[0]
    shown = task.shots(one, np.random.default_rng(0))
    assert task.prompt(one, shown).startswith("Q: 0?\nA: Count.\n#### 0\n\nQ: 1?\nA: Count.\n#### 1\n\nQ: What")


@pytest.mark.parametrize(
    ("rows", "values", "message"),
    [
        ([{"question": "?"}], {}, r"q.jsonl:1 lacks the field 'answer'; it has question"),
        ([{"question": "?", "answer": "1"}], {"question_field": "q"}, r"q.jsonl:1 lacks the field 'q'; it has answer"),
        ([{"question": "?", "answer": ["1"]}], {}, r"q.jsonl:1: field 'answer' is a list, expected a str"),
        ([{"question": "?", "answer": True}], {}, r"q.jsonl:1: field 'answer' is a bool, expected a str"),
        ([{"question": "?", "answer": None}], {}, r"q.jsonl:1: field 'answer' is a NoneType, expected a str"),
        ([{"question": "?", "answer": float("nan")}], {}, r"q.jsonl:1: field 'answer' is nan, expected a finite"),
        ([{"question": "?", "answer": float("-inf")}], {}, r"q.jsonl:1: field 'answer' is -inf"),
        ([{"question": "?", "answer": "1", "id": float("inf")}], {}, r"q.jsonl:1: field 'id' is inf"),
        ([{"question": float("nan"), "answer": "1"}], {}, r"q.jsonl:1: field 'question' is a float"),
        ([{"question": 5, "answer": "1"}], {}, r"q.jsonl:1: field 'question' is a int, expected a str"),
        ([{"question": "?", "answer": "1"}, {"question": "?", "answer": "many"}], {"answers": "numeric"},
         r"q.jsonl:2: answer 'many'.*number"),
        ([{"question": "?", "answer": " "}], {}, r"q.jsonl:1: answer '' is none that can be graded"),
        ([{"id": 1, "question": "?", "answer": "1"}, {"id": 1, "question": "!", "answer": "1"}], {},
         r"q.jsonl:2: id '1' stands at .*q.jsonl:1 already; ids must be unique"),
        ([], {}, r"q.jsonl holds no questions"),
    ],
)  # fmt: skip
def test_bad_rows_are_refused_with_file_line_and_field(write, rows, values, message):
    with pytest.raises(ValueError, match=message):
        Jsonl(path=write("q.jsonl", rows), **values).problems("train")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"hint_template": "Q: {question}\nA:"}, r"hint_template = .* has no slot \{hint\}"),
        ({"hint_template": "{hint}"}, r"hint_template = '\{hint\}' has no slot \{question\}"),
        ({"prompt_template": "Q:"}, r"prompt_template = 'Q:' has no slot \{question\}"),
        ({"prompt_template": "{question} {hint}"}, r"shows the hint: only hint_template may"),
        ({"answers": "fuzzy"}, r"task.answers = 'fuzzy': choose one of exact, numeric, choice, symbolic"),
        (
            {"prompt_template": r"{question}\nA:"},
            r"prompt_template = .* has a backslash and an n, which are not a line",
        ),
        ({"hint_template": r"{question}\n{hint}"}, r"hint_template = .* has a backslash and an n"),
        ({"dev": 0.5, "test": 0.5}, r"task.dev = 0.5 and task.test = 0.5: expected shares that leave some"),
        ({"num_shots": 2}, r"task.num_shots = 2, but task.shots_path names no file"),
    ],
)
def test_settings_that_cannot_be_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        Jsonl(path="q.jsonl", **values)


def test_missing_files_are_named_with_their_setting(write):
    with pytest.raises(FileNotFoundError, match=r"path: 'nowhere.jsonl' is not a file"):
        Jsonl(path="nowhere.jsonl").problems("train")
    with pytest.raises(FileNotFoundError, match=r"test_path: 'nowhere.jsonl' is not a file"):
        Jsonl(path=write("q.jsonl", ROWS), test_path="nowhere.jsonl").problems("test")
    with pytest.raises(FileNotFoundError, match=r"shots_path: 'nowhere.jsonl' is not a file"):
        Jsonl(path="q.jsonl", shots_path="nowhere.jsonl", num_shots=1)


def test_a_path_that_is_not_given_is_named():
    with pytest.raises(FileNotFoundError, match=r"task.path is not given: expected the path of a file"):
        Jsonl().problems("train")
