"""`--help` of the commands with a Hydra configuration."""

import dataclasses
import os
import subprocess
import sys
import tomllib

import pytest
from test_settings import SCHEMAS

from qstar import config as configs
from qstar import prepare, report, think
from qstar.cli import compare, manual
from qstar.methods.adaptive import Adaptive
from qstar.methods.quiet_star import QuietStar
from qstar.paths import ROOT

configs.register()


def text_of(program: str, *arguments: str) -> str:
    """What `PROGRAM --help` prints."""
    name = program.removeprefix("qstar-")
    if name in ("train", "evaluate", "improve", "solve", "label"):
        return manual.text(name, arguments)
    return {"compare": compare, "think": think, "prepare": prepare, "report": report}[name].parser().format_help()


def entries(lines: list[str]) -> list[tuple[str, str]]:
    """Names with their meanings, of lines with the one from column 4 and the other from column 34 on."""
    found: list[tuple[str, str]] = []
    for line in lines:
        if line[2:4].strip(" *"):  # the name of a group
            continue
        if line[4:34].strip():
            found.append((line[4:].split()[0], ""))
        if line[33:34] == " ":
            found[-1] = (found[-1][0], f"{found[-1][1]} {line[34:]}".strip())
    return found


def test_help_shows_what_the_arguments_compose():
    shown = manual.text("train", ["method=lm", "seed=17", "~experiments"])
    assert "\n    seed=17  " in shown
    assert "\nlabel: k completions from every step (Math-Shepherd, Wang et al. 2024" in manual.text("label", [])
    assert "\nmethod: Next-token negative log-likelihood, the mean over the tokens that count.\n" in shown
    assert "\n    method." not in shown
    assert "qstar-train resume=latest" in shown
    assert "  * lm      " in shown and "    quiet_star_cups  " in shown


def test_help_lists_the_choices_of_the_commands_groups_with_their_meaning():
    shown = manual.text("improve", [])
    lines = shown.splitlines()
    tasks = entries(lines[lines.index("  task") + 1 : lines.index("", lines.index("  task"))])
    assert (
        " ".join(name for name, _ in tasks)
        == "arithmetic commonsense_qa countdown cups gsm8k jsonl reasoning_gym svamp"
    )
    assert tasks[0][1].startswith("Sums of 1 to 5 digits on STaR's scratchpad")
    assert "  method" not in lines and "  data" not in lines
    assert "    star/smollm2/sums  " in shown and "\n    quiet_star/tiny" not in shown


@pytest.mark.parametrize(("group", "schema"), SCHEMAS, ids=lambda one: getattr(one, "__name__", one))
def test_every_setting_has_a_meaning(group, schema):
    meanings = manual.meanings(schema)
    assert [one.name for one in dataclasses.fields(schema) if not meanings.get(one.name)] == []


def test_every_choice_of_a_group_has_a_meaning():
    for name in ("train", "improve", "evaluate", "solve", "label"):
        groups = manual.text(name, []).split("\nSettings")[0].split("is picked)\n")[1]
        assert [choice for choice, meaning in entries(groups.splitlines()) if not meaning] == []


def test_the_meaning_of_a_setting_is_the_comment_at_its_field():
    assert manual.meanings(QuietStar)["beta"] == "weight of REINFORCE"
    assert manual.meanings(QuietStar)["mixing_start"].startswith(
        "Share of the thought before the first step. None: where"
    )
    assert manual.meanings(Adaptive)["beta"] == "weight of REINFORCE"  # inherited
    assert "    method.beta=1.0               weight of REINFORCE\n" in manual.text("train", [])
    assert "(one of constant, linear,\n" in manual.text("train", [])


@pytest.mark.parametrize("program", tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"])
def test_help_fits_into_a_hundred_columns(program, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    assert [line for line in text_of(program).splitlines() if len(line) > 100] == []


@pytest.mark.parametrize("program", tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"])
def test_help_fits_into_eighty_columns_but_for_commands_that_are_longer(program, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    longer = [line for line in text_of(program).splitlines() if len(line) > 80]
    assert [line for line in longer if not (line.startswith("  qstar-") and "   " not in line.strip())] == []


def test_the_examples_of_compare_follow_from_those_before_them():
    commands = [line.split() for line in compare.EXAMPLES.splitlines() if line.startswith("  qstar-")]
    written = {word.partition("=")[2] for words in commands if words[0] == "qstar-evaluate" for word in words[1:]}
    compared = [word for words in commands if words[0] == "qstar-compare" for word in words[1:]]
    assert {name.split("/step_")[0] for name in compared if name.startswith("evaluations")} <= written
    assert {name.split("/step_")[1] for name in compared if "/step_" in name} == {
        "20",
        "40",
    }  # of steps=40 save_every=20
    assert "steps=40 save_every=20" in compare.EXAMPLES


@pytest.mark.parametrize(
    "arguments, message",
    [
        ("sed=3", "there is no setting sed: did you mean seed=3?"),
        ("data=oops", "data is one of cups, examples, labelled, pairs, rollouts, rollouts_dapo, rollouts_reft, text"),
    ],
)
def test_help_with_wrong_arguments_says_what_is_wrong(capsys, arguments, message):
    with pytest.raises(SystemExit) as stop:
        manual.show("train", ["--help", arguments])
    assert stop.value.code == 1
    assert message in capsys.readouterr().err


def test_help_whose_reader_has_seen_enough_ends_without_a_traceback():
    read, write = os.pipe()
    os.close(read)
    code = "import sys; from qstar import label; sys.argv = ['qstar-label', '--help']; label.main()"
    ended = subprocess.run([sys.executable, "-c", code], stdout=write, stderr=subprocess.PIPE, text=True, timeout=120)
    os.close(write)
    assert (ended.returncode, ended.stderr) == (1, "")


def test_help_imports_no_library_of_data_checkpoints_or_statistics():
    heavy = (
        *("array_record", "beartype", "gguf", "grain", "huggingface_hub", "matplotlib", "orbax", "pandas", "pyarrow"),
        *("reasoning_gym", "scipy", "sympy", "tensorflow", "tensorflow_datasets", "torch", "wandb"),
    )
    code = (
        "import sys; from qstar import train, improve, evaluate, solve\n"
        "sys.argv = ['qstar-train', '--help']\n"
        "train.main()\n"
        f"found = [name for name in {heavy} if name in sys.modules]\n"
        "assert not found, found"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert found.returncode == 0, found.stderr
    assert "Settings (change with key=value)" in found.stdout
