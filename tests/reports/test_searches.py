from qstar.reports import searches
from qstar.reports.searches import Line


def row(node, parent, written, **fields):
    place = {"node": node, "parent": parent, "scores": [], "value": None, "final": False, "rollout": False}
    place |= {"chosen": False} | {name: fields.pop(name) for name in list(fields) if name in place or name == "chosen"}
    return {"problem": "dev-3", "question": "3ab=", "written": written, "answer": "", "correct": False} | fields | {
        "place": place
    }  # fmt: skip


def test_a_tree_shows_steps_below_their_parents_with_scores_and_verdicts():
    rows = [
        row(0, -1, ""),
        row(1, 0, "-4", scores=[("runs/prm", 0.25), ("oracle", 0.0)], value=0.25),
        row(2, 0, "-2\n", scores=[("runs/prm", 0.5)], value=0.75),
        row(3, 1, "-4;", answer="4", final=True),
        row(4, 2, "-2;", scores=[("oracle", 1.0)], answer="2", correct=True, final=True, chosen=True),
        row(5, 2, "....", final=True, rollout=True),
    ]
    assert searches.tree(rows).splitlines() == [
        "dev-3: 3ab=",
        "  -4  runs/prm 0.250  oracle 0.000",
        "    -4;  4 wrong",
        "  -2↵  runs/prm 0.500  value 0.750",
        "    -2;  oracle 1.000  2 right  <- chosen",
        "    ....  no answer wrong  rollout",
    ]


def test_steps_that_say_the_same_and_lead_nowhere_are_one_line_with_their_number():
    wrong = {"answer": "4", "final": True}
    rows = [row(0, -1, ""), row(1, 0, "-4;", **wrong), row(2, 0, "-4"), row(3, 0, "-4;", **wrong)]
    rows += [row(4, 0, "-4;", **wrong, chosen=True), row(5, 0, "-4"), row(6, 2, "5;"), row(7, 5, "5;"), row(8, 5, "5;")]
    assert searches.tree(rows).splitlines()[1:] == [
        "  -4;  4 wrong  (2 times)", "  -4", "    5;", "  -4;  4 wrong  <- chosen", "  -4", "    5;  (2 times)"
    ]  # fmt: skip


def test_a_line_of_the_table_has_interval_costs_and_measured_seconds():
    line = Line("Beam", "all", 50, 0.5, 0.366, 0.634, 16, 80.25, 1234.5, 3.21e8)
    table = searches.markdown([line, Line("Beam", "all", 50, 0.5, 0.366, 0.634, 16, 80.25, 1234.5, 3.21e8, 0.25)])
    cells = "| Beam | all | 0.500 [0.366, 0.634] | 50 | 16.0 | 80.2 | 1234.5 | 3.21e+08 |"
    assert table.splitlines()[2:] == [f"{cells}  |", f"{cells} 0.250 |"]
