import dataclasses

import pytest
import tiny

from qstar import sharding
from qstar.methods.lm import PlainLM
from qstar.sharding import MeshConfig
from qstar.training import layout, machine
from qstar.training.build import Program
from qstar.training.optim import OptimConfig

LM = dataclasses.replace(tiny.LM, vocab=14)


@pytest.mark.parametrize(
    ("free", "rows", "wanted"),
    [
        (10**12, 8, {"data": 8, "fsdp": 1, "tensor": 1}),
        (10**5, 8, {"data": 1, "fsdp": 8, "tensor": 1}),
        (10**12, 4, {"data": 4, "fsdp": 1, "tensor": 2}),
        (None, 8, {"data": 8, "fsdp": 1, "tensor": 1}),
    ],
)
def test_mesh_is_picked_for_the_devices_found_and_a_line_says_so(free, rows, wanted, monkeypatch, capsys):
    monkeypatch.setattr(machine, "free_bytes", lambda device: free)
    program = Program.of(PlainLM(), LM, sharding.make_mesh(MeshConfig()), OptimConfig(), 10, 1)
    assert dict(layout.picked(program, rows).shape) == wanted
    assert f"mesh=auto: data {wanted['data']}, fsdp {wanted['fsdp']}, tensor {wanted['tensor']} (8 devices of" in (
        capsys.readouterr().out
    )
