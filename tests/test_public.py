"""What `import qstar` gives: few names, each imported when it is used."""

import os
import subprocess
import sys

import pytest

import qstar
from qstar.paths import ROOT


def test_importing_qstar_imports_nothing_else():
    code = "import sys, qstar; print(sorted({'jax', 'numpy', 'hydra', 'pyarrow'} & sys.modules.keys()), dir(qstar)[-1])"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout == "[] sweep\n"


@pytest.mark.parametrize("name", qstar.__all__)
def test_every_public_name_is_there_and_says_what_it_is(name):
    assert getattr(qstar, name).__doc__
    assert name in dir(qstar)


def test_public_names_are_no_modules_whatever_is_imported_first():
    import qstar.cli.compare
    import qstar.reports.sweeps

    assert all(not isinstance(getattr(qstar, name), type(sys)) for name in qstar.__all__)
    assert not {f"qstar.{name}" for name in qstar.__all__} & sys.modules.keys()


def test_another_name_is_refused_with_those_that_are_there():
    with pytest.raises(AttributeError, match=r"'nope'.*open"):
        qstar.nope  # noqa: B018
