"""Memory of a step: the formula against the compiled step, and what is said where there is no room."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import pytest
from small_runs import MODEL, composed, small

from qstar import sharding
from qstar.methods.plain_lm import PlainLM
from qstar.methods.quiet_star import QuietStar
from qstar.models import memory
from qstar.models.cost import Pass
from qstar.models.lm import SHALLOW, LMConfig
from qstar.runs import train
from qstar.sharding import MeshConfig
from qstar.structs import Batch
from qstar.training import machine, room
from qstar.training.build import Program
from qstar.training.optim import OptimConfig
from qstar.training.room import Sizes

LM = LMConfig(vocab=500, width=64, layers=4, heads=4, kv_heads=2, head_size=16, ff=192, max_len=64)
THINKS = QuietStar(thought_len=6, lookahead=2, mix="hidden", baseline="mean")


@functools.cache  # what is traced for one test need not be for another
def program_of(method, lm=LM, micro_batches=1, mesh=MeshConfig()):  # noqa: B008 (frozen)
    return Program.of(method, lm, sharding.make_mesh(mesh), OptimConfig(), 10, micro_batches)


def batch_of(rows, length):
    kinds = (jnp.int32, bool, jnp.int32, jnp.int32)
    return Batch(*(jax.ShapeDtypeStruct((rows, length), kind) for kind in kinds))


def compiled_bytes(program, rows, length):
    with jax.set_mesh(program.mesh):
        return room.step_bytes(program, program.abstract_state(0), batch_of(rows, length))


@pytest.mark.parametrize(
    ("method", "remat", "layers", "rows", "length"),
    [
        (THINKS, "full", 4, 8, 64),  # the batch of a test below: compiled once
        pytest.param(THINKS, "minimal", 4, 2, 64, marks=pytest.mark.slow),
        pytest.param(THINKS, "none", 2, 2, 64, marks=pytest.mark.slow),
        pytest.param(THINKS, "none", SHALLOW + 1, 1, 64, marks=pytest.mark.slow),
        (PlainLM(), "full", 4, 32, 64),
        (PlainLM(), "none", SHALLOW + 1, 8, 64),
    ],
    ids=["thinking", "minimal", "without-remat", "without-remat-deep", "plain", "plain-without-remat-deep"],
)
def test_the_formula_foresees_what_a_compiled_step_takes(method, remat, layers, rows, length):
    program = program_of(method, dataclasses.replace(LM, remat=remat, layers=layers))
    share = 1.0 if method is THINKS else None
    found = room.predicted_bytes(program, rows, Sizes(remat, 1, share, length))
    # It knows sizes, not in which order the compiler lets go of them.
    assert found == pytest.approx(compiled_bytes(program, rows, length), rel=0.25)


def test_what_is_kept_is_what_layers_hand_on():
    lm = dataclasses.replace(LM, layers=3, width=8, kv_heads=1, head_size=4)
    passes = [Pass(10, 10, 9), Pass(40, 14, 20, phase="columns", thoughts=5)]
    found = memory.temporaries(lm, passes, rows=2, trained=100)
    # Per layer 40 columns and 10 of text, whose keys, values and gradients of both are there as well.
    assert found.kept == 2 * 3 * (40 * 8 + 10 * 8 + 4 * 10 * 4) * 4
    assert memory.temporaries(dataclasses.replace(lm, dtype="bfloat16"), passes, 2, 100).kept == found.kept // 2
    assert memory.temporaries(dataclasses.replace(lm, dtype="bfloat16"), passes, 2, 100, wide=True).kept == found.kept


def test_a_step_that_does_not_fit_is_refused_with_settings_that_do(monkeypatch):
    cfg = small("batch_size=8", "data.length=64")
    program = program_of(THINKS)
    state, batch = program.abstract_state(0), batch_of(8, 64)
    needed = compiled_bytes(program, 8, 64)
    monkeypatch.setattr(machine, "free_bytes", lambda device: needed)
    with jax.set_mesh(program.mesh):
        room.check(cfg, program, state, batch)  # it just fits
    limit = int(0.6 * needed)
    monkeypatch.setattr(machine, "free_bytes", lambda device: limit)
    with jax.set_mesh(program.mesh), pytest.raises(ValueError) as caught:
        room.check(cfg, program, state, batch)
    message = str(caught.value)
    sizes = r"needs [\d.]+ MiB besides its state of [\d.]+ MiB over all devices, and [\d.]+ MiB are free on this cpu"
    assert re.search(sizes, message)
    found = dict(re.findall(r"([\w.]+)=([\d.]+) \(", message))
    assert found == {"micro_batches": "2", "method.think_fraction": "0.5", "data.length": "32"}
    assert compiled_bytes(program_of(THINKS, micro_batches=2), 8, 64) <= limit
    monkeypatch.setenv("QSTAR_CHECK_MEMORY", "0")
    room.check(cfg, program, state, batch)


def test_micro_batches_that_are_suggested_divide_over_the_mesh():
    program = program_of(THINKS, mesh=MeshConfig(data=4))
    now = Sizes("full", 1, 1.0, 64)
    offered = [value for name, value, _ in room._smaller(now, 16, 4) if name == "micro_batches"]
    assert offered == [2, 4]
    assert room.predicted_bytes(program, 16, now) == 4 * room.predicted_bytes(program_of(THINKS), 4, now)


def test_where_nothing_helps_a_smaller_model_is_the_way_out():
    cfg = small("batch_size=8")
    assert room.suggestions(cfg, program_of(THINKS), 64, needed=10**9, free=10**3) == []


@pytest.mark.parametrize(("times", "given_back"), [(1.5, True), (2.5, False)])
def test_where_there_is_no_room_for_two_steps_memory_is_given_back_between_them(times, given_back, monkeypatch):
    cfg, program = small("batch_size=8"), program_of(THINKS)
    state, batch = program.abstract_state(0), batch_of(8, 64)
    told = []
    monkeypatch.setattr(machine, "free_bytes", lambda device: int(times * room.step_bytes(program, state, batch)))
    monkeypatch.setattr(machine, "keep_freed_memory", told.append)
    with jax.set_mesh(program.mesh):
        room.check(cfg, program, state, batch)
    assert told == [False] * given_back


def test_a_run_without_room_ends_before_its_first_step(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "free_bytes", lambda device: 1000)
    cfg = composed(*MODEL, "~experiments", "method=lm", "data.length=32", "steps=2", "eval=none", "sample_every=0")
    with pytest.raises(ValueError, match=r"a step of PlainLM .*lora.rank=8"):
        train.run(cfg, tmp_path / "run")
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
    assert not any((tmp_path / "run" / "checkpoints").iterdir())
