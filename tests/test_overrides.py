"""A slip of the pen on the command line is answered with what was meant, or with all that there is."""

import sys

import pytest

from qstar import config as configs
from qstar import overrides
from qstar.cli import manual

configs.register()


def answer(name: str, *arguments: str) -> str:
    """What a command says to arguments that do not compose."""
    with pytest.raises(overrides.ERRORS) as error:
        manual.text(name, arguments)
    return overrides.explained(name, arguments, error.value).splitlines()[0]


@pytest.mark.parametrize(
    ("name", "argument", "expected"),
    [
        ("train", "stpes=10", "there is no setting stpes: did you mean steps=10?"),
        ("train", "bach_size=4", "there is no setting bach_size: did you mean batch_size=4?"),
        ("train", "method.thougt_len=3", "there is no setting method.thougt_len: did you mean method.thought_len=3?"),
        ("train", "model.sorce=x", "there is no setting model.sorce: did you mean model.source=x?"),
        ("train", "lr=1", "there is no setting lr: did you mean optim.lr=1?"),
        ("train", "metod=lm", "there is no setting metod: did you mean method=lm?"),
        (
            "improve",
            "improve.temprature=1",
            "there is no setting improve.temprature: did you mean improve.temperature=1?",
        ),
        ("improve", "tsk=gsm8k", "there is no setting tsk: did you mean task=gsm8k?"),
        ("evaluate", "eval.itms=3", "there is no setting eval.itms: did you mean eval.items=3?"),
        ("evaluate", "method.thought_len=3", "method.thought_len is not set so far: give +method.thought_len=3"),
        ("train", "mesh=fspd", "there is no mesh=fspd: did you mean mesh=fsdp?"),
        (
            "train",
            "experiments=quiet_star/tony",
            "there is no experiments=quiet_star/tony: did you mean experiments=quiet_star/tiny?",
        ),
        ("improve", "improve=stat", "there is no improve=stat: did you mean improve=star?"),
        (
            "train",
            "experiments=star/arithmetic/star",
            "experiments=star/arithmetic/star is of another command: qstar-improve experiments=star/arithmetic/star",
        ),
        ("train", "steps=many", "steps = many: expected a positive integer"),
        ("train", "method.num_thoughts=1.5", "method.num_thoughts = 1.5: expected a positive integer"),
        ("train", "optim.lr=fast", "optim.lr = fast: expected a positive number"),
        ("train", "control=perhaps", "control = perhaps: expected true or false"),
        ("train", "run_dir=a=b", "run_dir=a=b: a value with such characters is quoted: 'run_dir=\"a=b\"'"),
        ("solve", "delimiters=x", "delimiters = x: expected a list: 'delimiters=[x]'"),
        ("train", "steps", "steps: expected key=value, +key=value or ~key"),
    ],
)
def test_a_slip_is_answered_with_what_was_meant(name, argument, expected):
    assert answer(name, argument) == expected


def test_a_single_file_is_answered_with_the_list_that_is_expected():
    assert answer("train", "~experiments", "data=text", 'data.paths="my notes"') == (
        'data.paths = "my notes": expected a list: \'data.paths=["my notes"]\''
    )


def test_what_resembles_nothing_is_answered_with_what_there_is():
    assert answer("train", "optim.foo=1").startswith(
        "there is no setting optim.foo; optim has lr, schedule, warmup_steps,"
    )
    said = answer("solve", "problems=6")  # what qstar-label calls questions
    assert said.startswith("there is no setting problems; the settings are name, run_dir,") and " questions," in said
    with pytest.raises(overrides.ERRORS) as error:
        manual.text("improve", ["experiments=foo"])
    lines = overrides.explained("improve", ["experiments=foo"], error.value).splitlines()
    assert lines[:2] == ["there is no experiments=foo", "experiments is one of"]
    assert "  star/smollm2/sums" in lines and "  quiet_star/tiny" not in lines


@pytest.mark.parametrize(
    ("argument", "meant"),
    [("--steps=10", "steps=10"), ("--lr", "optim.lr=VALUE"), ("--batch-size=4", "batch_size=4"), ("--sed=1", "seed=1")],
)
def test_a_setting_with_dashes_is_answered_with_the_setting(argument, meant, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["qstar-train", argument])
    with pytest.raises(SystemExit) as stop:
        overrides.run("train", lambda: pytest.fail("it was begun"))
    assert stop.value.code == 2
    assert capsys.readouterr().err.endswith(f"without dashes: did you mean {meant}?\n")


@pytest.mark.parametrize("flag", ["-m", "--multirun"])
def test_a_sweep_is_asked_for_before_between_or_after_settings(flag, monkeypatch):
    for given in ([flag, "steps=1", "seed=0,1"], ["steps=1", flag, "seed=0,1"], ["steps=1", "seed=0,1", flag]):
        monkeypatch.setattr("sys.argv", ["qstar-train", *given])
        overrides.run("train", lambda: None)
        assert sys.argv == ["qstar-train", flag, "steps=1", "seed=0,1"]


def test_the_advised_quoting_is_taken():
    with pytest.raises(overrides.ERRORS):
        manual.text("train", ["run_dir=a=b"])
    assert "    run_dir=a=b  " in manual.text("train", ['run_dir="a=b"'])


def test_every_value_of_a_sweep_is_looked_at():
    error = ValueError("of Hydra")
    arguments = ["-m", "seed=0,1", "method=lm,quiet_stat"]
    assert overrides.explained("train", arguments, error).startswith("there is no method=quiet_stat: did you mean")
    assert overrides.explained("train", ["-m", "stpes=1,2"], error).startswith(
        "there is no setting stpes: did you mean"
    )


def test_the_recipes_of_a_command_are_those_that_compose_for_it():
    for name in ("train", "improve"):
        for recipe in overrides.recipes(name):
            assert manual.text(name, [f"experiments={recipe}"])
