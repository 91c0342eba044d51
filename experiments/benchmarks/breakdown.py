"""Where the time of a training step goes: a profile of one step of experiments/benchmarks/step.py by operation.

    python experiments/benchmarks/breakdown.py [--hidden 512] [--length 128] [--batch 1] [--vocab 1000] [--side qstar]

Operations are grouped by what they are: products with weights (the output layer's by themselves), attention's products,
and the rest by XLA's name for them (a fusion is everything element-wise that XLA wrote as one loop). Those that run at
once share the time between them. Beside products stands their rate, in all and for the most expensive shapes, and its
share of the peak, that of a large square product on the same machine.
"""

import argparse
import collections
import functools
import gzip
import json
import math
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

import jax
import step
from rich.table import Table

from qstar import entry
from qstar.training import console

_INSTRUCTION = re.compile(r"\s*(?:ROOT )?%?([\w.\-]+) = \(?(\w+)\[([\d,]*)\][^ ]* ([\w\-]+)\(([^)]*)\)(.*)")
_COMPUTATION = re.compile(r"(?:ENTRY )?%?([\w.\-]+) .*\{$")
INSIDE = ("while", "call", "conditional")  # what they hold is there too


@dataclass(frozen=True)
class Op:
    """An operation of a compiled program."""

    kind: str
    shape: str = ""
    flops: int = 0  # of a product


def operations(hlo: str, vocab: int) -> dict[str, Op]:
    """All operations of a program's text, by name; a fusion around a product is that product."""
    shapes, found, products, fusions, computation = {}, {}, {}, {}, ""
    for line in hlo.splitlines():
        begun, matched = _COMPUTATION.match(line), _INSTRUCTION.match(line)
        if begun:
            computation = begun[1]
        if not matched:
            continue
        name, _, shape, code, operands, rest = matched.groups()
        shapes[name], found[name] = _sizes(shape), Op(code)
        left = operands.split(",")[0].split("%")[-1].strip()
        if code == "dot" and left in shapes:
            found[name] = products[computation] = _product(shapes[left], shapes[name], rest, vocab)
        elif code == "fusion":
            fusions[name] = re.search(r"calls=%?([\w.\-]+)", rest)[1]
    return found | {name: products[called] for name, called in fusions.items() if called in products}


def _sizes(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(","))) if text else ()


def _product(left: tuple[int, ...], out: tuple[int, ...], rest: str, vocab: int) -> Op:
    axes = lambda name: [int(one) for one in re.search(name + r"={([\d,]*)}", rest)[1].split(",")]  # noqa: E731
    summed = math.prod(left[axis] for axis in axes("lhs_contracting_dims"))
    flops = 2 * summed * math.prod(out)
    shape = f"{' x '.join(map(str, out))} over {summed}"
    if "lhs_batch_dims" in rest:
        return Op("products of attention", shape, flops)
    many = vocab in (*out, summed)
    return Op("products with the output layer" if many else "products with weights", shape, flops)


def durations(folder: Path) -> tuple[collections.Counter, collections.Counter]:
    """Microseconds, and how often, of every operation in a trace."""
    file = max(folder.rglob("*.trace.json.gz"))
    edges, times = [], collections.Counter()
    for event in json.loads(gzip.decompress(file.read_bytes()))["traceEvents"]:
        name = event.get("args", {}).get("hlo_op", "")
        if event.get("ph") == "X" and name and not name.startswith(INSIDE):
            edges += [(event["ts"], True, name), (event["ts"] + event["dur"], False, name)]
            times[name] += 1
    return shared(edges), times


def shared(edges: list[tuple[float, bool, str]]) -> collections.Counter:
    """Time by name, from (when, whether something of the name begins or ends, name); what runs at once shares it."""
    taken, running, last = collections.Counter(), collections.Counter(), 0.0
    for now, begins, name in sorted(edges):
        for one, count in running.items():
            taken[one] += (now - last) * count / running.total()
        running[name] += 1 if begins else -1
        running, last = +running, now
    return taken


def profiled(case: step.Case, side: str) -> tuple[dict[str, Op], collections.Counter, collections.Counter]:
    program, state, drawn, _ = step.prepared(side, case)
    with jax.set_mesh(program.mesh), tempfile.TemporaryDirectory() as folder:
        ops = operations(program.step.lower(state, drawn()).compile().as_text(), case.vocab)
        state, _ = jax.block_until_ready(program.step(state, drawn()))
        with jax.profiler.trace(folder):
            jax.block_until_ready(program.step(state, drawn()))
        return ops, *durations(Path(folder))


def tables(ops: dict[str, Op], taken: collections.Counter, times: collections.Counter, best: float) -> list[Table]:
    whole = sum(taken.values())
    kinds, shapes = collections.defaultdict(list), collections.defaultdict(list)
    for name in taken:
        op = ops.get(name, Op("other"))
        kinds[op.kind].append(name)
        if op.flops:
            shapes[op].append(name)
    rate = functools.partial(_rate, ops, taken, times, best)
    by_kind = Table("operations", "ms", "share", "GFLOP/s", "of peak")
    by_shape = Table("products", "kind", "how many", "ms", "GFLOP/s", "of peak")
    for kind, names in sorted(kinds.items(), key=lambda item: -sum(taken[name] for name in item[1])):
        us = sum(taken[name] for name in names)
        by_kind.add_row(kind, f"{us / 1e3:.0f}", f"{us / whole:.2f}", *rate(names))
    for op, names in sorted(shapes.items(), key=lambda item: -sum(taken[name] for name in item[1]))[:12]:
        cells = (op.shape, op.kind, str(sum(times[name] for name in names)))
        by_shape.add_row(*cells, f"{sum(taken[name] for name in names) / 1e3:.0f}", *rate(names))
    return [by_kind, by_shape]


def _rate(ops, taken, times, best: float, names: list[str]) -> tuple[str, str]:
    flops = sum(ops[name].flops * times[name] for name in names if name in ops)
    if not flops:
        return "", ""
    each = flops / sum(taken[name] for name in names) * 1e6
    return f"{each / 1e9:.0f}", f"{each / best:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, usual in (("hidden", 512), ("length", 128), ("batch", 1), ("vocab", 1000)):
        parser.add_argument(f"--{name}", type=int, default=usual)
    parser.add_argument("--side", choices=step.SIDES[:2], default="qstar")
    args = parser.parse_args()
    entry.prepare_jax()
    found = profiled(step.Case(args.hidden, args.length, args.batch, args.vocab), args.side)
    for table in tables(*found, step.matmul_peak()):
        console.console().print(table)


if __name__ == "__main__":
    main()
