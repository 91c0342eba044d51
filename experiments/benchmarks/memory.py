"""Memory of a Quiet-STaR training step against length, thought length and thoughts, with the formula's prediction.

    python experiments/benchmarks/memory.py [--size small smollm2] [--measure] [--out memory.jsonl]

A row is one step, forward, backward and AdamW, layers recomputed and logits in slices. `compiled` is what XLA says the
step takes, state included, from shapes alone: nothing is allocated. `formula` is `qstar.models.memory`. With --measure
each step is also taken twice, in a process of its own that finds it compiled and gives back what is freed
(QSTAR_KEEP_MEMORY=0): the most memory that process ever held, above what it held once the program was loaded. `small`:
width 256, six layers, vocabulary 8,000, two rows, every axis alone around 128 tokens and two thoughts of 12. `smollm2`:
the shape of SmolLM2-135M, 256 tokens, vocabulary 49,152, eight rows, two thoughts of 12.
"""

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp

from qstar import files, sharding
from qstar.cli import entry, flags
from qstar.methods.quiet_star import QuietStar
from qstar.models.lm import LMConfig
from qstar.models.published import SIZES
from qstar.reports import tables
from qstar.structs import Batch
from qstar.training import console, machine, room, trial
from qstar.training.build import Program
from qstar.training.optim import OptimConfig

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Case:
    size: str
    length: int
    thought_len: int = 12
    thoughts: int = 2
    rows: int = 2
    think_fraction: float = 1.0
    micro_batches: int = 1


SMALL = [
    Case("small", 128),
    *(Case("small", length) for length in (64, 256, 512)),
    *(Case("small", 128, thought_len=count) for count in (4, 24)),
    *(Case("small", 128, thoughts=count) for count in (4, 8)),
    Case("small", 128, think_fraction=0.25),
    Case("small", 128, micro_batches=2),
]
SMOLLM2 = [
    Case("smollm2", 256, rows=8),
    Case("smollm2", 256, rows=8, micro_batches=4),
    Case("smollm2", 256, rows=8, think_fraction=0.25),
]
CASES = {"tiny": [Case("tiny", 8, thought_len=2)], "small": SMALL, "smollm2": SMOLLM2}


SHAPES = {
    "tiny": LMConfig(vocab=20, width=16, layers=1, heads=2, kv_heads=1, head_size=8, ff=16),
    "small": LMConfig(vocab=8000, width=256, layers=6, heads=8, kv_heads=4, head_size=32, ff=1024),
    "smollm2": SIZES["135M"],
}


def program_of(case: Case) -> Program:
    method = QuietStar(
        thought_len=case.thought_len, num_thoughts=case.thoughts, mix="hidden", baseline="mean",
        think_fraction=case.think_fraction,
    )  # fmt: skip
    mesh = sharding.make_mesh(sharding.MeshConfig())
    return Program.of(method, SHAPES[case.size], mesh, OptimConfig(), 1000, case.micro_batches)


def analysed(case: Case) -> dict[str, float]:
    """Bytes of the compiled step and by formula, state included, and the seconds that compiling took."""
    program = program_of(case)
    kinds = (jnp.int32, bool, jnp.int32, jnp.int32)
    batch = Batch(*(jax.ShapeDtypeStruct((case.rows, case.length), kind) for kind in kinds))
    sizes = room.Sizes(program.lm.remat, case.micro_batches, case.think_fraction, case.length)
    started = time.perf_counter()
    with jax.set_mesh(program.mesh):
        compiled = room.step_bytes(program, program.abstract_state(0), batch)
    seconds = time.perf_counter() - started
    held, formula = trial.held_bytes(program), room.predicted_bytes(program, case.rows, sizes)
    return {"state": held, "compiled": held + compiled, "formula": held + formula, "compile_s": seconds}


def measured(case: Case) -> int:
    """Bytes that two steps took at most, the state included; the interpreter and the program itself are left out."""
    entry.prepare_jax()
    program = program_of(case)
    with jax.set_mesh(program.mesh):
        state = trial.state(program)
        held = sum(leaf.nbytes for leaf in jax.tree.leaves((state.params, state.opt_state)))
        for seed in range(2):
            batch = trial.batch(program, case.rows, case.length, seed)
            if seed == 0:
                room.step_bytes(program, state, batch)  # compiles, or reads what was compiled
                before = machine.peak_bytes() - held
            state, _ = program.step(state, batch)
            jax.block_until_ready(state)
    return machine.peak_bytes() - before


def in_a_process(case: Case) -> int:
    command = [sys.executable, __file__, "--case", json.dumps(dataclasses.asdict(case))]
    env = os.environ | {"QSTAR_KEEP_MEMORY": "0"}
    for _ in range(2):  # the first one compiles, which takes more memory than a small step
        done = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, check=True)
    return int(done.stdout.splitlines()[-1])


def show(rows: list[dict]) -> None:
    sizes = ("state", "compiled", "formula", "measured")
    names = ("size", "rows", "T", "thought", "thoughts", "positions", "micro", *sizes, "formula / compiled")
    shown = []
    for row in rows:
        case = Case(**row["case"])
        settings = (case.size, case.rows, case.length, case.thought_len, case.thoughts, case.think_fraction)
        gib = (f"{row[name] / GIB:.3f}" if name in row else "" for name in sizes)
        shown.append((*settings, case.micro_batches, *gib, f"{row['formula'] / row['compiled']:.2f}"))
    console.console().print(tables.screen(names, shown))
    console.console().print("memory in GiB; state: weights and moments of AdamW")


def main() -> None:
    parser = flags.parser(__doc__)
    parser.add_argument("--size", nargs="+", choices=CASES, default=["small", "smollm2"])
    parser.add_argument("--measure", action="store_true", help="take the steps too")
    parser.add_argument("--out", type=Path, metavar="FILE", help="append every row as a line of JSON")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.case:
        print(measured(Case(**json.loads(args.case))))
        return
    with entry.errors():
        entry.prepare_jax()
        rows = []
        for case in (case for size in args.size for case in CASES[size]):
            rows.append({"case": dataclasses.asdict(case), **analysed(case)})
            if args.measure:
                rows[-1]["measured"] = in_a_process(case)
            if args.out:
                files.append(args.out, rows[-1:])
        show(rows)


if __name__ == "__main__":
    main()
