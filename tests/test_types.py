"""The type checker finds nothing at the level that pyproject.toml sets: all modules, and in full what users import."""

import subprocess
import sys

import pytest

from qstar.paths import ROOT

pytest.importorskip("mypy", reason="mypy is not installed: pip install '.[test]'")

USER = """\
import qstar

qstar.open("latest").read()
qstar.sweep("runs").over(nope="seed")
qstar.read()
"""


@pytest.fixture(scope="module")
def told(tmp_path_factory) -> list[str]:
    """What one check says of the package and of a module that uses it: twenty seconds of a processor."""
    folder = tmp_path_factory.mktemp("types")
    (folder / "user.py").write_text(USER)
    command = [sys.executable, "-m", "mypy", "--no-error-summary", "--cache-dir", folder / "cache", "qstar"]
    done = subprocess.run([*command, folder / "user.py"], cwd=ROOT, capture_output=True, text=True)
    assert done.stderr == ""
    return done.stdout.splitlines()


def test_the_package_has_no_type_errors(told):
    assert [line for line in told if not line.split(":")[0].endswith("user.py")] == []


def test_a_checker_sees_the_types_of_the_public_names(told):
    """Names that are imported lazily could be `Any`, with which every call is right; these lack or have an argument."""
    wrong = [line.split(":")[1] for line in told if "user.py" in line and line.endswith("[call-arg]")]
    assert wrong == ["3", "4", "5"]
