import numpy as np
import pytest

from qstar.tasks import cups
from qstar.tasks.cups import CupsConfig, Game


def test_places_follow_the_moves():
    # a sends 1 to 5, 5 to 2; b sends 5 to 4, 2 to 5; c sends 4 to 3.
    assert Game(1, "abc").places == "543"
    assert Game(5, "aba").places == "252"


def test_no_move_leaves_the_ball_and_no_two_commute():
    tables = [tuple(int(place) - 1 for place in table) for table in cups.MOVES.values()]
    assert all(sorted(table) == [0, 1, 2, 3, 4] and all(table[i] != i for i in range(5)) for table in tables)
    after = lambda one, other: tuple(other[place] for place in one)  # noqa: E731
    assert all(after(p, q) != after(q, p) for i, p in enumerate(tables) for q in tables[:i])


def test_an_unworked_example_is_question_and_answer():
    text = cups.example(CupsConfig(3, 3), np.random.default_rng(0))
    game = Game(int(text[0]), text[1:4])
    assert text == f"{game.question}{game.answer};"


def test_workings_without_slips_are_right_and_with_slips_follow_from_the_slip():
    rng = np.random.default_rng(0)
    right = wrong = 0
    for _ in range(400):
        text = cups.example(CupsConfig(4, 6, worked=1.0, slips=0.5), rng)
        question, workings, rest = text.split("-")
        game = Game(int(question[0]), question[1:-1])
        assert rest == workings[-1] + ";" and len(workings) == len(game.moves)
        jumps = [
            i
            for i, letter in enumerate(game.moves)
            if cups.MOVES[letter][int((str(game.start) + workings)[i]) - 1] != workings[i]
        ]
        assert len(jumps) <= 1
        right, wrong = right + (not jumps), wrong + len(jumps)
    assert 160 < wrong < 240  # half of 400, 4 standard deviations either way


def test_workings_of_several_strides_end_in_the_last_place_and_in_dots():
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(400):
        text = cups.example(CupsConfig(5, 5, worked=1.0, strides=(1, 2, 5), padding=2), rng)
        question, workings, rest = text.split("-")
        places = Game(int(question[0]), question[1:-1]).places
        written = workings.rstrip(".")
        stride = {5: 1, 3: 2, 1: 5}[len(written)]
        assert written == {1: places, 2: places[1] + places[3] + places[4], 5: places[4]}[stride]
        assert rest == places[-1] + ";"
        seen.add((stride, len(workings) - len(written)))
    assert seen == {(stride, dots) for stride in (1, 2, 5) for dots in (0, 1, 2)}


def test_splits_are_disjoint_and_a_twentieth_each():
    rng = np.random.default_rng(0)
    drawn = {
        split: {cups.draw(CupsConfig(2, 3), rng, split).question for _ in range(2000)} for split in ("train", "dev")
    }
    assert not drawn["train"] & drawn["dev"]
    games = [Game(s, a + b + c) for s in range(1, 6) for a in cups.MOVES for b in cups.MOVES for c in cups.MOVES]
    share = np.mean([cups.split_of(game.question) == "test" for game in games])
    assert 0.04 < share < 0.06


@pytest.mark.parametrize(
    "change",
    [
        {"min_moves": 0},
        {"min_moves": 9},
        {"worked": 1.5},
        {"slips": -0.1},
        {"strides": [0]},
        {"strides": []},
        {"padding": -1},
    ],
)
def test_settings_out_of_range_are_refused(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        CupsConfig(**change)
