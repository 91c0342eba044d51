"""Golds of public data sets are read in plain respellings; with a digit, sign or letter changed they are wrong."""

import os
from pathlib import Path

import pytest
import real_golds

DATA = Path(os.environ.get("QSTAR_DATA", "/nowhere"))


@pytest.mark.skipif(not (DATA / "math500").is_dir(), reason="needs QSTAR_DATA")
@pytest.mark.usefixtures("compared_here")
def test_golds_of_data_sets_take_themselves_and_no_neighbour():
    pytest.importorskip("sympy")
    refused, taken = [], []
    for name, judge, gold, right, wrong in real_golds.table(DATA, 12):
        refused += [(name, gold, text) for text in right if not judge(text, gold)]
        taken += [(name, gold, text) for text in wrong if judge(text, gold)]
    assert refused == []
    assert taken == []
