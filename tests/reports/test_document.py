"""The page of a run, a sweep or a comparison, as source and in a browser where there is one."""

import html
import json
import re
import shutil
from pathlib import Path

import pytest
import run_folders
from shell import arguments

import qstar
from qstar import report
from qstar.reports import document
from qstar.reports.html import STYLE

SECTIONS = {
    "train": ["curves", "results", "thoughts", "ledger", "settings"],
    "improve": ["curves", "results", "rationales", "ledger", "settings"],
    "search": ["results", "questions", "trees", "ledger", "settings"],
    "labelling": ["results", "labelled-solutions", "ledger", "settings"],
    "evaluation": ["curves", "results", "wrong-answers"],
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    for name in SECTIONS:
        getattr(run_folders, name)(folder / name)
    for seed in (0, 1):
        for length in (2, 3):
            run_folders.train(folder / "sweep" / f"{seed}-{length}", seed, length)
    return folder


def sections(page: str) -> list[str]:
    return re.findall(r'<section id="([^"]+)">', page)


@pytest.mark.parametrize("name", SECTIONS)
def test_a_page_has_the_sections_that_a_run_has_something_for(folders, name):
    page = document.page(qstar.open(folders / name))
    assert sections(page) == SECTIONS[name] == re.findall(r'<li><a href="#([^"]+)">', page)
    assert "@" not in re.sub(r"@media", "", page.replace(STYLE, ""))


def test_a_page_loads_nothing_and_says_so(folders):
    page = document.page(qstar.open(folders / "search"))
    assert "default-src 'none'" in page
    assert re.findall(r"(?:https?:)?//[\w.]+\.\w+|<(?:img|iframe|object)\b|url\(", page) == []
    assert page.count("<script") == 1


@pytest.mark.parametrize("commit", [None, "acf791b"])
def test_the_machine_has_a_row_for_a_commit_where_there_is_one(tmp_path, commit):
    run_folders.train(tmp_path / "run")
    (tmp_path / "run" / "environment.json").write_text(json.dumps({"versions": {"jax": "1.2"}, "commit": commit}))
    page = document.page(qstar.open(tmp_path / "run"))
    assert sections(page)[-1] == "machine" and ">1.2</td>" in page
    assert ("commit</td>" in page) is (commit is not None)


def test_what_a_model_wrote_is_text_of_the_page(folders):
    page = document.page(qstar.open(folders / "search"))
    assert "-&lt;4&gt;" in page and "-<4>" not in page


def test_the_least_expected_right_and_the_most_expected_wrong_samples_are_shown(folders):
    page = document.page(qstar.open(folders / "improve"))
    right, wrong = page.split("Wrong, and most likely")
    assert "iteration 1: 1 of 2 samples right" in right
    assert ">2;</td>" in right and ">3;</td>" in wrong and ">3;</td>" not in right


def test_wrong_answers_are_counted_and_shown(folders):
    page = document.page(qstar.open(folders / "evaluation"))
    assert "cups, likeliest thoughts: 2 of 8 answers wrong" in page  # one of four at each of two steps


def test_of_many_trees_as_many_are_shown_as_a_page_takes_wrong_ones_first(folders, tmp_path, monkeypatch):
    monkeypatch.setattr(document, "NODES", 6)
    folder = shutil.copytree(folders / "search", tmp_path / "it's, a=b")
    page = document.page(qstar.open(folder))
    assert page.count('class="whole tree"') == 1
    (command,) = re.findall(r">1 more: (.*?)</div>", page)  # works when it is pasted
    assert arguments(html.unescape(command)) == ["qstar-solve", f'tables="{folder}"', "tree=PROBLEM"]


def test_one_folder_is_a_run_or_a_sweep_two_are_compared_and_more_are_a_sweep(folders, tmp_path, capsys):
    single = [str(folders / "sweep" / name) for name in ("0-2", "0-3", "1-2")]
    for runs, expected in (
        (single[:1], ["curves", "results", "thoughts", "ledger", "settings"]),
        (single[:2], ["comparison", "0-2", "0-3"]),
        (single, ["runs", "means-over-seeds", "settings"]),
        ([str(folders / "sweep")], ["runs", "means-over-seeds", "settings"]),
    ):
        out = tmp_path / "page.html"
        report.main([*runs, "--out", str(out)])
        assert sections(out.read_text(encoding="utf-8")) == expected
        shown = capsys.readouterr().out
        assert str(out) in shown and ("overwritten" in shown) is (runs != single[:1])  # the first one is new


def test_a_run_that_is_not_there_is_one_line(tmp_path, capsys):
    with pytest.raises(SystemExit, match="1"):
        report.main([str(tmp_path / "nothing"), "--out", str(tmp_path / "page.html")])
    assert f"FileNotFoundError: {tmp_path / 'nothing'} is not there" in capsys.readouterr().err
    assert not (tmp_path / "page.html").exists()


# --- in a browser ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser():
    sync = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")
    binary = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    with sync.sync_playwright() as playwright:
        try:
            started = playwright.chromium.launch(executable_path=binary, args=["--no-sandbox"])
        except sync.Error as error:
            pytest.skip(f"no browser starts: {str(error).splitlines()[0]}")
        yield started
        started.close()


@pytest.fixture
def view(browser):
    """Opens a page; fails at the end where it asked for anything or its script failed."""
    asked, failed = [], []
    tab = browser.new_page(viewport={"width": 1100, "height": 800})
    tab.on("request", lambda request: asked.append(request.url))
    tab.on("console", lambda message: failed.append(message.text))
    tab.on("pageerror", lambda error: failed.append(str(error)))

    def show(source: str, file: Path):
        file.write_text(source, encoding="utf-8")
        tab.goto(file.as_uri())
        return tab

    yield show
    tab.close()
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    assert failed == []


@pytest.mark.parametrize("name", [*SECTIONS, "sweep"])
def test_a_page_opens_in_a_browser_without_errors_and_fits_its_width(view, folders, tmp_path, name):
    subject = qstar.sweep(folders / name) if name == "sweep" else qstar.open(folders / name)
    tab = view(document.page(subject), tmp_path / "page.html")
    assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert tab.locator("section").first.is_visible()


def test_trees_open_by_the_keyboard_and_by_the_buttons(view, folders, tmp_path):
    tab = view(document.page(qstar.open(folders / "search")), tmp_path / "page.html")
    second = tab.locator("details.whole").nth(1)
    second.locator("summary").first.focus()
    assert second.get_attribute("open") is None
    tab.keyboard.press("Enter")
    assert second.get_attribute("open") is not None
    tab.get_by_role("button", name="Close all").click()
    assert tab.locator(".tree[open], .tree details[open]").count() == 0
    tab.get_by_role("button", name="Open all").press("Enter")
    assert tab.locator("details.whole[open]").count() == 2


def test_the_filter_leaves_the_settings_that_hold_its_text(view, folders, tmp_path):
    tab = view(document.page(qstar.open(folders / "train")), tmp_path / "page.html")
    tab.get_by_label("Filter the settings").fill("thought_len")
    assert [row.strip() for row in tab.locator(".setting:visible code").all_inner_texts()] == ["method.thought_len"]


def test_a_tree_of_two_thousand_nodes_is_drawn_within_a_second(view, folders, tmp_path):
    rows = qstar.open(folders / "search").tree("dev-1").rows
    steps = [
        rows[1]
        | {"problem": "large", "written": str(node), "place": rows[1]["place"] | {"node": node, "parent": parent}}
        for node in range(1, 2000)
        for parent in [(node - 1) // 4]
    ]
    tree = qstar.open(folders / "search").tree("dev-1").of([rows[0], *steps])
    source = document.TEMPLATE.read_text(encoding="utf-8").replace("@BODY@", f"<section>{tree.html(True)}</section>")
    tab = view(source, tmp_path / "page.html")
    spent = tab.evaluate(
        "() => { const began = performance.now();"
        "for (const part of document.querySelectorAll('.tree details')) part.open = true;"
        "document.body.offsetHeight; return performance.now() - began; }"
    )
    loaded = tab.evaluate("performance.getEntriesByType('navigation')[0].domComplete")
    assert spent < 1000 and loaded < 5000
    assert tab.locator(".tree code.step").count() == 1999
