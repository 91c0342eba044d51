"""Quiet-STaR's step on many accelerators, on paper: time by part, bound of model-FLOP utilisation, memory, by layout.

    python experiments/benchmarks/scaling.py [--devices 8 64 256] [--rows 1] [--length 256] [--wire 4]

FLOPs and bytes are those of `qstar.models.cost`, memory that of `qstar.models.memory`, collectives those counted in the
compiled step (tests/test_sharding.py); the accelerator is an H100 SXM. Rows are per device, so the batch grows with the
machine. What is not known on paper is bounded from both sides: communication fully overlapped with the computation, and
not at all.
"""

import argparse
import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

from qstar.cli import flags
from qstar.methods.quiet_star import QuietStar
from qstar.models import cost, memory
from qstar.models.cost import Pass
from qstar.models.lm import LMConfig
from qstar.models.published import SIZES
from qstar.reports import tables

SHOWN = ("1B", "7B")
FORWARD_SUMS, BACKWARD_SUMS = 2, 5  # activations of a layer that are summed over tensor, counted in the compiled step
TABLE_GATHERS = 4  # of embedding and head: look-up, and the logits of the text, of sampling and of the columns
UPDATE_BYTES = 28  # a weight's, for AdamW: itself, its gradient and two moments read, all but the gradient written


@dataclass(frozen=True)
class Machine:
    """One accelerator of many: FLOPs and bytes a second, bytes held."""

    peak: float
    attained: float  # share of the peak that large products reach
    memory_rate: float
    memory: float
    near: float  # link to the devices of its node, one direction
    far: float  # its share of the node's links to others, one direction
    node: int

    def link(self, members: int, near_members: int) -> float:
        """Rate of a ring over `members` devices, of which `near_members` share a node.

        A ring over several nodes leaves each of them through the links of all its members there.
        """
        return self.near if members <= near_members else min(self.near, self.far * near_members)


H100 = Machine(peak=989e12, attained=0.7, memory_rate=3.35e12, memory=80e9, near=450e9, far=50e9, node=8)
"""SXM: bfloat16 of the data sheet, HBM3, NVLink and InfiniBand."""


@dataclass(frozen=True)
class Layout:
    data: int
    fsdp: int
    tensor: int

    def __str__(self) -> str:
        sizes = dataclasses.asdict(self)
        return " x ".join(f"{name} {size}" for name, size in sizes.items() if size > 1)


@dataclass(frozen=True)
class Step:
    """Seconds of a step by part, and bytes of a device."""

    compute_s: float
    update_s: float
    data_s: float
    fsdp_s: float
    tensor_s: float
    state: float
    temporaries: float

    @property
    def hidden_s(self) -> float:
        """With all communication overlapped."""
        return max(self.compute_s + self.update_s, self.data_s + self.fsdp_s + self.tensor_s)

    @property
    def exposed_s(self) -> float:
        return self.compute_s + self.update_s + self.data_s + self.fsdp_s + self.tensor_s


def layouts(devices: int, node: int) -> Iterator[Layout]:
    near = min(node, devices)
    yield Layout(devices, 1, 1)
    yield Layout(1, devices, 1)
    if devices > near:
        yield Layout(devices // near, near, 1)
    yield Layout(1, devices // near * (near // 2), 2)


def weights(lm: LMConfig) -> tuple[int, int]:
    """Of all layers, and of the tables."""
    layer = 2 * lm.width * (lm.heads + lm.kv_heads) * lm.head_size + 3 * lm.width * lm.ff
    return lm.layers * layer, (1 if lm.tied else 2) * lm.vocab * lm.width


def reduced(size: float, ways: int) -> float:
    """Bytes that a device sends when `ways` devices sum `size` bytes in a ring; half of it to gather or to scatter."""
    return 2 * size * (ways - 1) / ways


def step(lm: LMConfig, passes: tuple[Pass, ...], rows: int, layout: Layout, on: Machine, wire: int) -> Step:
    """`rows` windows on every device of data and fsdp, times the ways of tensor; `wire` bytes a gathered weight."""
    layers, tables = weights(lm)
    rows, ways = rows * layout.tensor, layout.fsdp * layout.tensor
    work = cost.phases(lm, passes, rows)
    compute = sum(max(part.flops / (on.peak * on.attained), part.bytes / on.memory_rate) for part in work.values())
    update = UPDATE_BYTES * (layers + tables) / ways / on.memory_rate
    backward = sum(part.gradient for part in passes)  # a layer's gradients are summed for each
    runs = sum(part.runs + part.gradient for part in passes)  # times that a layer's weights are read

    near = max(1, min(layout.fsdp, on.node // layout.tensor))
    gathers = wire * (layers * runs + tables * TABLE_GATHERS) / layout.tensor
    scattered = 4 * (layers * backward + tables) / layout.tensor
    fsdp = reduced((gathers + scattered) / 2, layout.fsdp) / on.link(layout.fsdp, near)
    beside = max(1, min(layout.data, on.node // (layout.tensor * near)))
    data = reduced(scattered / layout.fsdp, layout.data) / on.link(layout.data, beside)
    sums = sum(part.columns * (FORWARD_SUMS + BACKWARD_SUMS * part.gradient) for part in passes)
    activations = rows * sums * lm.layers * lm.width * cost.SIZES[lm.dtype]
    tensor = reduced(activations, layout.tensor) / on.link(layout.tensor, on.node)

    held = 4 * (layers + tables) / ways
    gathered = (4 * (layers / lm.layers + tables) / layout.tensor) if layout.fsdp > 1 else 0
    temporaries = memory.temporaries(lm, passes, rows, round(held)).peak + gathered
    return Step(compute / layout.tensor, update, data, fsdp, tensor, 3 * held, temporaries)


def table(name: str, args: argparse.Namespace, on: Machine) -> Iterator[str]:
    lm = dataclasses.replace(SIZES[name], dtype="bfloat16", remat="full")
    method = QuietStar(thought_len=12, lookahead=4, num_thoughts=2)
    passes = method.passes(args.length)
    ideal = cost.flops(lm, passes) * args.rows
    size = sum(weights(lm)) / 1e9
    yield f"\n{name}: {size:.2f} billion weights, {ideal / 1e12:,.0f} TFLOP of a step on a device\n"
    parts = ("compute", "update", "data", "fsdp", "tensor")
    yield tables.head(["devices", "layout", *(f"{name} s" for name in (*parts, "step")), "MFU", "GB a device"])
    for devices in args.devices:
        for layout in layouts(devices, on.node):
            timed = step(lm, passes, args.rows, layout, on, args.wire)
            steps, used = (timed.hidden_s, timed.exposed_s), (timed.state + timed.temporaries) / 1e9
            seconds = (f"{getattr(timed, f'{name}_s'):.3f}" for name in parts)
            shares = tables.spread([ideal / one_s / on.peak for one_s in steps], ".0%")
            room = "" if used * 1e9 <= on.memory else " (no room)"
            yield tables.row([devices, layout, *seconds, tables.spread(steps, ".2f"), shares, f"{used:.0f}{room}"])


def arguments() -> argparse.Namespace:
    parser = flags.parser(__doc__)
    parser.add_argument("--devices", type=int, nargs="+", default=[8, 64, 256], help="whole nodes, or part of one")
    parser.add_argument("--rows", type=int, default=1, help="windows a device")
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--wire", type=int, default=4, choices=(2, 4), help="bytes of a gathered weight")
    return parser.parse_args()


def main() -> None:
    args = arguments()
    for name in SHOWN:
        for line in table(name, args, H100):
            print(line)


if __name__ == "__main__":
    main()
