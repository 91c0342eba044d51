"""Random pairs of answers: what is equal by construction is right, what differs by construction is wrong."""

import importlib.util

import fuzz_answers
import pytest
import spellings

COUNTS = {"numeric": 200, "choice": 150, "exact": 150}
if importlib.util.find_spec("sympy"):
    COUNTS |= {"symbolic": 120, "collection": 80}


@pytest.mark.usefixtures("compared_here")
@pytest.mark.parametrize("equal", [True, False])
@pytest.mark.parametrize("kind", COUNTS)
def test_equal_answers_are_right_and_different_ones_wrong(kind, equal):
    pairs = [fuzz_answers.pair(kind, number, equal) for number in range(COUNTS[kind])]
    misjudged = [pair for pair in pairs if fuzz_answers.correct(pair, spellings.grader(pair.grader)) != equal]
    assert misjudged == []


@pytest.mark.usefixtures("compared_here")
@pytest.mark.parametrize("kind", COUNTS)
def test_strict_takes_no_different_answer_either(kind):
    pairs = [fuzz_answers.pair(kind, number, equal=False) for number in range(COUNTS[kind] // 2)]
    taken = []
    for pair in pairs:
        grader = spellings.grader(pair.grader, strict=True)
        try:
            taken += [pair] if fuzz_answers.correct(pair, grader) else []
        except ValueError:  # not every gold answer is read
            continue
    assert taken == []


def test_pairs_are_made_of_their_number():
    assert fuzz_answers.pair("symbolic", 3, True) == fuzz_answers.pair("symbolic", 3, True)
    assert len({fuzz_answers.pair("numeric", number, True).gold for number in range(50)}) > 40
