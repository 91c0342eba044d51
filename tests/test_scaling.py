"""The scaling model on paper, against numbers worked out by hand."""

import dataclasses
import importlib.util
import sys

import pytest

from qstar.models.cost import Pass
from qstar.models.lm import LMConfig
from qstar.paths import ROOT

spec = importlib.util.spec_from_file_location("scaling", ROOT / "experiments" / "benchmarks" / "scaling.py")
scaling = importlib.util.module_from_spec(spec)
sys.modules["scaling"] = scaling  # dataclasses look their module up
spec.loader.exec_module(scaling)

LM = LMConfig(vocab=10, width=8, layers=2, heads=2, kv_heads=1, head_size=4, ff=6, max_len=16, tied=False)
# A layer: queries and out 2 x 64, keys and values 2 x 32, feed-forward 3 x 48.
LAYERS, TABLES = 2 * 336, 2 * 80
MACHINE = scaling.Machine(1e3, 1.0, 1e3, 1e6, near=100.0, far=10.0, node=4)
PASSES = (Pass(3, 3, 2), Pass(6, 5, 6, gradient=False, phase="sampling", thoughts=2, runs=5), Pass(8, 7, 4))


def of(layout):
    return scaling.step(LM, PASSES, 1, scaling.Layout(*layout), MACHINE, 4)


def test_weights_are_counted():
    assert scaling.weights(LM) == (LAYERS, TABLES)
    assert scaling.weights(dataclasses.replace(LM, tied=True)) == (LAYERS, 80)


def test_a_device_sends_seven_eighths_of_a_sum_twice():
    assert scaling.reduced(800, 8) == 1400


def test_links_between_nodes_carry_what_leaves_a_node():
    assert [MACHINE.link(4, 4), MACHINE.link(8, 4), MACHINE.link(8, 1)] == [100.0, 40.0, 10.0]


def test_data_parallel_sums_gradients_of_layers_for_text_and_columns_tables_once():
    one = of((4, 1, 1))
    assert one.data_s == pytest.approx(2 * 3 / 4 * 4 * (2 * LAYERS + TABLES) / 100)
    assert (one.fsdp_s, one.tensor_s) == (0, 0)
    assert one.state == 12 * (LAYERS + TABLES)


def test_sharded_weights_are_gathered_for_every_token_of_a_thought():
    one = of((1, 4, 1))
    # Text and columns, each forwards and backwards, and five tokens: nine times; the tables four times.
    gathered, scattered = 4 * (9 * LAYERS + 4 * TABLES), 4 * (2 * LAYERS + TABLES)
    assert one.fsdp_s == pytest.approx(3 / 4 * (gathered + scattered) / 100)
    assert one.state == 3 * (LAYERS + TABLES)


def test_tensor_parallel_sums_two_activations_forwards_and_five_backwards():
    one = of((1, 1, 2))
    columns = 2 * (7 * 3 + 2 * 6 + 7 * 8)  # of two rows, which two devices share
    assert one.tensor_s == pytest.approx(2 * 1 / 2 * columns * LM.layers * LM.width * 4 / 100)
