# ruff: noqa: RUF001  (characters that look like others are the point)
"""What graders read as the declared answer, and how it is compared."""

import importlib.util
import re
import threading
import time
from pathlib import Path

import pytest

from qstar.tasks import gym
from qstar.tasks.grading import grade, program, sandbox, symbolic

HASH = grade.Declared("#### ")
needs_sympy = pytest.mark.skipif(importlib.util.find_spec("sympy") is None, reason="needs the extra math")
needs_gym = pytest.mark.skipif(importlib.util.find_spec("reasoning_gym") is None, reason="needs the extra gym")


@pytest.mark.parametrize(
    ("declared", "written", "answers"),
    [
        (HASH, "48/2 = 24\n#### 72\nmore", ["72"]),
        (HASH, "#### 1\n#### 2", ["1", "2"]),
        (HASH, "####72", []),
        (grade.Declared("</scratch>\n"), "<scratch>\n1\n</scratch>\n1 0 5 4\n\n", ["1 0 5 4"]),
        (grade.Declared("the answer is"), "So The Answer Is  (c).\nthe answer is", ["(c).", ""]),
        (grade.Declared("<answer>", "</answer>"), "<answer>1\n2</answer><answer>3", ["1\n2"]),
    ],
)
def test_answers_are_what_follows_the_prefix(declared, written, answers):
    assert declared.answers(written) == answers


def test_a_declaration_without_a_prefix_is_refused():
    with pytest.raises(ValueError, match="needs a text in front of it"):
        grade.Declared(" \n")


@pytest.mark.parametrize(
    ("written", "reason", "answer"),
    [
        ("#### 72", "right", "72"),
        ("#### 73", "wrong", "73"),
        ("72", "no answer", ""),
        ("#### \n", "no answer", ""),
        ("#### seventy", "unreadable", "seventy"),
        ("#### 72\n#### 73", "several answers", ""),
        ("#### 72\n#### 72.0", "right", "72"),
        ("#### " + "7" * 1001, "too long", ""),
        ("#### 72" + " " * 100_000, "too long", ""),
    ],
)
def test_a_verdict_says_why(written, reason, answer):
    assert grade.Numeric(HASH)(written, "72") == grade.Verdict(reason == "right", answer, reason)


@pytest.mark.parametrize(
    ("gold", "canonical"),
    [("72", "72"), ("1,000.50", "1000.5"), ("$5", "5"), ("-0.0", "0"), ("50%", "50"), ("007", "7"), ("3.", "3")],
)
def test_gold_numbers_have_one_spelling(gold, canonical):
    assert grade.Numeric(HASH).canonical(gold) == canonical


@pytest.mark.parametrize("gold", ["", "x", "1/2", "1e5", "nan", "7 2", "٧٢", "9**9**9", "1,00", "7" * 2000])
def test_gold_answers_that_are_not_numbers_are_refused(gold):
    with pytest.raises(ValueError, match="is not a number"):
        grade.Numeric(HASH).canonical(gold)


def test_numbers_of_many_digits_are_compared_exactly():
    long = "1" * 400
    assert grade.Numeric(HASH)(f"#### {long}", long).correct
    assert not grade.Numeric(HASH)(f"#### {long[:-1]}2", long).correct


def test_exact_compares_small_letters_and_single_spaces():
    exact = grade.Exact(HASH)
    assert exact.canonical(" The  Cat\n") == "the cat"
    assert exact("#### the CAT", "The cat").correct
    assert not exact("#### the c at", "The cat").correct
    with pytest.raises(ValueError, match="is empty"):
        exact.canonical(" ")


def test_choices_are_capital_letters():
    choice = grade.Choice(HASH, "ABC")
    assert [choice.canonical(gold) for gold in ("a", "B", "(c)")] == ["A", "B", "C"]
    with pytest.raises(ValueError, match="is none of the letters ABC"):
        choice.canonical("D")
    with pytest.raises(ValueError, match="capital letters"):
        grade.Choice(HASH, "abc")


def test_a_label_may_hold_words_and_articles_but_no_other_choice():
    choice = grade.Choice(HASH, "ABCDE", labelled=True)
    assert choice("#### a bank account (c)", "C").correct
    assert choice("#### rock and roll (c).", "C").correct
    assert [choice(f"#### {text}", "C").reason for text in ("plan b (c)", "no, not (c)", "B (c)")] == ["unreadable"] * 3


def test_answers_that_cannot_be_stored_are_cleaned():
    verdict = grade.Exact(HASH)("#### a\ud800b" + "c" * 500, "x")
    assert verdict.answer == "a?b" + "c" * 197


LIMITS = sandbox.Limits(seconds=20, cpu_seconds=2)


@pytest.mark.parametrize(
    ("kind", "text", "wanted", "equal"),
    [
        ("int", "72", "72", True),
        ("int", "-72", "72", False),
        ("float", "0.30000000000000004", "0.3", True),
        ("float", "0.3001", "0.3", False),
        ("float", "nan", "0.3", False),
        ("float", "inf", "72", False),
        ("float", "1e+22", "10000000000000000000000", True),
        ("Fraction", "1/2", "0.5", True),
        ("Fraction", "1/0", "0.5", False),
        ("Decimal", "1E+999999999", "72", False),
        ("Decimal", "72.00000000001", "72", False),
        ("str", "1,000", "1000", True),
        ("str", "72 or 73", "72", False),
        ("str", "The  Cat", "the cat", True),
        ("int", "7", "the cat", False),
        ("object", "72", "72", False),
    ],
)
def test_values_of_programs_are_compared_outside(kind, text, wanted, equal):
    assert program.Program().equal(kind, text, wanted) is equal


def test_programs_are_run_and_their_value_compared():
    grader = program.Program(limits=LIMITS)
    assert grader.canonical("1,000") == "1000" and grader.canonical("The Cat") == "the cat"
    written = "so\n```python\ndef solution():\n    return {}\n```\n"
    assert grader(written.format("9 * 8"), "72") == grade.Verdict(True, "72", "right")
    assert grader(written.format("9 * 9"), "72") == grade.Verdict(False, "81", "wrong")
    assert grader(written.format("1 / 0"), "72").reason == "crashed"
    assert grader(written.format("open('/etc/passwd')"), "72").reason in ("forbidden", "crashed")
    assert grader("9 * 8", "72").reason == "no answer"
    with pytest.raises(ValueError, match="tolerance"):
        program.Program(tolerance=-1)


@needs_sympy
def test_expressions_are_equal_by_value():
    grader = symbolic.Symbolic(HASH)
    for gold, right, wrong in (
        (r"\frac{1}{3}", "2/6", "0.333333333333333333"),
        ("x^2 + 2x + 1", "(x+1)^2", "(x+1)^3"),
        (r"\{1, 2\}", r"\{2, 1\}", r"\{1, 1\}"),
        ("(1, 2)", "(1, 4/2)", "(2, 1)"),
        ("[0, 1)", "[0, 1.0)", "[0, 1]"),
        ("0.5", r"\frac12", "50%"),
        ("x < 3", "x<3", "x<4"),
        ("1000", "1,000", "1,00"),
    ):
        assert grader(f"#### {right}", gold).reason == "right", right
        assert not grader(f"#### {wrong}", gold).correct, wrong


@needs_sympy
def test_expressions_without_a_value_are_not_gold_answers():
    grader = symbolic.Symbolic(HASH)
    assert grader.canonical(r"$\frac{1}{2}$") == r"\frac{1}{2}"
    for gold in ("", "the cat", "0/0", "((1)", r"\input{x}"):
        with pytest.raises(ValueError, match="gold answer"):
            grader.canonical(gold)


@needs_sympy
def test_a_comparison_that_never_ends_is_given_up_in_any_thread():
    grader, verdicts = symbolic.Symbolic(HASH, seconds=1), []
    thread = threading.Thread(target=lambda: verdicts.append(grader("#### 9^{9^{9^9}}", "72")))
    thread.start()
    thread.join(120)
    assert [verdict.reason for verdict in verdicts] == ["timeout"]
    assert grader("#### 72", "72").correct  # the worker goes on


def test_extras_that_are_missing_are_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r'pip install "\.\[math\]"'):
        symbolic.Symbolic(HASH)
    with pytest.raises(ImportError, match=r'pip install "\.\[gym\]"'):
        gym.ReasoningGym(HASH)


TAGS = grade.Declared("<answer>", "</answer>")


@needs_gym
@pytest.mark.slow  # two processes load the package
def test_questions_of_reasoning_gym_are_always_the_same():
    """polynomial_multiplication walks through sets: made here, its questions differ from process to process."""
    settings = {"seed": 3, "size": 4}
    first = gym.questions("polynomial_multiplication", settings, 0, 2)
    gym._maker().close()
    assert gym.questions("polynomial_multiplication", settings, 0, 2) == first
    grader = gym.ReasoningGym(TAGS)
    assert grader(f"<answer>{first[0].answer}</answer>", first[0].gold).correct
    assert not grader(f"<answer>{first[0].answer}</answer>", first[1].gold).correct


@needs_gym
def test_part_of_a_score_is_wrong():
    question = gym.questions("chain_sum", {"seed": 3, "size": 1}, 0, 1)[0]
    grader = gym.ReasoningGym(TAGS)
    assert grader.canonical(question.gold) == question.gold
    assert grader(f"<answer>{question.answer}</answer>", question.gold).reason == "right"
    assert grader(f"<answer>1{question.answer}</answer>", question.gold).reason == "wrong"


@needs_gym
def test_scorers_that_take_anything_are_not_believed():
    question = gym.questions("game_of_life_halting", {"seed": 3, "size": 1}, 0, 1)[0]
    other = {"True": "False", "False": "True"}[question.answer]
    grader = gym.ReasoningGym(TAGS)
    assert grader(f"<answer>{question.answer}</answer>", question.gold).correct
    assert not grader(f"<answer>{other}</answer>", question.gold).correct


@needs_gym
def test_the_list_of_scorers_that_evaluate_is_complete():
    """Read off the installed package: who hands the answer to `eval` or to sympy's parser."""
    evaluating = re.compile(r"\b(?:eval|exec|sympify|parse_expr)\(\s*answer\b")
    folder = Path(importlib.util.find_spec("reasoning_gym").origin).parent
    found = {path.stem for path in folder.rglob("*.py") if evaluating.search(path.read_text())}
    assert found == gym.EVALUATED


@needs_gym
def test_wrong_addresses_are_refused():
    grader = gym.ReasoningGym(TAGS)
    with pytest.raises(ValueError, match=r"gold answer '72'.*address"):
        grader.canonical("72")
    with pytest.raises(ValueError, match="makes no such question"):
        grader.canonical(gym.gold("chain_sum", {"seed": 1, "size": 1}, 0, "not its answer"))
    with pytest.raises(ValueError, match="task = 'no_such_task' is none of reasoning_gym's"):
        gym.questions("no_such_task", {"seed": 1, "size": 1}, 0, 1)


# --- many declarations, units, options --------------------------------------------------------------------------------


def test_answers_of_a_long_line_are_found_in_linear_time():
    """Each prefix in a line declares the rest of it: 92 kB of them were 300 MB of answers."""
    declared, count = grade.Declared("the answer is"), 6571
    answers = declared.answers("the answer is " * count)
    assert len(answers) == count
    assert max(map(len, answers)) == grade.LONGEST_ANSWER + 1
    assert answers[-2:] == ["the answer is", ""]
    start = time.process_time()
    for grader in (grade.Numeric(declared), grade.Exact(declared), grade.Choice(declared, labelled=True)):
        for text in ("the answer is " * count, "the answer is\n" * count, "the answer is 7\n" * count):
            grader(text, "c" if grader.name == "choice" else "8")
        grader("the answer is" + " " * 99_000 + "x", "c" if grader.name == "choice" else "8")
    assert time.process_time() - start < 5


def test_whitespace_and_suffixes_do_not_count_towards_an_answer():
    tags = grade.Declared("<answer>", "</answer>")
    assert tags.answers("<answer> 1 <answer>2\n</answer> <answer>3") == ["1 <answer>2", "2"]
    assert grade.Declared("#### ").answers("#### " + " " * 2000 + "5 \t") == ["5"]


@pytest.mark.parametrize(
    ("gold", "canonical"), [("72 dollars", "72 dollars"), ("+72", "72"), (r"\boxed{72}", "72"), ("1 000", "1000")]
)
def test_units_of_gold_numbers_are_kept(gold, canonical):
    assert grade.Numeric(HASH).canonical(gold) == canonical
    assert grade.Numeric(HASH).canonical(canonical) == canonical
    assert grade.Numeric(HASH)(f"#### {gold}", canonical).correct


@pytest.mark.parametrize(
    ("written", "reason"),
    [
        ("#### 72 dollars\n#### $72\n#### 72", "right"),
        ("#### $72\n#### 72 cm", "several answers"),
        ("#### 72 dollars\n#### 73 dollars", "several answers"),
        ("#### 72\n#### 72 apples", "several answers"),
    ],
)
def test_declared_numbers_agree_in_value_and_unit(written, reason):
    assert grade.Numeric(HASH)(written, "72").reason == reason


def test_a_gold_choice_may_know_its_options():
    choice = grade.Choice(HASH, "ABC")
    gold = choice.with_options("b", ["vitamin a", "not\nsure", "vitamin d"])
    assert gold == "B\n(A) vitamin a\n(B) not sure\n(C) vitamin d"
    assert choice.canonical(gold) == "B"
    assert [choice(f"#### {text}", gold).reason for text in ("not sure (b)", "vitamin d (b)", "vitamin d (c)")] == [
        "right",
        "unreadable",
        "wrong",
    ]
    with pytest.raises(ValueError, match="4 options"):
        choice.with_options("A", "abcd")
    with pytest.raises(ValueError, match="is none of the letters ABC"):
        choice.canonical("B\nanything")


@pytest.mark.parametrize(
    ("question", "options"),
    [
        ("Which?\n(A) ink\n(B) a pen", ("ink", "a pen")),
        ("Which?\nAnswer Choices:\n(a) ink\n(b) pen (blue)\n(c) lead", ("ink", "pen (blue)", "lead")),
        ("Which?\nA. ink\nB. pen", ("ink", "pen")),
        ("Which?\n A) ink\n B) pen\n", ("ink", "pen")),
        ("Which?\nA: ink\nB: pen", ("ink", "pen")),
        ("Which? (A) ink (B) pen", ()),
        ("Which?\n(B) ink\n(A) pen", ()),
        ("Which?\n(A) ink", ()),
        ("Which?\n(A) ink\n(A) pen", ()),
        ("(A) of what?\n(A) ink\n(B) pen", ()),
    ],
)
def test_options_are_read_off_the_lines_of_a_question(question, options):
    assert grade.listed(question, "ABC") == options


# --- reasoning_gym ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gold", "right", "wrong"),
    [
        ("48.0 + 36.0i", ("48.0 + 36.0i", "48 + 36i", "48+36.00i", "(48.0 + 36.0i)"),
         ("nan", "nan+nani", "inf", "48.0 + 36.0j1", "48.0", "48.0 - 36.0i", "36.0 + 48.0i", "48.0 + 36.0i1",
         "(48 + 36i")),
        ("16.91°", ("16.91°", "16.91", "16.910°", "16.91 degrees"),
         ("16.91°1", "16.9", "16.92°", "nan", "16.91°°", "16.91 cm", "°16.91", "16.91%")),
        ("-4", ("-4", "- 4", "−4", "**-4**", "-4.0", "-4."), ("4", "-4 or 5", "-40", "nan", "-4e0", "-4 #", "$-4%")),
        ("['51.6', '-49.0']", ("['51.6', '-49.0']", '["51.6","-49.0"]'),
         ("['52.0', '-49.0']", "['51.6']", "['-49.0', '51.6']", "['51.6', '-49.0'] x", "[NaN, NaN]",
         "['51.60', '-49.0']")),
        ("[[0,1],[1,0]]", ("[[0,1],[1,0]]", "[[0, 1], [1, 0]]"),
         ("[[0,1],[1,0],[1]]", "[[0,1,1],[1,0]]", "[[0,1],[1,1]]", "[[false,true],[true,false]]",
         "[[0.0,1.0],[1.0,0.0]]")),
        ('{"a": 1}', ('{"a":1}', "{'a': 1}"), ('{"a":1,"a":1}', '{"a":true}', '{"a":1.0}', '{"A":1}', "{}")),
        ("1 2\n3 4", ("1 2\n3 4", "1  2 \n3 4\n"), ("1 2 3 4", "3 4\n1 2", "1 2\n3 4\n5 6", "1 2\n\n3 4")),
        (r"$\dfrac{79}{173}$", ("79/173", r"\frac{79}{173}", r"$\frac{79}{173}$", r"\boxed{79/173}"),
         ("158/346", "173/79", "79/1733", "0.4566")),
        ("True", ("True", "true", "**True**", "True."), ("False", "not True", "1", "True or False", "nan")),
        ("2 × 433", ("2 × 433", "2  × 433."), ("433 × 2 × 1", "866", "2 × 4330")),
        ("AbC", ("AbC", "**AbC**"), ("abc", "ABC", "AbCd", "Ab C")),
        ("00:34:28", ("00:34:28",), ("00:34:28.5", "34:28", "00:34:29", "nan")),
        ("", (), ("", "nan", "0")),
    ],
)  # fmt: skip
def test_recorded_answers_are_compared_here(gold, right, wrong):
    assert [text for text in (*right, *wrong) if gym.recorded(text, gold)] == list(right)
    assert [text for text in wrong if gym.recorded(text, gold, strict=True)] == []


def test_numbers_may_be_in_another_order_where_the_task_says_so():
    assert gym.recorded("0.5909, 0", "0.0, 0.5909", ordered=False)
    assert not gym.recorded("0.5909, 0", "0.0, 0.5909")
    assert not gym.recorded("0.5909", "0.0, 0.5909", ordered=False)


@needs_gym
@pytest.mark.parametrize(
    ("task", "right", "wrong"),
    [
        ("countdown", ("6*(98 - 54)",), ("6*(98 - 54) ;", "nan", "6**2", "6//2", "__import__('os')", "6*(98 - 54)=1",
        "x")),
        ("simple_integration", ("-5*X**9 + C", "sin(x)*exp(2*x)/3", "x**(3/2)"),
         ("nan", "oo", "zoo", "Integral(x, x)", "x.y", "x;", "x = 2", "[x]", "xy", "x+C1", "x²")),
        ("sokoban", ("UDLR",), ("UDLRX", "udlr", "U D", "UDLR.")),
        ("shortest_path", ("up up left", "infeasible"), ("up up left up now", "up, left", "Up", "infeasible up")),
        ("rush_hour", ("F+1 K-1",), ("F+1K-1", "F+1, K-1", "F+0", "F+1 K", "F+1 junk")),
        ("word_ladder", ("PEGS,BEGS,BEES", "PEGS, BEGS"), ("PEGS BEGS", "PEGS", "PEGS,,BEGS", "PEGS,BEGS.")),
        ("graph_color", ('{"0": 1, "1": 2}',), ('{"0": 1.5}', '{"0": "1"}', '{"a": 1}',
        "{}", '{"0": NaN}', '{"0": 1} x')),
        ("tower_of_hanoi", ("Move disk 1 from Peg 2 to Peg 3",), ("Move disk 1 from Peg 2 to Peg 3!", "Move disk 1")),
    ],
)  # fmt: skip
def test_answers_to_tasks_with_several_have_their_form(task, right, wrong):
    assert [text for text in (*right, *wrong) if gym.FORMS[task].fullmatch(text)] == list(right)


@needs_gym
def test_what_scorers_let_pass_is_checked_beside_them():
    countdown = {"metadata": {"numbers": [2, 3, 4], "target": 10}}
    assert gym._sound("countdown", "2*3 + 4", countdown)
    assert not any(gym._sound("countdown", text, countdown) for text in ("2*3+4+0", "2+4+4", "3*4-2+0/1", "4/0", "10"))
    integral = {"metadata": {"variable": "x"}}
    assert gym._sound("simple_integration", "x**2/2 + C", integral)
    assert not any(
        gym._sound("simple_integration", f"x**2/2 + {text}", integral) for text in ("y", "C/0", "oo", "nan", "zoo")
    )
    assert [gym._is_formula(text) for text in ("P ∨ Q", "¬(P → (Q ∧ R))", "((P))", "¬¬P ↔ Q")] == [True] * 4
    assert not any(map(gym._is_formula, ("P Q", "P ∨ Q)", "(P", "P ∨ Q ∧ R", "∨", "PQ", "P ∨", "¬")))


@needs_gym
def test_recorded_answers_that_cannot_be_right_are_marked():
    hanoi = gym._made("tower_of_hanoi", {"seed": 0, "size": 1})
    entry = hanoi[0]
    assert gym._flaw("tower_of_hanoi", hanoi, entry) == ""
    moves = entry["answer"].split("\n")
    assert "scorer gives" in gym._flaw("tower_of_hanoi", hanoi, {**entry, "answer": "\n".join(moves[:-1])})
    assert "form" in gym._flaw("tower_of_hanoi", hanoi, {**entry, "answer": str(moves)})
    integral = {**entry, "answer": "3*Integral(x**3*cos(3*x), x) + C"}
    assert gym._flaw("intermediate_integration", hanoi, integral).startswith("Integral")


def test_an_answer_that_ends_in_a_full_stop_or_stands_in_a_fence_is_read():
    for text in ("**A hero.**", "```\nA hero.\n```", "“A hero.”", "**Answer:** A hero."):
        assert gym.recorded(text, "A hero.")
    assert gym.recorded("```json\n[1, 2]\n```", "[1, 2]")
    assert not gym.recorded("```json\n[1, 2]\n```\n```json\n[1, 3]\n```", "[1, 2]")
