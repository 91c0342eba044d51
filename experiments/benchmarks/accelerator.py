"""A training step on an accelerator: time, model-FLOP utilisation and memory, of Quiet-STaR and a plain language model.

    python experiments/benchmarks/accelerator.py [--shape 135M 1B 7B] [--length 256 1024] [--rows 1] [--steps 10]

Random weights in the shapes of SmolLM2-135M, Llama 3.2 1B and Mistral 7B, the last frozen in bfloat16 beneath adapters
of rank 16 on all projections. A step is forward, backward and AdamW on all devices that are there: thoughts of 12, 4
ahead, two thoughts; bfloat16, layers recomputed as --remat says, the text's attention by --attention. Every row is a
process of its own, so that its peak of memory is its own. Utilisation is ideal FLOPs (sampling forward, the rest
forward and backward, nothing that is recomputed) over the median step and the peak of a large bfloat16 product on the
same device. `kernels` names the calls that the compiled step makes outside of XLA's own code.
"""

import argparse
import collections
import dataclasses
import itertools
import json
import re
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass

import scaling

MARK = "measured: "
GIB = 2**30
SHAPES = {
    "tiny": dataclasses.replace(
        scaling.SHAPES["1B"], vocab=500, width=64, layers=2, heads=4, kv_heads=2, head_size=16, ff=192
    ),
    "135M": dataclasses.replace(
        scaling.SHAPES["1B"], vocab=49_152, width=576, layers=30, heads=9, kv_heads=3, head_size=64, ff=1536
    ),
    **scaling.SHAPES,
}
TIED = scaling.TIED | {"135M": True, "tiny": True}
ADAPTED = ("7B",)


@dataclass(frozen=True)
class Case:
    shape: str
    method: str
    length: int
    rows: int
    micro_batches: int
    attention: str
    remat: str
    dtype: str
    steps: int


def taken(case: Case) -> dict:
    """Seconds of every step, FLOPs, peaks and kernels."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from qstar import entry, sharding
    from qstar.methods.lm import PlainLM
    from qstar.methods.quiet_star import QuietStar
    from qstar.models import cost
    from qstar.models.lora import LoraConfig
    from qstar.structs import Batch
    from qstar.training import layout, machine
    from qstar.training.build import Program
    from qstar.training.optim import OptimConfig

    entry.prepare_jax()
    lm = dataclasses.replace(
        SHAPES[case.shape], tied=TIED[case.shape], dtype=case.dtype, remat=case.remat, attention=case.attention
    )
    method = PlainLM() if case.method == "lm" else QuietStar(mix="hidden", baseline="mean", delimiter_id=0)
    adapters = LoraConfig(rank=16, targets=("all",), base="bfloat16") if case.shape in ADAPTED else None
    rows = case.rows * len(jax.devices())
    single = sharding.make_mesh(sharding.MeshConfig(), jax.devices()[:1])
    make = lambda mesh: Program.of(method, lm, mesh, OptimConfig(), 1000, case.micro_batches, adapters)  # noqa: E731
    mesh = layout.picked(make(single), rows // case.micro_batches) if len(jax.devices()) > 1 else single
    program = make(mesh)
    with jax.set_mesh(mesh):
        state = random_state(program)
        shape = (rows, case.length)
        place = np.broadcast_to(np.arange(case.length, dtype=np.int32), shape)
        tokens = np.random.default_rng(0).integers(1, lm.vocab, shape).astype(np.int32)
        batch = Batch(tokens, np.ones(shape, bool), np.ones(shape, np.int32), place)
        batch = jax.device_put(batch, sharding.named(mesh, "batch"))
        compiled = program.step.lower(state, batch).compile()
        kernels = collections.Counter(re.findall(r'custom_call_target="([^"]+)"', compiled.as_text()))
        seconds = []
        for _ in range(1 + case.steps):
            started = time.perf_counter()
            state, metrics = program.step(state, batch)
            jax.block_until_ready((state, metrics))
            seconds.append(time.perf_counter() - started)
    flops = rows * cost.flops(lm, method.passes(case.length), frozen=adapters is not None)
    return {
        "seconds": seconds[1:],
        "flops": flops,
        "peak_flops": machine.peak_flops(mesh, jnp.dtype(case.dtype).name),
        "peak_bytes": machine.peak_bytes(),
        "kernels": dict(kernels),
        "device": f"{len(jax.devices())} x {jax.devices()[0].device_kind}",
    }


def random_state(program):
    """A train state with random weights, made where it lies and in the types in which it is held."""
    import jax

    from qstar.training import step as steps

    definition = program.definition

    def made(key: jax.Array):
        weights, run = jax.random.split(key)
        held = jax.tree.map(lambda leaf, like: leaf.astype(like.dtype), definition.init(weights), definition.abstract)
        trained, frozen = definition.split(held)
        return steps.new_state(trained, program.tx, run, False, frozen)

    return jax.jit(made, out_shardings=program.places)(jax.random.key(0))


def in_a_process(case: Case) -> dict | None:
    """None where it failed, out of memory for one, which is said."""
    command = [sys.executable, __file__, "--case", json.dumps(dataclasses.asdict(case))]
    found = subprocess.run(command, capture_output=True, text=True)
    lines = [line for line in found.stdout.splitlines() if line.startswith(MARK)]
    if not lines:
        print(f"{case} failed:\n{found.stderr[-1500:]}", file=sys.stderr)
        return None
    return json.loads(lines[-1].removeprefix(MARK))


HEAD = ("shape", "method", "T", "rows", "ms", "range", "tokens/s", "utilisation", "peak GiB", "kernels")


def row(case: Case, found: dict) -> list[str]:
    ms = sorted(1000 * one for one in found["seconds"])
    median = statistics.median(ms)
    kernels = ", ".join(f"{name} x {count}" for name, count in sorted(found["kernels"].items())) or "none"
    rows = case.rows * int(found["device"].split(" x ")[0])
    return [
        case.shape + (" LoRA" if case.shape in ADAPTED else ""),
        case.method,
        str(case.length),
        str(rows),
        f"{median:.1f}",
        f"{ms[0]:.1f} to {ms[-1]:.1f}",
        f"{rows * case.length / median * 1000:,.0f}",
        f"{found['flops'] / median * 1000 / found['peak_flops']:.2f}",
        f"{found['peak_bytes'] / GIB:.2f}",
        kernels,
    ]


def parser() -> argparse.ArgumentParser:
    out = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    out.add_argument("--shape", nargs="+", choices=SHAPES, default=["135M", "1B", "7B"])
    out.add_argument("--method", nargs="+", choices=("quiet_star", "lm"), default=["quiet_star", "lm"])
    out.add_argument("--length", type=int, nargs="+", default=[256, 1024])
    out.add_argument("--rows", type=int, default=1, help="windows a step on each device")
    out.add_argument("--micro-batches", type=int, default=1)
    out.add_argument("--attention", choices=("einsum", "xla", "cudnn"), default="cudnn", help="of the text to itself")
    out.add_argument("--remat", choices=("full", "minimal", "none"), default="full")
    out.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    out.add_argument("--steps", type=int, default=10, help="that are timed, behind one that is not")
    out.add_argument("--case", help=argparse.SUPPRESS)
    return out


def main() -> None:
    args = parser().parse_args()
    if args.case:
        return print(MARK + json.dumps(taken(Case(**json.loads(args.case)))), flush=True)
    print(f"| {' | '.join(HEAD)} |\n| {' | '.join('---' for _ in HEAD)} |", flush=True)
    found = None
    for shape, length, method in itertools.product(args.shape, args.length, args.method):
        case = Case(
            shape, method, length, args.rows, args.micro_batches, args.attention, args.remat, args.dtype, args.steps
        )
        one = in_a_process(case)
        if one:
            found = one
            print(f"| {' | '.join(row(case, one))} |", flush=True)
    if found:
        print(f"\n{found['device']}, peak of a large product {found['peak_flops'] / 1e12:.3g} TFLOP/s")


if __name__ == "__main__":
    main()
