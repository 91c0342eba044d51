"""STaR's sums: the scratchpad to the letter, splits that share no sum, budgets counted from the digits."""

import re
from dataclasses import replace

import numpy as np
import pytest

from qstar.data import tokenizer as tokenizers
from qstar.tasks import arithmetic
from qstar.tasks.arithmetic import Arithmetic

SMALL = Arithmetic(digits=(1, 2, 3), train=60, dev=20, test=30)
CARRIED = """\
<scratch>
5 8 8 + 4 6 6 , C: 0
8 + 6 , 4 C: 1
5 + 4 , 5 4 C: 1
, 0 5 4 C: 1
1 0 5 4
</scratch>
1 0 5 4

"""
PLAIN = """\
<scratch>
5 8 + 4 1 , C: 0
5 + 4 , 9 C: 0
, 9 9 C: 0
0 9 9
</scratch>
9 9

"""


def of(a, b):
    """The problem a + b."""
    question = f"{' '.join(str(a))} + {' '.join(str(b))}"
    return arithmetic.Problem(
        "x", question, " ".join(str(a + b)), " ".join(f"{a + b:0{len(str(a)) + 1}d}"), arithmetic.scratchpad(a, b),
        str(len(str(a))),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("a", "b", "text"),
    [
        (588, 466, CARRIED),
        (58, 41, PLAIN),
        (3, 2, "<scratch>\n3 + 2 , C: 0\n, 5 C: 0\n0 5\n</scratch>\n5\n\n"),
        (9, 9, "<scratch>\n9 + 9 , C: 0\n, 8 C: 1\n1 8\n</scratch>\n1 8\n\n"),
    ],
)
def test_completions_are_the_papers_scratchpads(a, b, text):
    problem = of(a, b)
    assert SMALL.completion(problem.rationale, problem) == text
    assert SMALL.cleaned(text) == text


def test_prompts_are_the_papers():
    shot, problem = of(3, 2), of(58, 41)
    assert SMALL.prompt(problem) == "Input:\n5 8 + 4 1\nTarget:\n"
    assert SMALL.prompt(problem, [shot]) == (
        "Input:\n3 + 2\nTarget:\n<scratch>\n3 + 2 , C: 0\n, 5 C: 0\n0 5\n</scratch>\n5\n\nInput:\n5 8 + 4 1\nTarget:\n"
    )
    assert (
        SMALL.prompt(problem, [replace(shot, rationale="")])
        == "Input:\n3 + 2\nTarget:\n5\n\nInput:\n5 8 + 4 1\nTarget:\n"
    )
    assert SMALL.direct(problem) == "9 9\n\n"


def test_the_hint_is_the_scratchpads_last_line():
    shot, problem = of(3, 2), of(58, 41)
    assert SMALL.hinted(problem) == "Input:\n5 8 + 4 1\nTarget: 0 9 9\n"
    assert SMALL.hinted(problem, [shot]).startswith("Input:\n3 + 2\nTarget: 0 5\n<scratch>\n3 + 2 , C: 0\n")
    assert SMALL.hinted(replace(problem, hint="1 2 3")) == "Input:\n5 8 + 4 1\nTarget: 1 2 3\n"


def test_every_problem_is_a_right_sum_with_its_hint_and_scratchpad():
    for split in ("train", "dev", "test"):
        for problem in SMALL.problems(split):
            a, b = (int(text.replace(" ", "")) for text in problem.question.split(" + "))
            assert int(problem.answer.replace(" ", "")) == int(problem.hint.replace(" ", "")) == a + b
            assert len(str(a)) == len(str(b)) == int(problem.group) == problem.hint.count(" ")
            assert f"\n{problem.hint}\n</scratch>" in problem.rationale


def test_splits_share_no_sum_not_even_with_swapped_terms():
    task = Arithmetic(digits=(1, 2), train=3000, dev=500, test=500)
    sums = {
        split: {frozenset(problem.question.split(" + ")) for problem in task.problems(split)}
        for split in ("train", "dev", "test")
    }
    assert not sums["train"] & sums["test"] and not sums["train"] & sums["dev"] and not sums["dev"] & sums["test"]


def test_problems_are_counted_per_number_of_digits():
    def counts(split):
        groups = [problem.group for problem in SMALL.problems(split)]
        return {digits: groups.count(digits) for digits in ("1", "2", "3")}

    assert counts("train") == {"1": 60, "2": 60, "3": 60}
    assert counts("dev") == {"1": 11, "2": 20, "3": 20}  # there are no more of one digit
    assert counts("test") == {"1": 10, "2": 30, "3": 30}
    for split in ("dev", "test"):
        assert len({problem.question for problem in SMALL.problems(split)}) == len(SMALL.problems(split))
    assert len({problem.id for problem in SMALL.problems("train")}) == 180


def test_the_seed_decides_and_digits_do_not_depend_on_each_other():
    assert SMALL.problems("train") == replace(SMALL).problems("train")
    assert SMALL.problems("train") != replace(SMALL, seed=1).problems("train")
    alone = Arithmetic(digits=(3,), train=60, dev=20, test=30).problems("dev")
    assert alone == SMALL.problems("dev")[-20:]


def test_shots_are_train_sums_of_as_many_digits_and_never_the_question():
    question = next(problem for problem in SMALL.problems("train") if problem.group == "1")
    for seed in range(20):
        shots = SMALL.shots(question, np.random.default_rng(seed))
        assert len(shots) == 10 and {shot.group for shot in shots} == {"1"}
        for shot in shots:
            a, b = map(int, shot.question.split(" + "))
            assert arithmetic.split_of(a, b) == "train"
            assert shot.question != question.question
    assert SMALL.shots(question, np.random.default_rng(3)) == SMALL.shots(question, np.random.default_rng(3))


class Words:
    """Cuts text as GPT-2 does before it merges: a lower bound of its tokens."""

    def encode(self, text):
        return re.findall(r" ?[A-Za-z]+| ?[0-9]+| ?[^\sA-Za-z0-9]+|\s+(?!\S)|\s+", text)


def test_budgets_are_the_tokens_of_the_longest_right_completion():
    # What research notes counted in the official format, with one more: the blank line may be two tokens.
    budgets = [SMALL.budget(of(10**n - 1, 10**n - 1), Words()) for n in range(1, 11)]
    assert budgets == [29, 43, 58, 74, 91, 109, 128, 148, 169, 191]


def test_no_right_completion_needs_more_than_the_budget():
    characters = tokenizers.characters(arithmetic.ALPHABET)
    for problem in SMALL.problems("train"):
        needed = len(characters.encode(SMALL.completion(problem.rationale, problem)))
        assert needed <= SMALL.budget(problem, characters)
    assert SMALL.budget(of(12, 13), characters) == len("<scratch>\n9 9 + 9 9 , C: 0\n9 + 9 , 8 C: 1\n, 9 8 C: 1\n"
                                                       "1 9 8\n</scratch>\n1 9 8\n\n")  # fmt: skip


def test_the_alphabet_spells_every_prompt_and_completion():
    problem = of(588, 466)
    text = SMALL.hinted(problem) + SMALL.completion(problem.rationale, problem)
    assert set(text) <= set(arithmetic.ALPHABET)


@pytest.mark.parametrize(
    ("written", "correct", "reason"),
    [
        (CARRIED, True, "right"),
        (CARRIED.replace("</scratch>\n1 0 5 4", "</scratch>\n1 0 5 5"), False, "wrong"),
        (CARRIED.partition("</scratch>")[0], False, "no answer"),  # the right line stands there, undeclared
        ("1 0 5 4\n\n", True, "right"),  # a direct answer
        ("1 0 5\n4\n\n", False, "wrong"),
        (CARRIED + "Input:\n1 + 1\nTarget:\n<scratch>\n</scratch>\n2\n", False, "several answers"),
        ("", False, "no answer"),
    ],
)
def test_the_line_after_the_scratchpad_is_graded(written, correct, reason):
    verdict = SMALL.grader(written, "1 0 5 4")
    assert (verdict.correct, verdict.reason) == (correct, reason)


def test_what_is_stored_is_cut_after_the_answer():
    assert SMALL.cleaned("\n" + PLAIN + "Input:\n3 + 3\nTarget:\n") == PLAIN
    assert SMALL.cleaned(PLAIN.replace("\n9 9\n\n", "\n9 9")) == PLAIN
    assert SMALL.cleaned("9 9\n\n") is None
    assert SMALL.cleaned("<scratch>\n5 8 + 4 1 , C: 0\n") is None


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"digits": ()}, r"task.digits = \[\]: expected different numbers from 1 to 18"),
        ({"digits": (2, 2)}, r"task.digits = \[2, 2\]: expected different"),
        ({"digits": (0, 1)}, r"task.digits = \(0, 1\), in it 0: expected an integer from 1 up to 18"),
        ({"test": 20_001}, r"task.test = 20001: expected an integer from 1 up to 20000"),
        ({"train": 0}, r"task.train = 0: expected a positive integer"),
        ({"num_shots": -1}, r"task.num_shots = -1: expected 0 or a positive integer"),
    ],
)
def test_settings_that_cannot_be_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        Arithmetic(**values)


def test_a_gold_answer_must_be_spaced_digits():
    with pytest.raises(ValueError, match=r"gold answer '1054' is not a number in spaced digits"):
        SMALL.grader.canonical("1054")
    with pytest.raises(ValueError, match=r"split is 'val', expected one of train, dev, test"):
        SMALL.problems("val")
