"""Where the time of a training step goes: a profile of one step of experiments/benchmarks/step.py by operation.

    python experiments/benchmarks/breakdown.py [--hidden 512] [--length 128] [--batch 1] [--vocab 1000] [--side qstar]

Operations are grouped by what they are: products with weights (the output layer's by themselves), attention's products,
and the rest by XLA's name for them (a fusion is everything element-wise that XLA wrote as one loop). Those that run at
once share the time between them. Products have their rate, in all and for the most expensive shapes, and its share
of the peak, that of a large square product on the same machine.
"""

import collections
import functools

import jax
import step
from rich.table import Table

from qstar.cli import entry, flags
from qstar.reports import tables
from qstar.training import console, profile
from qstar.training.profile import Op


def profiled(case: step.Case, side: str) -> tuple[dict[str, Op], collections.Counter, collections.Counter]:
    program, state, drawn, _ = step.prepared(side, case)
    with jax.set_mesh(program.mesh):
        ops = profile.operations(program.step.lower(state, drawn()).compile().as_text(), case.vocab)
        state, _ = jax.block_until_ready(program.step(state, drawn()))
        batch = drawn()
        return ops, *profile.profiled(lambda: program.step(state, batch))


def shown(ops: dict[str, Op], taken: collections.Counter, times: collections.Counter, best: float) -> list[Table]:
    whole = sum(taken.values())
    kinds, shapes = collections.defaultdict(list), collections.defaultdict(list)
    for name in taken:
        op = ops.get(name, Op("other"))
        kinds[op.kind].append(name)
        if op.flops:
            shapes[op].append(name)
    rate = functools.partial(_rate, ops, taken, times)
    best = max([best, *map(rate, shapes.values())])  # which is too low where the machine was busy as it was measured
    rates = lambda names: (f"{rate(names) / 1e9:.0f}", f"{rate(names) / best:.2f}") if rate(names) else ("", "")  # noqa: E731
    cost = lambda group: sum(taken[name] for name in group[1])  # noqa: E731
    by_kind = [
        (kind, f"{cost((kind, names)) / 1e3:.0f}", f"{cost((kind, names)) / whole:.2f}", *rates(names))
        for kind, names in sorted(kinds.items(), key=cost, reverse=True)
    ]
    by_shape = [
        (op.shape, op.kind, sum(times[name] for name in names), f"{cost((op, names)) / 1e3:.0f}", *rates(names))
        for op, names in sorted(shapes.items(), key=cost, reverse=True)[:12]
    ]
    return [
        tables.screen(("operations", "ms", "share", "GFLOP/s", "of peak"), by_kind),
        tables.screen(("products", "kind", "how many", "ms", "GFLOP/s", "of peak"), by_shape),
    ]


def _rate(ops, taken, times, names: list[str]) -> float:
    """FLOPs a second, where there are products among them."""
    flops = sum(ops[name].flops * times[name] for name in names if name in ops)
    return flops / sum(taken[name] for name in names) * 1e6 if flops else 0.0


def main() -> None:
    parser = flags.parser(__doc__)
    for name, usual in (("hidden", 512), ("length", 128), ("batch", 1), ("vocab", 1000)):
        parser.add_argument(f"--{name}", type=int, default=usual)
    parser.add_argument("--side", choices=step.SIDES[:2], default="qstar")
    args = parser.parse_args()
    entry.prepare_jax()
    measured = profiled(step.Case(args.hidden, args.length, args.batch, args.vocab), args.side)
    for table in shown(*measured, step.matmul_peak()):
        console.console().print(table)


if __name__ == "__main__":
    main()
