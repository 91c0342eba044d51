"""The step that is compiled ahead, while a run begins."""

from dataclasses import dataclass

import jax
import numpy as np
import pytest
import tiny

from qstar import sharding
from qstar.methods.plain_lm import PlainLM
from qstar.methods.protocol import Reference
from qstar.methods.quiet_star import QuietStar
from qstar.models.lora import LoraConfig
from qstar.sharding import MeshConfig
from qstar.training import loop
from qstar.training.build import Program
from qstar.training.optim import OptimConfig

REFERENCE = Reference(decay=0.5)
BATCH = tiny.batch(np.ones((8, 6), int), np.ones((8, 6), int))


@dataclass(frozen=True)
class Compared(PlainLM):
    """A plain language model that keeps reference weights."""

    reference: Reference = REFERENCE


@pytest.mark.parametrize(
    ("method", "optim", "adapters", "mesh"),
    [
        (PlainLM(), OptimConfig(weights="bfloat16"), None, MeshConfig()),
        (PlainLM(), OptimConfig(ema=0.9), None, MeshConfig(fsdp=2)),
        (PlainLM(), OptimConfig(), LoraConfig(rank=2, base="bfloat16"), MeshConfig(data=2, fsdp=2)),
        (Compared(), OptimConfig(), None, MeshConfig(data=2)),
        pytest.param(
            *(QuietStar(thought_len=1, lookahead=1, delimiter_init="mean"), OptimConfig(), None, MeshConfig()),
            marks=pytest.mark.slow,
        ),
    ],
    ids=["bfloat16", "average", "adapters", "reference", "quiet_star"],
)
def test_the_first_step_finds_what_was_compiled_ahead(method, optim, adapters, mesh):
    program = Program.of(method, tiny.LM, sharding.make_mesh(mesh), optim, 4, 1, adapters)
    with jax.set_mesh(program.mesh), tiny.noting_compiled() as compiled:
        batch = loop._place(BATCH, program.mesh)
        program.compile(jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), batch))
        program.step(program.start(jax.tree.map(np.array, tiny.lm_of()[1]), 0), batch)
    assert compiled.count("jit(step)") == 1


def test_programs_of_the_same_settings_share_their_step():
    mesh = sharding.make_mesh(MeshConfig())
    of = lambda steps, **settings: Program.of(Compared(), tiny.LM, mesh, OptimConfig(**settings), steps, 1)  # noqa: E731
    assert of(4).step is of(4).step is of(5).step  # a constant learning rate, however many steps there are
    decaying = of(4, schedule="linear").step
    assert decaying is of(4, schedule="linear").step
    assert decaying is not of(5, schedule="linear").step


def test_programs_with_the_same_adapters_share_their_step():
    mesh = sharding.make_mesh(MeshConfig())
    first, again, wider = (
        Program.of(PlainLM(), tiny.LM, mesh, OptimConfig(), 4, 1, LoraConfig(rank=rank, targets=("query",)))
        for rank in (2, 2, 3)
    )
    assert again.step is first.step is not wider.step
