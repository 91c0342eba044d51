"""What a user installs: the console scripts, what they import, and a wheel that finds its files from anywhere."""

import importlib
import os
import re
import subprocess
import sys
import textwrap
import tomllib
import zipfile
from pathlib import Path

import pytest
from hydra.core.global_hydra import GlobalHydra

from qstar.paths import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
HELP = {
    "qstar-train": ("qstar-train resume=latest", "quiet_star_official", "method.thought_len=8"),
    "qstar-evaluate": ("qstar-evaluate run=none model.source=models/smollm2", "questions"),
    "qstar-compare": ("usage: qstar-compare", "McNemar", "qstar-evaluate run=runs/mine"),
    "qstar-think": ("usage: qstar-think", "--generate N", "the newest run under runs/"),
    "qstar-improve": ("qstar-improve improve=rest_em", "star_no_rationalization", "improve.iterations=16"),
    "qstar-solve": ("qstar-solve tables=latest", "best_of_n", "search.n=40"),
    "qstar-label": ("qstar-label label.k=8", "omega", "label.k=8"),
    "qstar-report": ("usage: qstar-report", "the newest run under runs/", "--read N"),
    "qstar-prepare": ("usage: qstar-prepare", "bundled:NAME", "--to"),
}


def python(code: str, cwd: Path, **environment: str) -> str:
    """Standard output of a new interpreter."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | environment
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], cwd=cwd, env=env, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_distribution_has_a_name_of_its_own_and_the_package_is_imported_as_qstar():
    assert PROJECT["name"] == "qstar-jax"
    assert {target.split(":")[0] for target in PROJECT["scripts"].values()} == {"qstar.cli.scripts"}


def test_no_text_tells_to_install_the_other_distribution_that_is_called_qstar():
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\n")
    named = re.compile(
        r"qstar\[|(?:pip|pipx|uv)\s+(?:install|download|add)\s[^\n`]*\bqstar(?![-\w/.])|PackageNotFound.*qstar|version\(.qstar.\)"
    )
    found = []
    for name in files:
        path = ROOT / name
        if (
            path.suffix in (".py", ".md", ".yaml", ".toml", ".ipynb", ".html")
            and path.is_file()
            and path != Path(__file__)
        ):
            found += [f"{name}: {match[0]}" for match in named.finditer(path.read_text(encoding="utf-8"))]
    assert found == []
    assert (
        named.search("pip install 'qstar[gguf]'")
        and named.search("pip install qstar")
        and named.search("version('qstar')")
    )
    assert not named.search("pip install -q . && .venv/bin/qstar-train")


def test_every_console_script_is_here():
    assert PROJECT["scripts"].keys() == HELP.keys()


@pytest.mark.parametrize("script", HELP)
def test_a_console_script_explains_itself(script, monkeypatch, capsys):
    module, function = PROJECT["scripts"][script].split(":")
    monkeypatch.setattr(sys, "argv", [script, "--help"])
    GlobalHydra.instance().clear()
    try:
        getattr(importlib.import_module(module), function)()
    except SystemExit as end:
        assert not end.code
    finally:
        GlobalHydra.instance().clear()
    shown, errors = capsys.readouterr()
    assert errors == ""
    for words in HELP[script]:
        assert words in shown


def test_wrong_arguments_are_answered_before_jax_is_imported(tmp_path):
    code = """
        import sys
        from qstar import prepare, report, think
        from qstar.cli import compare
        for command in (think, prepare, compare, report):
            command.parser().format_help()
        think.parse(["a text"])
        print(sorted({"jax", "numpy", "hydra", "tokenizers"} & sys.modules.keys()))
    """
    assert python(code, tmp_path, PYTHONPATH=str(ROOT)) == "[]\n"


def test_tensorflow_and_torch_are_not_imported_even_where_they_are_installed(tmp_path):
    for name in ("tensorflow", "torch", "transformers"):
        (tmp_path / "installed" / name).mkdir(parents=True)
        (tmp_path / "installed" / name / "__init__.py").write_text(f"raise RuntimeError('{name} was imported')\n")
    (tmp_path / "text.txt").write_text("3a=1;\n")
    code = """
        import importlib, pkgutil, sys
        import qstar
        for module in pkgutil.walk_packages(qstar.__path__, "qstar."):
            importlib.import_module(module.name)
        from qstar.data import pipeline, tokenizer
        cfg = pipeline.TextConfig(("text.txt",), length=4, cache_dir="cache")
        next(pipeline.text_batches(cfg, tokenizer.characters("3a=1;"), 2, 0, 0))
        print(len([name for name in sys.modules if name.startswith("qstar.")]) > 40)
    """
    path = os.pathsep.join([str(tmp_path / "installed"), str(ROOT)])
    assert python(code, tmp_path, PYTHONPATH=path) == "True\n"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--quiet", "--wheel-dir", folder, ROOT]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    if done.returncode:
        pytest.skip(f"no wheel can be built here: {done.stderr.strip().splitlines()[-1]}")
    (built,) = folder.iterdir()
    return built


def test_git_ignores_no_file_of_the_package():
    listed = ["git", "ls-files", "--others", "--ignored", "--exclude-standard", "qstar", "configs", "experiments"]
    done = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("no git checkout")
    ignored = [name for name in done.stdout.splitlines() if "__pycache__" not in name]
    assert ignored == []


@pytest.mark.slow
def test_the_wheel_holds_the_configurations_the_experiments_and_the_bundled_model(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    wanted = {f"qstar/_recipes/configs/{path.relative_to(ROOT / 'configs')}" for path in ROOT.glob("configs/**/*.yaml")}
    wanted |= {
        f"qstar/_recipes/experiments/{path.relative_to(ROOT / 'experiments')}"
        for path in ROOT.glob("experiments/**/*.yaml")
    }
    wanted |= {
        f"qstar/bundled/{model}/{name}"
        for model in ("cups", "cups_prm", "sums")
        for name in ("config.json", "model.safetensors", "tokenizer.json")
    }
    wanted |= {"qstar/reports/page.html", "qstar/reports/report.html", "qstar/py.typed"}
    assert len(wanted) > 20
    assert wanted <= names
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"qstar"}


@pytest.mark.slow
def test_an_installed_wheel_trains_and_explains_itself_from_anywhere(wheel, tmp_path):
    site = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "--no-deps", "--quiet", "--target", site, wheel]
    subprocess.run(install, check=True, timeout=600)
    code = """
        import sys
        from pathlib import Path
        import qstar
        from qstar import paths, train
        assert Path(qstar.__file__).parent.name == "qstar" and "site" in qstar.__file__
        assert paths.ROOT == Path(qstar.__file__).parent / "_recipes"
        sys.argv = ["qstar-train", "--help"]
        train.main()
    """
    assert "qstar-train resume=latest" in python(code, Path("/"), PYTHONPATH=str(site))
    code = f"""
        import sys
        from qstar import train
        sys.argv = ["qstar-train", "run_dir={tmp_path}/run", "steps=1", "batch_size=2", "eval.items=2"]
        train.main()
    """
    assert f"Everything is in {tmp_path}/run" in python(code, Path("/"), PYTHONPATH=str(site))
