import argparse
from pathlib import Path

import pytest

from qstar.cli import flags


def test_a_path_is_given_with_its_name():
    assert flags.named("star=runs/star") == ("star", Path("runs/star"))
    assert flags.named("a=b=c") == ("a", Path("b=c"))


@pytest.mark.parametrize("text", ["runs/star", "=runs/star", "star="])
def test_a_path_without_a_name_or_a_name_without_a_path_is_refused(text):
    with pytest.raises(argparse.ArgumentTypeError, match=f"NAME=PATH.*'{text}'"):
        flags.named(text)
