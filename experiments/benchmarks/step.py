"""Quiet-STaR's training step: time and memory, against plain language modelling and against the released code.

    python experiments/benchmarks/step.py [--official CHECKOUT --python PYTHON] [--repeats 5] [--out step.jsonl]

A step is forward, backward and AdamW in float32: thoughts of 12 (of which the released code samples 9), 4 tokens ahead,
two thoughts; four layers; ours recomputes all but products with weights (model.remat=minimal). CHECKOUT is one of
github.com/ezelikman/quiet-star at 892446b, PYTHON an interpreter with torch and transformers 4.37.2; without them ours
is measured alone. Every side is a process of its own, which sits idle while another is timed; they take turns; programs
are compiled beforehand. Printed: medians and ranges over repeats, peak memory above the interpreter's with its
libraries (`program`: what ours holds before its first step besides weights and moments, compiled programs that is;
torch has them in its libraries; memory is compared with it and without), and the share of the machine's matrix-product
peak in ideal FLOPs (sampling forward, the rest forward and backward, nothing that is recomputed). `at the peak` is how
many times faster than the released code a step of these FLOPs would be at that peak.
"""

import argparse
import atexit
import dataclasses
import functools
import itertools
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
SIDES = ("qstar", "plain LM", "official")


@dataclass(frozen=True)
class Case:
    hidden: int
    length: int
    batch: int
    vocab: int
    layers: int = 4
    thought_len: int = 9  # sampled tokens; with both delimiters and the token that is read: n_ahead = 12
    lookahead: int = 4

    @property
    def heads(self) -> int:
        return self.hidden // 64 if self.hidden >= 256 else 4


# --- one side, in a process of its own ----------------------------------------------------------------------------


def peak() -> int:
    """Bytes that this process has ever held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def held() -> int:
    """Bytes that this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def prepared(side: str, case: Case) -> tuple:
    """The program of our side, its state, a function that draws a batch, and the ideal FLOPs of one row."""
    import jax
    import numpy as np

    from qstar.methods.plain_lm import PlainLM
    from qstar.methods.quiet_star import QuietStar
    from qstar.models import cost
    from qstar.models.lm import LMConfig
    from qstar.sharding import MeshConfig, make_mesh
    from qstar.structs import Batch
    from qstar.training import step as steps
    from qstar.training.build import Program
    from qstar.training.optim import OptimConfig

    lm = LMConfig(
        case.vocab, case.hidden, case.layers, case.heads, case.heads, case.hidden // case.heads, 4 * case.hidden,
        tied=False, remat="minimal",
    )  # fmt: skip
    official = QuietStar(
        thought_len=case.thought_len, lookahead=case.lookahead, mix="hidden", mixing_side="thought", baseline="mean",
        positions="official", delimiter_scale=100.0,
    )  # fmt: skip
    method = PlainLM() if side == "plain LM" else official
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    rng = np.random.default_rng(0)
    with jax.set_mesh(mesh):
        program = Program.of(method, lm, mesh, OptimConfig(delimiter_lr_scale=1.0), 1000, 1)
        params = program.definition.init(jax.random.key(0))
        state = steps.new_state(params, program.tx, jax.random.key(1), False)
    shape = (case.batch, case.length)
    place = np.broadcast_to(np.arange(case.length, dtype=np.int32), shape)

    def drawn() -> Batch:
        tokens = rng.integers(3, case.vocab - 2, shape).astype(np.int32)
        return Batch(tokens, np.ones(shape, bool), np.ones(shape, np.int32), place)

    return program, state, drawn, cost.flops(lm, method.passes(case.length))


def serve(side: str, case: Case) -> None:
    """Take a step for every line of standard input and report its time."""
    import jax

    from qstar.cli import entry

    entry.prepare_jax()
    jax.block_until_ready(jax.numpy.zeros(()))
    before = peak()
    program, state, drawn, flops = prepared(side, case)

    def take_step() -> None:
        nonlocal state
        state, metrics = program.step(state, drawn())
        jax.block_until_ready((state, metrics))

    jax.block_until_ready(state)
    with jax.set_mesh(program.mesh):
        program.step.lower(state, drawn()).compile()  # reads what was compiled; the first call finds it
        data = sum(leaf.nbytes for leaf in jax.tree.leaves((state.params, state.opt_state)))
        answer(take_step, before, flops=case.batch * flops, program=held() - before - data)


def serve_official(case: Case, checkout: Path) -> None:
    """The same of the released code; needs torch and transformers 4.37.2."""
    sys.path.insert(0, str(HERE.parent.parent / "tests" / "golden"))
    import make_official
    import torch
    import torch._dynamo  # which the optimiser imports; later the import fails on the emptied modules

    configuration, modeling = make_official.official(checkout)
    before = peak()
    torch.manual_seed(0)
    golden = make_official.Case(
        case.thought_len + 3, case.lookahead, 2, heads=case.heads, kv_heads=case.heads, width=case.hidden,
        layers=case.layers, ff=4 * case.hidden, vocab=case.vocab,
    )  # fmt: skip
    cfg = configuration.MistralConfig(
        vocab_size=case.vocab, hidden_size=case.hidden, intermediate_size=4 * case.hidden,
        num_hidden_layers=case.layers, num_attention_heads=case.heads, num_key_value_heads=case.heads,
        max_position_embeddings=2048, attn_implementation="eager",
    )  # fmt: skip
    model = make_official.configure(modeling.MistralForCausalLM(cfg), golden)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6)

    def take_step() -> None:
        ids = torch.randint(3, case.vocab - 2, (case.batch, case.length))
        optimizer.zero_grad()
        model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=ids.clone()).loss.backward()
        optimizer.step()

    answer(take_step, before)


def answer(take_step, before: int, **known: int) -> None:
    """Take a first step, which compiles, then a step for every line of standard input; report what it returns."""
    started = time.perf_counter()
    take_step()
    say({"first_s": time.perf_counter() - started, **known})
    for _ in sys.stdin:
        started, used = time.perf_counter(), time.process_time()
        returned = take_step() or {}
        taken = {"s": time.perf_counter() - started, "cpu_s": time.process_time() - used}
        say({**taken, "peak": peak() - before, **returned})


def say(record: dict) -> None:
    print("\n" + MARK + json.dumps(record), flush=True)


MARK = "measured: "


# --- the driver ---------------------------------------------------------------------------------------------------


class Side:
    """A process that takes a step on request."""

    def __init__(self, command: list[str]):
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=_cached()
        )
        self.first = self._read()

    def step(self) -> dict:
        self._process.stdin.write("step\n")
        self._process.stdin.flush()
        return self._read()

    def _read(self) -> dict:
        for line in self._process.stdout:
            if line.startswith(MARK):
                return json.loads(line.removeprefix(MARK))
        raise RuntimeError(self._process.communicate()[1][-2000:])

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


@functools.cache
def _cached() -> dict[str, str]:
    """The environment, with a folder of its own for compiled programs."""
    folder = tempfile.mkdtemp(prefix="qstar_step_")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return {**os.environ, "JAX_COMPILATION_CACHE_DIR": folder}


def measure(case: Case, commands: dict[str, list[str]], repeats: int) -> dict:
    """Seconds and bytes of every side, which take turns, and the peak; a side that fails is reported and left out."""
    sides: dict[str, Side] = {}
    record: dict = dataclasses.asdict(case) | {"sides": {}}
    settings = json.dumps(dataclasses.asdict(case))
    try:
        for name, command in commands.items():
            try:
                if name != "official":  # compiled by a process of its own: compiling takes more memory than the step
                    Side([*command, "--case", settings]).close()
                sides[name] = Side([*command, "--case", settings])
            except RuntimeError as error:
                print(f"{name} failed: {error}", file=sys.stderr)
        taken: dict[str, list[dict]] = {name: [] for name in sides}
        for _, name in itertools.product(range(repeats), list(sides)):
            taken[name].append(sides[name].step())
    finally:
        for side in sides.values():
            side.close()
    for name, steps in taken.items():
        times, peaks = [step["s"] for step in steps], [step["peak"] for step in steps]
        record["sides"][name] = sides[name].first | {"s": times, "peak": max(peaks)}
    rates = [side["flops"] / min(side["s"]) for side in record["sides"].values() if "flops" in side]
    return record | {"peak": max(matmul_peak(), *rates)}  # of products on a machine that was busy then, it is too low


def matmul_peak() -> float:
    """FLOP/s of a large float32 matrix product, the best of three measurements."""
    import jax

    from qstar.training import machine

    return max(machine.measured_peak(jax.devices()[0], "float32") for _ in range(3))


def table(cases: list[dict]) -> str:
    from qstar.reports import tables

    names = ["hidden", "T", "batch", "vocab", "ms", "range", "peak MB", "program MB", "of matmul peak", "x plain LM"]
    names += ["its FLOP ratio", "official ms", "range", "peak MB", "times faster", "at the peak"]
    names += ["less memory", "without program"]
    rows = []
    for case in cases:
        ours, plain, other = (case["sides"].get(name) for name in SIDES)
        cells = [case[name] for name in ("hidden", "length", "batch", "vocab")]
        median, best = statistics.median(ours["s"]), case["peak"]
        cells += [*_times(ours), f"{ours['program'] / 1e6:.0f}", f"{ours['flops'] / median / best:.2f}"]
        cells += [f"{median / statistics.median(plain['s']):.1f}", f"{ours['flops'] / plain['flops']:.1f}"]
        if other:
            theirs = statistics.median(other["s"])
            less = (f"{other['peak'] / size:.1f}" for size in _memory(ours))
            cells += [*_times(other), f"{theirs / median:.1f}", f"{theirs * best / ours['flops']:.1f}", *less]
        rows.append([*cells, *[""] * (len(names) - len(cells))])
    return tables.markdown(names, rows).removesuffix("\n")


def _times(side: dict) -> list[str]:
    from qstar.reports import tables

    return [*tables.median_and_spread([1000 * seconds for seconds in side["s"]], ".0f"), f"{side['peak'] / 1e6:.0f}"]


def _memory(ours: dict) -> tuple[int, int]:
    """Peak bytes with the compiled program and without."""
    return ours["peak"], ours["peak"] - ours["program"]


def summary(cases: list[dict]) -> str:
    """Medians over the grid, where both were measured."""
    said = []
    median_and_range = lambda values: f"{statistics.median(values):.1f} ({min(values):.1f} to {max(values):.1f})"  # noqa: E731
    for vocab in [*sorted({case["vocab"] for case in cases}), "all"]:
        some = [case["sides"] for case in cases if vocab in (case["vocab"], "all") and "official" in case["sides"]]
        if some:
            pairs = [(sides["official"], sides["qstar"]) for sides in some]
            faster = [statistics.median(theirs["s"]) / statistics.median(ours["s"]) for theirs, ours in pairs]
            less = [[theirs["peak"] / size for size in _memory(ours)] for theirs, ours in pairs]
            whole, without = map(median_and_range, zip(*less, strict=True))
            speed = median_and_range(faster).replace(" (", " times faster in the median (")
            memory = f"{whole} times less memory, {without} without the program"
            said.append(f"vocabulary {vocab}: {speed}, {memory}; {len(some)} cases")
    return "\n".join(said)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hidden", type=int, nargs="+", default=[128, 256, 512])
    parser.add_argument("--length", type=int, nargs="+", default=[64, 128, 256])
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--vocab", type=int, nargs="+", default=[1000, 32000])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--official", type=Path, metavar="CHECKOUT")
    parser.add_argument("--python", default=sys.executable, help="that runs the released code")
    parser.add_argument(
        "--out", type=Path, help="JSON lines of the measurements; cases in this file are not measured again"
    )
    parser.add_argument("--show", action="store_true", help="measure nothing, print all cases in --out")
    parser.add_argument("--serve", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--case", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve == "official":
        return serve_official(Case(**json.loads(args.case)), args.official)
    if args.serve:
        return serve(args.serve, Case(**json.loads(args.case)))
    commands = {side: [sys.executable, __file__, "--serve", side] for side in SIDES[:2]}
    if args.official:
        commands["official"] = [args.python, __file__, "--official", str(args.official), "--serve", "official"]
    known = [json.loads(line) for line in args.out.read_text().splitlines()] if args.out and args.out.is_file() else []
    cases = known if args.show else []
    for shape in () if args.show else itertools.product(args.hidden, args.length, args.batch, args.vocab):
        case = Case(*shape)
        here = [record for record in known if {**record, **dataclasses.asdict(case)} == record]
        cases.append(here[-1] if here else measure(case, commands, args.repeats))
        if args.out and not here:
            with args.out.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(cases[-1]) + "\n")
        print(table(cases[-1:]).splitlines()[-1], flush=True)
    cases.sort(key=lambda case: (case["hidden"], case["length"], case["batch"], case["vocab"]))
    peaks = sorted(case["peak"] / 1e9 for case in cases)
    print(f"matrix-product peak: {peaks[0]:.0f} to {peaks[-1]:.0f} GFLOP/s\n\n{table(cases)}\n\n{summary(cases)}")


if __name__ == "__main__":
    main()
