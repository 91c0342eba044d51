"""`--help` of the commands with a Hydra configuration."""

import subprocess
import sys

import pytest

from qstar import config as configs
from qstar import manual

configs.register()


def test_help_shows_what_the_arguments_compose():
    shown = manual.text("train", ["method=lm", "seed=17", "~experiments"])
    assert "\nseed: 17\n" in shown
    assert "\nmethod: {}\n" in shown
    assert "qstar-train resume=latest" in shown


def test_help_lists_the_files_of_the_groups_that_the_command_has():
    lines = manual.text("improve", []).splitlines()
    assert "model: pretrained, scratch, tiny" in lines
    assert "task: arithmetic, commonsense_qa, gsm8k, jsonl, reasoning_gym, svamp" in lines
    assert not [line for line in lines if line.startswith(("method:", "data:", "eval:"))]


@pytest.mark.parametrize(
    "arguments, message", [("sed=3", "Could not override 'sed'"), ("data=oops", "Could not find 'data/oops'")]
)
def test_help_with_wrong_arguments_says_what_is_wrong(capsys, arguments, message):
    with pytest.raises(SystemExit) as stop:
        manual.show("train", ["--help", arguments])
    assert stop.value.code == 1
    assert message in capsys.readouterr().err


def test_help_imports_no_library_of_data_checkpoints_or_statistics():
    heavy = ("grain", "orbax", "pandas", "pyarrow", "scipy", "tensorflow_datasets", "torch")
    code = (
        "import sys; from qstar import train, improve, evaluate\n"
        "sys.argv = ['qstar-train', '--help']\n"
        "train.main()\n"
        f"found = [name for name in {heavy} if name in sys.modules]\n"
        "assert not found, found"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert found.returncode == 0, found.stderr
    assert "Configuration (override with key=value)" in found.stdout
