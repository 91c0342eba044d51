"""GSM8K, CommonsenseQA and SVAMP as tasks of self-training: splits, prompts, hints, our own examples, bad files."""

import json
import os
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from qstar.tasks import problem, svamp
from qstar.tasks.commonsense_qa import CommonsenseQA
from qstar.tasks.gsm8k import GSM8K
from qstar.tasks.problem import Problem
from qstar.tasks.svamp import SVAMP

DATA = os.environ.get("QSTAR_DATA", "")
needs_data = pytest.mark.skipif(not DATA, reason="QSTAR_DATA names no folder with the data sets")
RNG = np.random.default_rng(0)
TASKS = {
    "gsm8k": (GSM8K, "gsm8k", {"train": 6731, "dev": 742, "test": 1319}),
    "commonsense_qa": (CommonsenseQA, "commonsenseqa", {"train": 8722, "dev": 1019, "test": 1221}),
    "svamp": (SVAMP, "svamp", {"train": 588, "dev": 94, "test": 318}),
}
HENS = Problem("train-0", "Ana has 3 hens, Ben 4. How many hens?", "7", rationale="3 + 4 = <<3+4=7>>7")
PET = Problem(
    "x",
    "What barks?\nAnswer Choices:\n(a) cat\n(b) dog (or wolf)\n(c) hen\n(d) cow\n(e) ant",
    "B",
    rationale="Dogs bark.",
)


@pytest.fixture(scope="module")
def read():
    """Every split of a data set, read once."""
    found = {}

    def splits(name):
        if name not in found:
            task, folder, _ = TASKS[name]
            task = task(folder=f"{DATA}/{folder}")
            found[name] = task, {split: task.problems(split) for split in problem.SPLITS}
        return found[name]

    return splits


@needs_data
@pytest.mark.parametrize("name", TASKS)
def test_splits_hold_every_question_once(read, name):
    _, splits = read(name)
    assert {split: len(found) for split, found in splits.items()} == TASKS[name][2]
    everything = [one for found in splits.values() for one in found]
    assert len({one.id for one in everything}) == len(everything)
    assert len({one.question for one in everything}) == len(everything)


@needs_data
@pytest.mark.parametrize("name", TASKS)
def test_our_examples_are_in_no_data_set(read, name):
    task, splits = read(name)
    words = {frozenset(re.findall(r"[a-z]+", one.question.lower())) for found in splits.values() for one in found}
    for example in task.examples:
        own = set(re.findall(r"[a-z]+", example.question.lower())) - {"answer", "choices", "a", "b", "c", "d", "e"}
        assert max(len(own & other) / len(own | other) for other in words) < 0.6


@needs_data
@pytest.mark.parametrize("name", TASKS)
def test_human_rationales_are_right_by_the_grader_and_survive_cleaning(read, name):
    task, splits = read(name)
    for one in splits["dev"]:
        text = task.completion(one.rationale, one)
        assert task.grader(text, one.answer).correct, one.id
        assert task.cleaned(text) == text
        assert text.endswith("\n\n") and text.count("\n\n") == 1


@needs_data
def test_variations_of_a_svamp_problem_lie_in_one_split(read):
    """By the hash of each question alone, 87 in 100 problems of test shared six in ten words with one of train."""
    _, splits = read("svamp")
    train, test = (
        [set(re.findall(r"[a-z]+", one.question.lower())) for one in splits[split]] for split in ("train", "test")
    )
    near = [max(len(mine & other) / len(mine | other) for other in train) > 0.6 for mine in test]
    assert sum(near) / len(near) < 0.02


def test_svamp_families_are_joined_by_shared_words():
    hens, bread, both, geese = "3 red hens", "Bo sells bread", "4 red hens and 2 white geese", "9 white geese"
    assert svamp.families((hens, bread, both, geese, "Di sells bread")) == [0, 1, 0, 0, 1]
    assert svamp.families((hens, geese, bread)) == [0, 1, 2]
    assert svamp.families((hens, geese, bread, both)) == [0, 0, 2, 0]  # the last joins what was apart


# --- our own examples ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("task", "count"), [(GSM8K(), 6), (CommonsenseQA(), 7), (SVAMP(), 6)])
def test_our_examples_are_right_by_the_grader(task, count):
    shots = task.shots(HENS, RNG)
    assert len(shots) == count
    for shot in shots:
        assert task.grader(task.completion(shot.rationale, shot), shot.answer).correct
        assert task.grader(task.direct(shot), shot.answer).correct
        assert task.grader.canonical(shot.answer) == shot.answer


def test_the_calculations_of_our_examples_are_right():
    count = 0
    for shot in (*GSM8K().examples, *SVAMP().examples):
        for left, right in re.findall(r"([\d+*/ -]+\d) = \$?(?:<<[^>]*>>)?(\d+)", shot.rationale):
            assert eval(left) == int(right), shot.rationale
            count += 1
        for left, inside, right in re.findall(r"<<([\d+*/-]+)=(\d+)>>(\d+)", shot.rationale):
            assert eval(left) == int(inside) == int(right)
    assert count == 24


def test_the_examples_of_commonsense_qa_do_not_favour_a_letter():
    letters = [shot.answer for shot in CommonsenseQA().examples]
    assert set(letters) == set("ABCDE") and max(map(letters.count, letters)) <= 2


def test_fewer_examples_can_be_requested_but_not_more():
    assert [shot.id for shot in GSM8K(num_shots=2).shots(HENS, RNG)] == ["shot-0", "shot-1"]
    with pytest.raises(ValueError, match=r"num_shots = 8: there are 7 few-shot examples"):
        CommonsenseQA(num_shots=8)
    with pytest.raises(ValueError, match=r"max_new_tokens = 0"):
        SVAMP(max_new_tokens=0)


# --- texts --------------------------------------------------------------------------------------------------------


def test_gsm8k_is_prompted_as_in_star():
    task, shot = GSM8K(), replace(HENS, question="One and one?", answer="2", rationale="1 + 1 = 2")
    assert task.prompt(HENS) == "Q: Ana has 3 hens, Ben 4. How many hens?\nA:"
    assert task.completion(HENS.rationale, HENS) == " 3 + 4 = <<3+4=7>>7\n#### 7\n\n"
    assert task.direct(HENS) == " #### 7\n\n"
    assert task.hinted(HENS, [shot]) == (
        "Q: One and one? (2)\nA: 1 + 1 = 2\n#### 2\n\nQ: Ana has 3 hens, Ben 4. How many hens? (7)\nA:"
    )
    assert task.shown(replace(HENS, hint="9")) == " (9)"
    assert task.prompt(HENS, [replace(shot, rationale="")]).startswith("Q: One and one?\nA: #### 2\n\nQ: Ana")


def test_commonsense_qa_is_prompted_as_in_star():
    task = CommonsenseQA()
    assert task.prompt(PET) == f"Q: {PET.question}\nA:"
    assert task.hinted(PET) == (
        "Q: What barks?\nAnswer Choices:\n(a) cat\n(b) dog (or wolf) (CORRECT)\n(c) hen\n(d) cow\n(e) ant\nA:"
    )
    assert "(c) hen (CORRECT)\n" in task.hinted(replace(PET, hint="C"))
    assert task.completion(PET.rationale, PET) == " Dogs bark. Therefore, the answer is (b).\n\n"
    assert task.direct(PET) == " Therefore, the answer is (b).\n\n"
    assert task.spellings(PET) == ("(b)", "dog (or wolf)")


@pytest.mark.parametrize(
    ("task", "written", "stored", "reasons"),
    [
        (GSM8K(), "\n 3 + 4 = 7\n#### 7 \nQ: next", " 3 + 4 = 7\n#### 7\n\n", " 3 + 4 = 7\n"),
        (GSM8K(), " 3 + 4 = 7", None, None),
        (
            CommonsenseQA(),
            " Dogs. Therefore, the answer is (b). So",
            " Dogs. Therefore, the answer is (b).\n\n",
            " Dogs. ",
        ),
        (CommonsenseQA(), " Dogs, so (b).", None, None),
    ],
)
def test_what_is_stored_is_cut_after_the_declared_answer(task, written, stored, reasons):
    assert task.cleaned(written) == stored
    assert (stored and task.reasons(stored)) == reasons


def test_commonsense_qa_compares_with_the_text_of_the_option(tmp_path):
    texts = ("cat", "not sure", "hen", "cow", "ant")
    row = asked(answerKey="B", question={"stem": "What?", "choices": [
        {"label": letter, "text": text} for letter, text in zip("ABCDE", texts, strict=True)
    ]})  # fmt: skip
    (tmp_path / "dev_rand_split.jsonl").write_text(json.dumps(row) + "\n")
    task = CommonsenseQA(folder=str(tmp_path))
    (one,) = task.problems("test")
    assert (one.answer, one.gold) == ("B", "B\n(A) cat\n(B) not sure\n(C) hen\n(D) cow\n(E) ant")
    said = "Therefore, the answer is {}.".format
    assert all(task.grader(said(text), one.gold).correct for text in ("(b)", "not sure (b)", "B. not sure"))
    for text in ("not (b)", "cat (b)", "(b) or (c)", "sure (b)", "isn\u2019t (b)"):
        assert not task.grader(said(text), one.gold).correct
        assert not CommonsenseQA(strict=True).grader(said(text), one.gold).correct
    assert not CommonsenseQA(strict=True).grader(said("B. not sure"), one.gold).correct
    assert task.cleaned("Dogs. Therefore, the answer is B. dog (or wolf)\nSo") == (
        " Dogs. Therefore, the answer is B. dog (or wolf)\n\n"
    )
    assert CommonsenseQA(strict=True).cleaned("Dogs. Therefore, the answer is B. dog (or wolf)\nSo") is None


@pytest.mark.parametrize("task", [GSM8K, SVAMP])
def test_strict_is_a_setting_of_every_task(task):
    assert task().grader("#### 72 dollars", "72").correct
    assert not task(strict=True).grader("#### 72 dollars", "72").correct
    assert task(strict=True).grader("#### $72.00", "72").correct


def test_numbers_of_thousands_have_two_spellings():
    assert GSM8K().spellings(replace(HENS, answer="12000")) == ("12000", "12,000")
    assert GSM8K().spellings(HENS) == ("7",)


@pytest.mark.parametrize(
    ("equation", "answer", "text"),
    [
        ("( 76.0 - 25.0 )", 51.0, "76 - 25 = 51"),
        ("( ( 3.0 + 5.0 ) + 2.0 )", 10.0, "(3 + 5) + 2 = 10"),
        ("( 5.0 / 2.0 )", 2.5, "5 / 2 = 2.5"),
        ("( 22090601.0 * 1.0 )", 22090601.0, "22090601 * 1 = 22090601"),
        ("( 76.0 - 25.0 )", 50.0, ""),  # one equation of the file does not come to its answer
        ("( 76.0 - x )", 50.0, ""),
        ("( 1.0 / 0.0 )", 1.0, ""),
        ("1e999", 1.0, ""),
        ("'one'", 1.0, ""),
        ("\0", 1.0, ""),
        (9999 * "(", 1.0, ""),
        (f"{9999 * '-'}1", 1.0, ""),
        ("+".join(9999 * "1"), 1.0, ""),
        (9999 * "9", 1.0, ""),
    ],
)
def test_svamp_equations_are_worked_where_they_come_to_the_answer(equation, answer, text):
    assert svamp.worked(equation, answer) == text


# --- bad files ----------------------------------------------------------------------------------------------------

CHOICES = [{"label": letter, "text": letter} for letter in "ABCDE"]


def asked(**change):
    return {"id": "1", "question": {"stem": "?", "choices": CHOICES}, "answerKey": "A"} | change


@pytest.mark.parametrize(
    ("task", "file", "rows", "message"),
    [
        (GSM8K, "test.jsonl", [{"question": "?", "answer": "#### 1"}, {"question": "?"}],
         r"test.jsonl:2 lacks the field 'answer'; it has question"),
        (GSM8K, "test.jsonl", [{"question": "?", "answer": "one"}], r"test.jsonl:1: the answer has no '#### NUMBER'"),
        (GSM8K, "test.jsonl", [{"question": "?", "answer": "#### one"}],
         r"test.jsonl:1: answer 'one'.*number"),
        (CommonsenseQA, "dev_rand_split.jsonl", [asked(), asked()],
         r"dev_rand_split.jsonl:2: id '1' stands at .*dev_rand_split.jsonl:1 already"),
        (CommonsenseQA, "dev_rand_split.jsonl", [asked(answerKey="F")], r":1: answer 'F' is none that can be graded"),
        (CommonsenseQA, "dev_rand_split.jsonl", [asked(question={"stem": "?", "choices": CHOICES[:4]})],
         r":1: the choices are not labelled A to E in order"),
    ],
)  # fmt: skip
def test_bad_rows_are_refused_with_file_and_line(tmp_path, task, file, rows, message):
    (tmp_path / file).write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(ValueError, match=message):
        task(folder=str(tmp_path)).problems("test")


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        ("[{", r"SVAMP.json is not JSON"),
        ('{"ID": 1}', r"expected a list of problems"),
        ('[{"ID": "1", "Body": "b.", "Question": "q?", "Answer": "two"}]',
         r"SVAMP.json, problem 1: field 'Answer' is a str \('two'\), expected a number"),
        ('[{"ID": "1", "Body": "b.", "Question": "q?", "Answer": NaN}]', r"problem 1: field 'Answer' is nan"),
        ('[{"ID": "1", "Body": "b.", "Question": "q?", "Answer": true}]', r"problem 1: field 'Answer' is a bool"),
    ],
)  # fmt: skip
def test_a_bad_svamp_file_is_refused(tmp_path, contents, message):
    (tmp_path / "SVAMP.json").write_text(contents)
    with pytest.raises(ValueError, match=message):
        SVAMP(folder=str(tmp_path)).problems("train")


def test_a_whole_number_in_svamp_is_that_number(tmp_path):
    row = '{"ID": "%s", "Body": "A\u2028hen.", "Question": "How many?", "Answer": %s, "Type": "t", "Equation": "%s"}'
    rows = (row % ("a", "3", "( 1.0 + 2.0 )"), row % ("b", "3.0", "( 1.0 + 2.0 )"), row % ("c", "1e3", ""))
    (tmp_path / "SVAMP.json").write_text("\ufeff[" + ",\n".join(rows) + "]", encoding="utf-8")
    task = SVAMP(folder=str(tmp_path))
    found = {one.id: one for split in problem.SPLITS for one in task.problems(split)}
    assert {id: one.answer for id, one in found.items()} == {"a": "3", "b": "3", "c": "1000"}
    assert found["a"].rationale == found["b"].rationale == "1 + 2 = 3"


def test_bodies_and_questions_of_svamp_may_be_empty(tmp_path):
    row = {"Answer": 1, "Type": "t", "Equation": ""}
    rows = [row | {"ID": str(number), "Body": body, "Question": question}
            for number, (body, question) in enumerate((("A hen", ""), ("", "How many?"), ("", "")))]  # fmt: skip
    (tmp_path / "SVAMP.json").write_text(json.dumps(rows))
    found = [one.question for split in problem.SPLITS for one in SVAMP(folder=str(tmp_path)).problems(split)]
    assert sorted(found) == ["", "A hen", "How many?"]


def test_a_path_that_is_no_name_of_a_file_is_refused_by_its_setting():
    with pytest.raises(ValueError, match=r"task\.folder = .*too long"):
        GSM8K(folder=500 * "x").problems("train")


def test_a_missing_file_is_named():
    for task in (GSM8K, CommonsenseQA, SVAMP):
        with pytest.raises(FileNotFoundError, match=r"task.folder = 'nowhere' has no \w+.json(l)?: set QSTAR_DATA"):
            task(folder="nowhere").problems("train")


# --- the test split -----------------------------------------------------------------------------------------------


def test_each_touch_of_the_test_split_is_written_down(tmp_path):
    rows = [{"question": f"{n}?", "answer": f"#### {n}"} for n in range(3)]
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = GSM8K(folder=str(tmp_path))
    assert len(task.problems("test")) == 3
    assert not (tmp_path / "test_touches.jsonl").exists()
    for reason in ("accuracy of iteration 4", "majority of 8"):
        assert problem.logged_test(task, tmp_path, reason) == task.problems("test")
    first, second = map(json.loads, Path(tmp_path / "test_touches.jsonl").read_text().splitlines())
    assert (first["task"], first["problems"], first["reason"]) == ("gsm8k", 3, "accuracy of iteration 4")
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", first["when"]) and first["when"] <= second["when"]
    with pytest.raises(ValueError, match="reason must say which"):
        problem.logged_test(task, tmp_path, " ")
