"""No grader takes a wrong answer, refuses a right one, dies or hangs: the whole table where a verdict is cheap, every
seventh attack where it costs a process (all of them with `-m slow` and in `experiments/checks/adversarial.py`)."""

import adversarial
import pytest

SUBJECTS = {subject.name: subject for subject in adversarial.subjects()}
QUICK = [name for name, subject in SUBJECTS.items() if not subject.slow]
SLOW = [name for name, subject in SUBJECTS.items() if subject.slow]
# Seconds for a verdict, far above the norm (under 0.1, and about 0.5 in a process): the limits of a program or a
# comparison, and the start of its process on a busy machine.
BOUND_S = {True: 60.0, False: 10.0}


def judged(name, every):
    """Verdicts on every n-th attack, of every kind at least one, and on all right answers; off the main thread."""
    subject = SUBJECTS[name]
    found = adversarial.cases(subject)
    kinds = {case.kind: case for case in reversed(found)}
    chosen = [c for at, c in enumerate(found) if c.right or at % every == 0 or kinds[c.kind] is c]
    return subject, adversarial.judge(subject, chosen)


def check(name, every):
    subject, verdicts = judged(name, every)
    taken = [(one.case.kind, one.case.written[-200:]) for one in verdicts if one.verdict.correct and not one.case.right]
    refused = [(one.case.written, one.verdict) for one in verdicts if one.case.right and not one.verdict.correct]
    assert taken == []
    assert refused == []
    assert max(one.seconds for one in verdicts) < BOUND_S[subject.slow]
    assert all(one.verdict.reason == "right" for one in verdicts if one.case.right)
    for one in verdicts:
        one.verdict.answer.encode()  # can be stored
        assert len(one.verdict.answer) <= 200


@pytest.mark.parametrize("name", QUICK)
def test_no_wrong_answer_is_taken_and_no_right_one_refused(name):
    check(name, 1)


@pytest.mark.parametrize("name", [name for name in SLOW if name in ("program", "symbolic", "gym, countdown")])
def test_graders_with_processes_hold_on_a_part(name):
    check(name, 7)


@pytest.mark.usefixtures("compared_here")
@pytest.mark.parametrize("name", [name for name in SLOW if name.startswith("symbolic")])
def test_no_expression_is_taken_for_another(name):
    subject = SUBJECTS[name]
    answers = {text: subject.grader(subject.declare(text), subject.gold).correct for text in subject.attacks}
    assert [text for text, correct in answers.items() if correct] == []
    assert all(subject.grader(subject.declare(text), subject.gold).correct for text in subject.right)


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_graders_with_processes_hold_on_all(name):
    check(name, 1)


def test_every_kind_of_attack_is_tried_on_every_grader():
    for subject in SUBJECTS.values():
        found = adversarial.cases(subject)
        kinds = {case.kind for case in found}
        assert len(kinds) >= 15 and {"empty", "several answers", "flood", "injection", "right"} <= kinds
        assert len(found) > 150
        assert sum(case.right for case in found) >= 4


def test_a_grader_that_looks_for_the_answer_anywhere_is_caught():
    subject = SUBJECTS["numeric"]
    caught = [case for case in adversarial.cases(subject) if subject.gold in case.written and not case.right]
    assert len(caught) > 60
