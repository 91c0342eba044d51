"""Notebooks and their text form hold the same cells, and the text form runs, small."""

import ast
import json
import re
import sys
import types

import pytest

from qstar.paths import ROOT

FOLDER = ROOT / "experiments" / "notebooks"
NAMES = sorted(file.stem for file in FOLDER.glob("*.py"))
# Constants of each notebook as they are here, and settings that commands, and those of one notebook, take besides.
SMALL = {
    "first_run": {"STEPS": 1},
    "reading_thoughts": {"STEPS": 1, "TEXTS": 3},
    "python_path": {"STEPS": 3},
    "star_store": {"ITERATIONS": 1, "QUESTIONS": 8},
    "search_tree": {"QUESTIONS": 2, "SOLUTIONS": 4},
    "reinforcement": {"STEPS": 1},
    "verifiers": {"QUESTIONS": 8},
    "sweep": {"STEPS": 1},
}
COMMANDS = {
    "qstar.train": ["batch_size=4", "eval.items=4", "eval.batch_size=4", "control=false", "eval.every=0"],
    "qstar.improve": ["improve.steps=1", "optim.warmup_steps=0", "batch_size=2", "task.dev=4"],
}
OF_NOTEBOOK = {
    "reinforcement": ["data.samples=2", "optim.warmup_steps=0", "task.train=20"],
    "sweep": ["seed=0,1", "optim.warmup_steps=0"],
}


def cells(text: str) -> list[tuple[str, str]]:
    """Kind and source of every cell of the percent format."""
    found = []
    for part in re.split(r"^# %%", text, flags=re.MULTILINE)[1:]:
        head, _, body = part.partition("\n")
        if head.strip() == "[markdown]":
            lines = (re.sub(r"^# ?", "", line) for line in body.strip().splitlines())
            found.append(("markdown", "\n".join(lines)))
        else:
            found.append(("code", body.strip()))
    return found


def notebook(name: str) -> list[dict]:
    return json.loads((FOLDER / f"{name}.ipynb").read_text(encoding="utf-8"))["cells"]


def source(cell: dict) -> str:
    text = cell["source"]
    return "".join(text) if isinstance(text, list) else text


def test_every_notebook_has_its_text_and_a_small_size():
    assert sorted(SMALL) == NAMES == sorted(file.stem for file in FOLDER.glob("*.ipynb"))


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_holds_the_cells_of_its_text(name):
    expected = cells((FOLDER / f"{name}.py").read_text(encoding="utf-8"))
    assert [(cell["cell_type"], source(cell).strip()) for cell in notebook(name)] == expected


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_was_executed_from_its_first_cell_to_its_last_without_an_error(name):
    code = [cell for cell in notebook(name) if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    assert [output for cell in code for output in cell["outputs"] if output["output_type"] == "error"] == []
    assert (FOLDER / f"{name}.ipynb").stat().st_size < 300_000


def smaller(name: str, code: str) -> str:
    for constant, value in SMALL[name].items():
        code, count = re.subn(rf"^{constant} = .*$", f"{constant} = {value}", code, flags=re.MULTILINE)
        assert count == 1, constant
    for command, settings in COMMANDS.items():
        more = [*settings, *OF_NOTEBOOK.get(name, [])]
        code = code.replace(f'"{command}", *overrides', f'"{command}", *overrides, *{more!r}')
    return code


SLOW = (
    "first_run",
    "python_path",
    "reading_thoughts",
    "star_store",
    "reinforcement",
    "verifiers",
    "sweep",
)  # they train or sample


def shown(code: str, names: dict, file: str) -> object:
    """What a cell gives: the value of its last line, where that is an expression."""
    tree = ast.parse(code)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, file, "exec"), names)
    return eval(compile(ast.Expression(last.value), file, "eval"), names) if last else None


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in NAMES])
def test_the_text_of_a_notebook_runs(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    names: dict = {"__name__": "notebook"}
    monkeypatch.setitem(sys.modules, "notebook", types.ModuleType("notebook"))  # dataclasses look their module up
    values = [
        shown(code, names, f"{name}.py")
        for kind, code in cells(smaller(name, (FOLDER / f"{name}.py").read_text(encoding="utf-8")))
        if kind == "code"
    ]
    pages = [value._repr_html_() for value in values if hasattr(value, "_repr_html_")]
    assert pages and all("<div" in page for page in pages)
