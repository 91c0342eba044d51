"""The measurements of an accelerator, each a function that runs in a process of its own and prints what it measured.

    python experiments/accelerator/jobs.py KIND ARGUMENTS-AS-JSON

`all.py` calls this. Step times are of whole compiled steps, waited for; utilisation is ideal FLOPs (sampling forward,
the rest forward and backward, nothing that is recomputed) over the median step and the peak of a large product on the
same device.
"""

import ctypes
import dataclasses
import gzip
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import plan

from qstar import config as configs
from qstar import evaluate, runs, sharding
from qstar.cli import entry
from qstar.config import EvaluateConfig
from qstar.decoding import score
from qstar.decoding.generate import generate
from qstar.decoding.sampling import Sampling
from qstar.methods.plain_lm import PlainLM
from qstar.methods.quiet_star import QuietStar
from qstar.models import lm
from qstar.models.lm import LMConfig
from qstar.models.lora import LoraConfig
from qstar.models.published import SIZES
from qstar.ops import attention
from qstar.paths import ROOT
from qstar.reports import compared, frames
from qstar.runs import improve, pool, train
from qstar.sharding import MeshConfig
from qstar.thoughts.writing import generate as think
from qstar.training import machine, profile, trial
from qstar.training.build import Program
from qstar.training.optim import OptimConfig

LIBC = ctypes.CDLL(None)
DEATH_SIGNAL = 1  # of a process, when the thread that started it ends
TIMED = 10  # calls of a small program
SHAPES = {"tiny": LMConfig(512, 64, 1, 8, 8, 8, 192, 512, tied=True), **SIZES}
ADAPTED = ("7B",)  # frozen in bfloat16 beneath adapters of rank 16 on all projections


def median_s(run: Callable[[], object], times: int = TIMED) -> float:
    """Median seconds of a call, after one that compiles."""
    return statistics.median(trial.timed(run, times))


# --- a: what is there ---------------------------------------------------------------------------------------------


def device(side: int) -> dict:
    """Names, memory, driver, and what products and copies reach."""
    first = jax.local_devices()[0]
    return {
        "devices": len(jax.devices()),
        "kind": first.device_kind,
        "platform": first.client.platform_version.splitlines()[0],
        "jax": jax.__version__,
        "driver": plan.driver(),
        "memory_bytes": (first.memory_stats() or {}).get("bytes_limit"),
        "peak_flops": {dtype: machine.measured_peak(first, dtype) for dtype in ("bfloat16", "float32")},
        "copy_bytes_per_s": copy_rate(side),
    }


def copy_rate(side: int) -> float:
    """Bytes a second, read and written, of an array that no cache holds."""
    array, run = jnp.ones((4, side, side)), jax.jit(lambda x: x + 1)
    return 2 * array.nbytes / median_s(lambda: run(array))


def text_attention(rows: int, length: int, heads: int, kv_heads: int, head_size: int, dtype: str) -> dict:
    """The text's attention to itself, forward and backward, by every kernel that works here."""
    shape = (rows, length, heads, head_size)
    query = jax.random.normal(jax.random.key(0), shape, dtype)
    key, value = (jax.random.normal(jax.random.key(i), (rows, length, kv_heads, head_size), dtype) for i in (1, 2))
    mask = attention.text_mask(jnp.ones((rows, length), int))
    flops = 3 * 4 * rows * length**2 * heads * head_size  # of all pairs, masked or not
    by_kernel = {}
    for kernel in attention.KERNELS:
        run = jax.jit(jax.grad(lambda *x, kernel=kernel: attention.causal(*x, mask, kernel=kernel).sum(), (0, 1, 2)))
        try:
            compiled = run.lower(query, key, value).compile()
            seconds = median_s(lambda compiled=compiled: compiled(query, key, value))
        except (ValueError, RuntimeError) as error:
            by_kernel[kernel] = {"error": str(error).splitlines()[0][:200]}
            continue
        by_kernel[kernel] = {"seconds": seconds, "flops_per_s": flops / seconds, "kernels": trial.kernels(compiled)}
    return by_kernel


def column_attention(
    rows: int, length: int, heads: int, kv_heads: int, head_size: int, columns: int, dtype: str
) -> dict:
    """The columns' attention forward: is it the arithmetic or the memory that bounds it?"""
    draw = lambda i, *shape: jax.random.normal(jax.random.key(i), shape, dtype)  # noqa: E731
    thoughts = 2
    query = draw(0, rows, thoughts, length, columns, heads, head_size)
    text = [draw(i, rows, length, kv_heads, head_size) for i in (1, 2)]
    own = [draw(i, rows, thoughts, length, columns, kv_heads, head_size) for i in (3, 4)]
    mask = jnp.tril(jnp.ones((1, length, 1, length), bool)).repeat(rows, 0)
    causal = jnp.tril(jnp.ones((columns, columns), bool))
    run = jax.jit(lambda q, t, o: attention.columns(q, *t, mask, *o, causal))
    compiled = run.lower(query, text, own).compile()
    seconds = median_s(lambda: compiled(query, text, own))
    flops = 4 * rows * thoughts * length * columns * heads * head_size * (length + columns)
    scores = 4 * rows * thoughts * length * columns * heads * (length + columns)
    return {
        "seconds": seconds,
        "flops_per_s": flops / seconds,
        "operand_bytes": query.nbytes + sum(x.nbytes for x in (*text, *own)) + query.nbytes,
        "score_bytes": scores,
        "flops": flops,
        "kernels": trial.kernels(compiled),
    }


# --- b: steps -----------------------------------------------------------------------------------------------------


def program_of(shape: str, method: str, dtype: str, remat: str, attend: str, mesh, micro_batches: int = 1) -> Program:
    model = dataclasses.replace(SHAPES[shape], dtype=dtype, remat=remat, attention=attend)
    thoughts = {"thought_len": 3, "lookahead": 2} if shape == "tiny" else {}
    way = PlainLM() if method == "lm" else QuietStar(mix="hidden", baseline="mean", delimiter_init="mean", **thoughts)
    adapters = LoraConfig(rank=16, targets=("all",), base="bfloat16") if shape in ADAPTED else None
    return Program.of(way, model, mesh, OptimConfig(), 1000, micro_batches, adapters)


def step(
    shape: str,
    method: str,
    length: int,
    remat: str,
    dtype: str,
    steps: int,
    attention: str,
    most_rows: int,
) -> dict:
    """Steps of one setting with as many rows as fit: half of them where the formula was too hopeful."""
    left_out = []
    while True:
        program = program_of(shape, method, dtype, remat, attention, trial.one_device())
        rows = trial.rows_that_fit(program, length, most_rows)
        try:
            return {**vars(trial.taken(program, rows, length, steps)), "attention": attention, "left_out": left_out}
        except (RuntimeError, ValueError) as error:
            said = str(error).splitlines()[0][:200]
            memory = "RESOURCE_EXHAUSTED" in said or "out of memory" in said.lower()
            if rows == 1 or (not memory and attention == "einsum"):
                raise
            left_out.append({"rows": rows, "attention": attention, "error": said})
            most_rows, attention = (rows // 2, attention) if memory else (most_rows, "einsum")


def compiled_step(shape: str, method: str, length: int, remat: str, dtype: str, attention: str, most_rows: int) -> dict:
    """Compile what `step` takes with the same arguments, so that it lies in the cache."""
    program = program_of(shape, method, dtype, remat, attention, trial.one_device())
    rows = trial.rows_that_fit(program, length, most_rows)
    started = time.perf_counter()
    compiled = trial.compiled(program, rows, length)
    return {"rows": rows, "seconds": time.perf_counter() - started, "kernels": trial.kernels(compiled)}


def profiled_step(shape: str, length: int, dtype: str, rows: int, attention: str, out: str) -> dict:
    """Microseconds of one Quiet-STaR step by kind of operation; the program and every operation are kept in OUT."""
    program = program_of(shape, "quiet_star", dtype, "full", attention, trial.one_device())
    with jax.set_mesh(program.mesh):
        state, batch = trial.state(program), trial.batch(program, rows, length)
        compiled = program.step.lower(state, batch).compile()
        text = compiled.as_text()
        state, _ = jax.block_until_ready(compiled(state, batch))
        times, counts = profile.profiled(lambda: compiled(state, batch))
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "program.txt.gz").write_bytes(gzip.compress(text.encode()))
    ops = profile.operations(text, program.lm.vocab)
    rows_of = [
        [name, us, counts[name], *vars(ops.get(name, profile.Op("other"))).values()] for name, us in times.items()
    ]
    (folder / "operations.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows_of), encoding="utf-8")
    return {"microseconds": profile.by_kind(ops, times)}


def sharded(shape: str, length: int, dtype: str, steps: int, layout: str) -> dict:
    """A row per device on all devices in one layout, and a row on one device."""
    count = len(jax.devices())
    if count == 1:
        return {"devices": 1}
    mesh = sharding.make_mesh(MeshConfig(**{"data": 1, "fsdp": 1, "tensor": 1} | {layout: count}))
    rows = 1 if layout == "tensor" else count
    took = lambda mesh, rows: trial.taken(  # noqa: E731
        program_of(shape, "quiet_star", dtype, "full", "einsum", mesh), rows, length, steps
    )
    alone, together = took(trial.one_device(), 1), took(mesh, rows)
    return {"devices": count, "layout": layout, "alone": vars(alone), "together": vars(together)}


# --- c: correctness -----------------------------------------------------------------------------------------------


def logits(model: str, length: int) -> dict:
    """Largest difference of a model's logits from those of the CPU, at two precisions of products."""
    loaded = runs.load_model(model)
    ids = np.random.default_rng(0).integers(1, loaded.lm.vocab, (2, length))

    def on(place: jax.Device, precision: str) -> np.ndarray:
        with jax.default_device(place), jax.default_matmul_precision(precision):
            return score.logits(lm.definition(loaded.lm), jax.device_put(loaded.language_model, place), ids)

    exact = on(jax.devices("cpu")[0], "highest")
    differences = {"largest_logit": float(np.abs(exact).max())}
    for precision in ("default", "highest"):
        here = on(jax.devices()[0], precision)
        differences[precision] = {
            "largest_difference": float(np.abs(here - exact).max()),
            "same_argmax": float((here.argmax(-1) == exact.argmax(-1)).mean()),
        }
    return differences


def spawned(command: list[str], environment: dict[str, str]) -> None:
    """Run a command that ends when this process ends, with what it prints on the standard error."""
    subprocess.run(command, env=os.environ | environment, check=True, stdout=sys.stderr, preexec_fn=end_with_parent)


def _trained(folder: Path, environment: dict[str, str], *overrides: str) -> list[dict]:
    """Metrics of a run of the bundled task in a process of its own."""
    spawned([sys.executable, "-m", "qstar.train", *overrides], environment)
    return frames.lines(folder / "metrics.jsonl")


SMALL = ("control=false", "eval=none", "batch_size=8", "log_every=1", "sample_every=0")


def small_run(steps: int) -> dict:
    """Losses of a small Quiet-STaR run here and on the CPU; same weights, text and random numbers."""
    differences = {}
    with tempfile.TemporaryDirectory() as folder:
        whole = lambda name: (f"run_dir={folder}/{name}", f"steps={steps}", *SMALL)  # noqa: E731
        cpu = _trained(Path(folder) / "cpu", {"JAX_PLATFORMS": "cpu"}, *whole("cpu"))
        for precision in ("default", "highest"):
            environment = {"JAX_DEFAULT_MATMUL_PRECISION": precision}
            here = _trained(Path(folder) / precision, environment, *whole(precision))
            differences[precision] = {
                name: max(abs(a[name] - b[name]) for a, b in zip(here, cpu, strict=True) if name in b)
                for name in ("nll", "nll_mixed", "reward", "thought_nll")
            }
            differences[precision]["first step"] = abs(here[0]["loss"] - cpu[0]["loss"])
    return differences


def resumed(out: str, steps: int) -> dict:
    """Is a run that stopped half-way and went on the run that did not stop, to the last bit of its weights?"""
    weights = {}
    for name, flags in (("as it is", ""), ("deterministic", "--xla_gpu_deterministic_ops=true")):
        if flags and shutil.which("nvidia-smi") is None:
            continue
        environment = {"XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {flags}".strip()}
        whole, parts = Path(out) / name.replace(" ", "_") / "whole", Path(out) / name.replace(" ", "_") / "parts"
        for folder in (whole, parts):
            shutil.rmtree(folder, ignore_errors=True)
        fresh = (f"save_every={steps}", *SMALL)
        _trained(whole, environment, f"run_dir={whole}", f"steps={2 * steps}", *fresh)
        _trained(parts, environment, f"run_dir={parts}", f"steps={steps}", *fresh)
        _trained(parts, environment, f"resume={parts}", f"steps={2 * steps}")
        pairs = zip(*(jax.tree.leaves(runs.load_run(folder).params) for folder in (whole, parts)), strict=True)
        weights[name] = max(float(np.abs(a - b).max()) for a, b in pairs)
    return {"largest_difference": weights}


# --- d, f: trainings ----------------------------------------------------------------------------------------------


def trained(folder: str, experiment_name: str, model: str, overrides: list[str]) -> dict:
    """Train or resume an arm and evaluate its last weights; the rows for paired tests are in FOLDER/asked."""
    own = [f"experiments={experiment_name}", f"run_dir={folder}", f"model.source={model}", *overrides]
    cfg = configs.composed("train", own)
    started = time.monotonic()
    train.run(cfg, Path(folder))
    trained_s = time.monotonic() - started
    evaluate.evaluate(EvaluateConfig(run=folder, out=str(Path(folder) / "asked"), model=None, eval=cfg.eval))
    metrics = frames.lines(Path(folder) / "metrics.jsonl")
    ends = [metrics[i] for i in sorted({0, len(metrics) - 1})]
    return {"evaluations": frames.evaluations(Path(folder)), "metrics": ends, "trained_s": trained_s}


def paired_tests(folder: str, arms: list[str], seed: int) -> dict:
    """Every arm that is there against the first one, and with thoughts against without."""
    asked = {arm: Path(folder) / arm / str(seed) / "asked" for arm in arms}
    there = [arm for arm, place in asked.items() if (place / "evals.jsonl").is_file()]
    if len(there) < 2:
        raise ValueError(f"{folder} holds {len(there)} evaluated arms of seed {seed}: expected two or more")
    comparisons = []
    for arm in there:
        others = [(None, "its own answers without thoughts")]
        others += [(arms[0], arms[0])] if arm != arms[0] and arms[0] in there else []
        for other, name in others if arm != arms[0] else []:
            first, second = (asked[arm], None) if other is None else (asked[other], asked[arm])
            tests = compared.paired_tests(first, second)
            comparisons += [{"arm": arm, "against": name, **vars(test)} for test in tests]
    return {"comparisons": json.loads(json.dumps(comparisons, default=float))}


def token_benefit(folder: str, arms: list[str], seed: int, texts: int, data: str) -> dict:
    """Gain of a thought by token, and the thoughts that helped most, of every arm that is there."""
    script = ROOT / "experiments" / "quiet_star" / "token_benefit.py"
    pages = {}
    for arm in arms:
        run = Path(folder) / arm / str(seed)
        if (run / "summary.md").is_file():
            out, file = run / "benefit", Path(data) / "gsm8k" / "test.jsonl"
            command = [sys.executable, str(script), str(run), str(file), "--texts", str(texts), "--out", str(out)]
            command += ["--replace"]  # what a call that was stopped has written
            spawned(command, {})
            pages[arm] = (out / "benefit.md").read_text(encoding="utf-8")
    if not pages:
        raise ValueError(f"{folder} holds no trained arm of seed {seed}: expected one or more")
    return pages


def improved(folder: str, experiment_name: str, model: str, sums: str, overrides: list[str]) -> dict:
    """One self-training run; lines of its iterations. Its weights are removed at the end."""
    own = [f"experiments={experiment_name}", f"run_dir={folder}", f"model.source={model}", *overrides]
    if experiment_name.endswith("sums"):
        own += _sums(sums)
    iterations = improve.run(configs.composed("improve", own), Path(folder))
    _remove_weights(Path(folder))
    return {"iterations": iterations}


def reinforced(folder: str, model: str, sums: str, overrides: list[str]) -> dict:
    """GRPO on sums, evaluated on dev as it trains and on test at the end. Its weights are then removed."""
    own = ["experiments=rl/smollm2_sums", f"run_dir={folder}", f"model.source={model}", *_sums(sums), *overrides]
    cfg = configs.composed("train", own)
    train.run(cfg, Path(folder))
    asked = dataclasses.replace(cfg.eval, split="test", items=100_000)
    evaluate.evaluate(EvaluateConfig(run=folder, out=str(Path(folder) / "test"), model=None, eval=asked))
    _remove_weights(Path(folder))
    return {
        "dev": frames.evaluations(Path(folder)),
        "test": frames.lines(Path(folder) / "test" / "evals.jsonl"),
        "metrics": frames.lines(Path(folder) / "metrics.jsonl"),
    }


def _remove_weights(folder: Path) -> None:
    """Checkpoints of a training and its iterations: those of all jobs together would fill most disks."""
    for checkpoints in [*folder.rglob("checkpoints")]:
        shutil.rmtree(checkpoints)


def _sums(folder: str) -> list[str]:
    return [
        f"task.{name}path={folder}/{split}.jsonl" for name, split in (("", "train"), ("dev_", "dev"), ("test_", "test"))
    ]


# --- e: generation ------------------------------------------------------------------------------------------------


def generation(model: str, rows: list[int], new_tokens: int, prompt: int, thought_len: int, dtype: str) -> dict:
    """Tokens a second at several numbers of rows, and the bytes of weights that a second of it reads."""
    loaded = runs.load_model(model)
    shape = dataclasses.replace(loaded.lm, dtype=dtype)
    method = QuietStar(thought_len=thought_len, delimiter_init="mean", mix="hidden") if thought_len else PlainLM()
    definition = method.definition(shape)
    params = jax.device_put(method.start_from(definition, loaded.language_model, jax.random.key(0)))
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    measured = []
    for count in rows:
        prompts = np.random.default_rng(count).integers(1, shape.vocab, (count, prompt)).tolist()

        def write(prompts=prompts, count=count):
            key = jax.random.key(0)
            if thought_len:
                return think(method, definition, params, prompts, key, max_new_tokens=new_tokens).tokens
            sampling = Sampling(max_new_tokens=new_tokens)
            return generate(definition, params, loaded.tokenizer, prompts, key, sampling, batch_size=count).tokens

        seconds = median_s(write, 3)
        passes = new_tokens * (thought_len + 2 if thought_len else 1)
        speed = {"tokens_per_s": count * new_tokens / seconds, "weight_bytes_per_s": passes * size / seconds}
        measured.append({"rows": count, "seconds": seconds, **speed})
    return {
        "thought_len": thought_len,
        "rows": measured,
        "copy_bytes_per_s": copy_rate(512 if dtype == "float32" else 8192),
    }


KINDS = {
    function.__name__: function
    for function in (
        device, text_attention, column_attention, profiled_step, step, compiled_step, sharded, logits, small_run,
        resumed, trained, paired_tests, token_benefit, improved, reinforced, generation,
    )
}  # fmt: skip


SPAWNING = ("small_run", "resumed", "token_benefit")
"""Leave the accelerator to the processes that they start: a process that opens it holds most of its memory."""


def end_with_parent() -> None:
    """The kernel ends this process when what started it ends: a job left over would keep the accelerator's memory."""
    if sys.platform == "linux":
        LIBC.prctl(DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)


def main() -> None:
    end_with_parent()
    kind, arguments = sys.argv[1], json.loads(sys.argv[2])
    entry.prepare_jax()
    if kind in SPAWNING:
        jax.config.update("jax_platforms", "cpu")
    pool.say(KINDS[kind](**arguments))


if __name__ == "__main__":
    main()
