"""The type checker finds nothing at the level that pyproject.toml sets: all modules, and in full what users import."""

import subprocess
import sys

import pytest

from qstar.paths import ROOT

pytest.importorskip("mypy", reason="mypy is not installed: pip install '.[test]'")


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> str:
    """Of one check for the next, which then takes a second."""
    return str(tmp_path_factory.mktemp("mypy"))


def checked(cache: str, *arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "mypy", "--no-error-summary", "--cache-dir", cache, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_the_package_has_no_type_errors(cache):
    done = checked(cache)
    assert (done.stdout, done.returncode) == ("", 0)


def test_the_types_of_the_public_names_are_seen_by_a_checker(cache, tmp_path):
    """Lazy names would be `Any`; a wrong use of one is an error."""
    user = tmp_path / "user.py"
    user.write_text("import qstar\n\nrun = qstar.open('latest')\nrun.metrics(3)\nqstar.sweep('runs').over(1)\n")
    done = checked(cache, "--follow-imports=silent", "--enable-error-code=arg-type", str(user))
    assert [line.split(": ", 1)[0].rpartition(":")[2] for line in done.stdout.splitlines()] == ["4", "5"]
