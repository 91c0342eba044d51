import dataclasses

import pytest
import small_runs
import tiny

from qstar import runs, sharding
from qstar.methods.plain_lm import PlainLM
from qstar.runs import train
from qstar.sharding import MeshConfig
from qstar.training import layout, machine
from qstar.training.build import Program
from qstar.training.optim import OptimConfig

LM = dataclasses.replace(tiny.LM, vocab=14)


@pytest.mark.parametrize(
    ("free", "rows", "expected"),
    [
        (10**12, 8, {"data": 8, "fsdp": 1, "tensor": 1}),
        (10**5, 8, {"data": 1, "fsdp": 8, "tensor": 1}),
        (10**12, 4, {"data": 4, "fsdp": 1, "tensor": 2}),
        (None, 8, {"data": 8, "fsdp": 1, "tensor": 1}),
    ],
)
def test_mesh_is_picked_for_the_devices_found_and_a_line_says_so(free, rows, expected, monkeypatch, capsys):
    monkeypatch.setattr(machine, "free_bytes", lambda device: free)
    program = Program.of(PlainLM(), LM, sharding.make_mesh(MeshConfig()), OptimConfig(), 10, 1)
    assert dict(layout.picked(program, rows).shape) == expected
    said = f"mesh=auto: data {expected['data']}, fsdp {expected['fsdp']}, tensor {expected['tensor']} (8 devices of"
    assert said in capsys.readouterr().out


@pytest.mark.parametrize("command", ["train", "improve"])
def test_recipes_take_auto(command):
    asked = () if command == "train" else ("model.source=bundled:cups",)
    assert small_runs.composed("mesh=auto", *asked, name=command).mesh == MeshConfig(auto=True)


def test_a_run_is_laid_out_for_its_own_batch(monkeypatch):
    monkeypatch.setattr(machine, "free_bytes", lambda device: 10**12)
    cfg = small_runs.small("mesh=auto", "batch_size=8", "micro_batches=4")
    assert dict(train._mesh(cfg, runs.initial_model(cfg.model, 0)).shape) == {"data": 2, "fsdp": 1, "tensor": 1}
