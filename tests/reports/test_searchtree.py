import time

import pytest
import run_folders

import qstar
from qstar.reports.searchtree import SearchTree


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    return qstar.open(run_folders.search(tmp_path_factory.mktemp("runs") / "search")).tree("dev-2")


def test_visits_count_the_solutions_below_a_step_and_how_many_are_right(tree):
    assert [(node.depth, node.visits, node.right) for node in tree.nodes] == [
        (0, 3, 1),
        (1, 3, 1),
        (1, 0, 0),
        (2, 1, 0),
        (2, 1, 1),
        (2, 1, 0),
    ]
    assert tree.chosen.node == 4
    assert [node.node for node in tree.children(1)] == [3, 4, 5]


def test_a_tree_is_a_frame_with_a_column_for_every_scorer(tree):
    frame = tree.frame()
    assert frame.where(depth=1)["score_oracle"].tolist() == [1.0, 0.0]
    assert tree.summary() == {
        "problem": "dev-2", "question": "3ab=", "gold": "2", "answer": "2", "correct": True, "candidates": 5,
        "solutions": 3, "right": 1, "tokens": 12,
    }  # fmt: skip
    assert repr(tree) == "SearchTree('dev-2': 5 candidates, 3 solutions of which 1 are right; chosen 2, right)"


def test_a_tree_is_shown_as_lists_to_open_with_its_text_as_text(tree):
    shown = tree._repr_html_()
    assert "-&lt;4&gt;" in shown and "-<4>" not in shown
    assert shown.count("<details") == shown.count("</details>") == 2  # the question, and the step with solutions
    assert shown.count("3 wrong") == 1 and "2 times" in shown  # alike
    assert "visits, the solutions that go through it" in shown and "visits, the" not in tree.html()  # pages say it once


def test_an_unknown_question_is_named_with_those_that_are_there(tmp_path):
    run = qstar.open(run_folders.search(tmp_path / "search"))
    with pytest.raises(ValueError, match=r"'dev-9'.*dev-1, dev-2"):
        run.tree("dev-9")
    assert run.questions()["problem"].tolist() == ["dev-1", "dev-2"]


def test_two_thousand_nodes_are_laid_out_in_a_second():
    def row(node):
        where = {"node": node, "parent": (node - 1) // 3 if node else -1, "scores": [], "value": None}
        where |= {"final": node > 666, "rollout": False, "chosen": node == 1999}
        return {"problem": "p", "question": "q", "gold": "1", "written": str(node), "answer": "", "correct": False} | {
            "generated_tokens": 1,
            "place": where,
        }

    rows = [row(node) for node in range(2000)]
    began = time.process_time()
    tree = SearchTree.of(rows)
    shown = tree.html()
    assert time.process_time() - began < 1
    assert shown.count("<code") == 1999 + 3  # every step, and question, gold and answer
