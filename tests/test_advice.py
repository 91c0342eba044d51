"""What is advised is what a shell, and Hydra after it, understand."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf
from small_runs import small

from qstar import advice
from qstar import config as configs

AWKWARD = (
    "runs/a", "a=b, c", "it's", 'say "x"', "a\\b", "end\\", 'q\\"x', "${now:%Y}", "\\${x}", "$HOME", "`ls`", "[1]",
    "{a:b}", "1", "007", "1e5", "true", "null", "NaN", "a:b", "a#b", "~x", "é ü", "a\tb", "(x)", "x;y", "*", "a'\"b",
    "-x", "a%b", "", " lead", "trail ", "a\nb", "a@b", "!x", "a&b", "x|y", "<z>",
)  # fmt: skip


def pasted(command: str) -> list[str]:
    """The arguments that a program is given when its command line is pasted into a shell."""
    program = command.split()[0]
    define = f'{program}() {{ printf "%s\\0" "$@"; }}\n'
    out = subprocess.run(["bash", "-c", define + command], capture_output=True, check=True).stdout
    return out.decode().split("\0")[:-1]


@pytest.mark.parametrize("value", AWKWARD)
def test_a_value_comes_through_a_shell_and_hydra_as_it_was(value):
    (argument,) = pasted(advice.resume("qstar-train", value))
    override = OverridesParser.create().parse_override(argument)
    assert override.key_or_group == "resume"
    assert OmegaConf.create({"resume": override.value()}).resume == value


@pytest.mark.parametrize("value", [True, None, 3, -0.5, 1e-5, ["a", 2, "b c"], {"k": "v w"}, [[1], ["x,y"]]])
def test_plain_values_come_through_hydra_as_they_were(value):
    assert OverridesParser.create().parse_override(advice.override("key", value)).value() == value


def test_a_command_is_named_as_a_shell_finds_it(tmp_path, monkeypatch):
    scripts, other = tmp_path / "work" / ".venv" / "bin", tmp_path / "other"
    for folder in (scripts, other):
        folder.mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.setattr(sys, "executable", str(scripts / "python"))
    assert advice.command("qstar-train", "seed=1") == "qstar-train seed=1"  # not installed
    for folder in (scripts, other):
        (folder / "qstar-train").write_text("#!/bin/sh\n")
        (folder / "qstar-train").chmod(0o755)
    assert advice.command("qstar-train", "seed=1") == ".venv/bin/qstar-train seed=1"
    monkeypatch.setenv("PATH", f"{other}:/usr/bin:/bin")  # another environment's
    assert advice.command("qstar-train", "seed=1") == ".venv/bin/qstar-train seed=1"
    monkeypatch.setenv("PATH", f"{scripts}:{other}:/usr/bin:/bin")
    assert advice.command("qstar-train", "seed=1") == "qstar-train seed=1"
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.chdir(other)
    assert advice.resume("qstar-train", "a") == f"{scripts}/qstar-train resume=a"


def test_values_that_are_plain_are_not_quoted():
    assert advice.resume("qstar-train", Path("runs/tiny/2025-01")) == "qstar-train resume=runs/tiny/2025-01"


def test_a_path_is_not_taken_for_an_option():
    assert advice.path("-x") == "./-x" and advice.path(Path("runs/x")) == "runs/x"


def test_a_saved_configuration_gives_back_any_text(tmp_path):
    cfg = small()
    for value in AWKWARD[1:9]:
        configs.save(dataclasses.replace(cfg, run_dir=value), tmp_path / "config.yaml")
        assert configs.load(tmp_path / "config.yaml").run_dir == value
