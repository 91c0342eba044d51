"""Where the time of a compiled program goes: its operations by kind, and how long each of them ran.

Products are told apart by what they multiply (weights, the output layer, attention's queries, keys and values), the
rest is named as XLA names it (a fusion is a loop over everything element-wise, a custom call is a kernel from outside
XLA). Operations that run at once share the time between them.
"""

import collections
import gzip
import json
import math
import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import jax

_INSTRUCTION = re.compile(
    r"\s*(?:ROOT )?%?([\w.\-]+) = \(?(\w+)\[([\d,]*)\][^ ]*(?: [^=]*\))? ([\w\-]+)\(([^)]*)\)(.*)"
)
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
    shapes, ops, products, fusions, computation = {}, {}, {}, {}, ""
    for line in hlo.splitlines():
        begun, matched = _COMPUTATION.match(line), _INSTRUCTION.match(line)
        if begun:
            computation = begun[1]
        if not matched:
            continue
        name, _, shape, code, operands, rest = matched.groups()
        shapes[name], ops[name] = _sizes(shape), Op(code)
        left = operands.split(",")[0].split("%")[-1].strip()
        if code == "dot" and left in shapes:
            ops[name] = products[computation] = _product(shapes[left], shapes[name], rest, vocab)
        elif code == "custom-call" and "dot_dimension_numbers" in rest and left in shapes:  # cuBLAS
            ops[name] = _product(shapes[left], shapes[name], rest, vocab)
        elif code == "fusion":
            fusions[name] = re.search(r"calls=%?([\w.\-]+)", rest)[1]
    return ops | {name: products[called] for name, called in fusions.items() if called in products}


def _sizes(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(","))) if text else ()


def _product(left: tuple[int, ...], out: tuple[int, ...], rest: str, vocab: int) -> Op:
    summed = math.prod(left[axis] for axis in _axes("lhs_contracting", rest))
    flops = 2 * summed * math.prod(out)
    shape = f"{' x '.join(map(str, out))} over {summed}"
    if _axes("lhs_batch", rest):
        return Op("products of attention", shape, flops)
    many = vocab in (*out, summed)
    return Op("products with the output layer" if many else "products with weights", shape, flops)


def _axes(name: str, rest: str) -> list[int]:
    """Of a product, as an instruction says it: `NAME_dims={0}`, or of a kernel `"NAME_dimensions":["0"]`."""
    matched = re.search(rf'{name}_dim(?:ension)?s"?[=:][{{\[]([\d,"]*)[}}\]]', rest)
    return [int(axis) for axis in re.findall(r"\d+", matched[1])] if matched else []


def profiled(run: Callable[[], object]) -> tuple[collections.Counter, collections.Counter]:
    """`durations` of one call of `run`, which is compiled already; what it returns is waited for."""
    options = jax.profiler.ProfileOptions()
    options.enable_hlo_proto = jax.default_backend() != "cpu"  # a CPU's needs none, and all of the process are written
    options.python_tracer_level = 0
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder, profiler_options=options):
            jax.block_until_ready(run())
        return durations(Path(folder))


def by_kind(ops: dict[str, Op], taken: collections.Counter) -> dict[str, float]:
    """Microseconds of each kind of operation, the longest first."""
    totals: collections.Counter = collections.Counter()
    for name, us in taken.items():
        totals[ops[name].kind if name in ops else "other"] += us
    return dict(totals.most_common())


def durations(folder: Path) -> tuple[collections.Counter, collections.Counter]:
    """Microseconds, and how often, of every operation in a trace."""
    file = max(folder.rglob("*.trace.json.gz"))
    edges = []
    for event in json.loads(gzip.decompress(file.read_bytes()))["traceEvents"]:
        name = event.get("args", {}).get("hlo_op", "")
        if event.get("ph") == "X" and name and not name.startswith(INSIDE):
            edges += [(event["ts"], True, name), (event["ts"] + event["dur"], False, name)]
    return shared(edges)


def shared(edges: list[tuple[float, bool, str]]) -> tuple[collections.Counter, collections.Counter]:
    """Time and number of runs by name, from (when, whether something of the name begins or ends, name).

    What runs at once shares the time. What overlaps with itself is one run: pieces of it on several threads, or a
    kernel that the trace of a GPU lists twice, as work of a stream and as an operation.
    """
    taken, times, running, last = collections.Counter(), collections.Counter(), collections.Counter(), 0.0
    for now, begins, name in sorted(edges):
        for active, count in running.items():
            taken[active] += (now - last) * count / running.total()
        times[name] += begins and not running[name]
        running[name] += 1 if begins else -1
        running, last = +running, now
    return taken, times
