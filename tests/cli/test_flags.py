import argparse
from pathlib import Path

import pytest

from qstar.cli import flags


def test_a_path_is_given_with_its_name():
    assert flags.named("star=runs/star") == ("star", Path("runs/star"))
    assert flags.named("a=b=c") == ("a", Path("b=c"))


def test_a_flag_that_is_given_as_an_override_is_spelled_out(tmp_path, monkeypatch, capsys):
    parser = argparse.ArgumentParser()
    parser.add_argument("runs", nargs="*")
    parser.add_argument("--out")
    with pytest.raises(SystemExit):
        flags.parsed(parser, ["mine", "out=x.html"])
    assert "out=x.html is given as --out x.html" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        flags.parsed(parser, ["--sed", "1", "out=x.html"])
    assert "unrecognized arguments: --sed" in capsys.readouterr().err
    flags.overriding(parser, "--set", "of a run")
    assert flags.parsed(parser, ["mine", "--set", "out=x.html"]).set == ["out=x.html"]  # a setting of that name
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out=x.html").mkdir()
    assert flags.parsed(parser, ["mine", "seed=1", "out=x.html"]).runs == ["mine", "seed=1", "out=x.html"]


@pytest.mark.parametrize("text", ["runs/star", "=runs/star", "star="])
def test_a_path_without_a_name_or_a_name_without_a_path_is_refused(text):
    with pytest.raises(argparse.ArgumentTypeError, match=f"NAME=PATH.*'{text}'"):
        flags.named(text)
