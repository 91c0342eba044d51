import pytest
import toy

from qstar.search.beam import Beam
from qstar.search.dvts import DVTS
from qstar.search.run import search


def run(strategy, one, prompt=("0",)):
    return search(strategy, [prompt], one.propose, {"prm": one.value}, one.answer, (0,))[0]


def test_one_subtree_is_a_beam_of_width_one():
    for seed in range(20):
        one = toy.random_toy(seed, sampled=True)
        subtree, beam = run(DVTS(3, 3), one), run(Beam(3, 3), one)
        assert [node.state for node in subtree.nodes] == [node.state for node in beam.nodes]
        assert subtree.answer == beam.answer


def test_subtrees_do_not_compete():
    """Steps a to d are the two subtrees a, b and c, d: d survives, although a and b are better."""
    children = {("q",): dict.fromkeys("abcd", 0.25)} | {("q", step): {"x": 0.5, "y": 0.5} for step in "abcd"}
    values = {("q", step): value for step, value in zip("abcd", (0.9, 0.8, 0.1, 0.2), strict=True)}
    answers = {(*path, step): step for path in children if len(path) == 2 for step in "xy"}
    one = toy.Toy(children, values | dict.fromkeys(answers, 0.5), answers)
    assert {node.state[1] for node in run(DVTS(4, 2), one, ("q",)).finished} == {"a", "d"}
    assert {node.state[1] for node in run(Beam(4, 2), one, ("q",)).finished} == {"a", "b"}


def test_all_siblings_of_the_last_step_are_candidates():
    one = toy.lock()
    assert [node.state[-1] for node in run(DVTS(3, 3), one, ("lock",)).finished] == ["0", "1", "2"]


def test_n_that_m_does_not_divide_is_refused():
    with pytest.raises(ValueError, match=r"search\.n = 5 .*search\.m = 2"):
        DVTS(5, 2)
