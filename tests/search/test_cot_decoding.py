import pytest
import toy

from qstar.search.cot_decoding import CoTDecoding
from qstar.search.run import search


def paths(margins):
    children = {("q",): {"a": 0.2, "b": 0.5, "c": 0.3}} | {("q", step): {"x": 0.4, "y": 0.6} for step in "abc"}
    ends = [(*path, step) for path in children if len(path) == 2 for step in "xy"]
    answers = {path: {"a": "1", "b": "2", "c": "1"}[path[1]] for path in ends}
    return toy.Toy(children, {}, answers, margins={("q", *path): margin for path, margin in margins.items()})


def run(strategy, one):
    return search(strategy, [("q",)], one.propose, {}, one.answer, (0,))[0]


def test_the_path_of_the_largest_margin_is_taken_or_the_answer_of_the_largest_sum():
    one = paths({"ay": 0.4, "by": 0.6, "cy": 0.5})
    assert run(CoTDecoding(3), one).answer == "2"
    assert run(CoTDecoding(3, aggregate=True), one).answer == "1"


def test_the_k_likeliest_first_steps_are_continued_greedily():
    one = paths({"ay": 0.9, "by": 0.1, "cy": 0.2})
    solution = run(CoTDecoding(2), one)
    assert [node.state for node in solution.finished] == [("q", "b", "y"), ("q", "c", "y")]
    assert [(k, key) for _, k, key in one.calls] == [(2, None), (1, None)]
    assert solution.value[-1] == 0.2


def test_an_answer_without_a_margin_is_refused():
    with pytest.raises(ValueError, match="margin = None of node 3 of problem 0"):
        run(CoTDecoding(2), paths({}))
