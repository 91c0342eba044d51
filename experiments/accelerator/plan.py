"""The jobs of an accelerator, in order of value, with the estimated time of each.

Estimates are seconds on one H100: measured for jobs that ran there (h100/results.jsonl, with up to five at once), for
the others from FLOPs at a third of the peak. They decide which jobs are started; results have the measured time.
"""

import dataclasses
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import carry

PARTS = {
    "a": "what is there",
    "b": "step time, utilisation, memory",
    "e": "generation",
    "c": "correctness there",
    "d": "SmolLM2-135M on mathematical text",
    "f": "STaR on SmolLM2-135M",
    "g": "GRPO on SmolLM2-135M",
    "h": "what sharding costs",
}
"""Parts that need the device exclusively come before those that can share it."""
NAMING = "device"
"""The job that says which machine it is."""
SIZES = ("full", "tiny")

UNROLLED = "--xla_gpu_enable_command_buffer="  # a graph of kernels would be one operation of the profile
PRODUCTS = {"cublas": "--xla_gpu_enable_triton_gemm=false", "triton": ""}
"""Without XLA's own fused products a Quiet-STaR step compiles in a third of the time and takes 6 % longer."""
SETTINGS = (
    ("1B", 256, "quiet_star", "minimal", "cublas"),
    ("1B", 256, "quiet_star", "minimal", "triton"),
    ("1B", 256, "quiet_star", "full", "cublas"),
    ("135M", 256, "quiet_star", "full", "cublas"),
    ("7B", 256, "quiet_star", "full", "cublas"),
    ("1B", 256, "lm", "minimal", "cublas"),
    ("1B", 1024, "quiet_star", "full", "cublas"),
    ("135M", 256, "lm", "minimal", "cublas"),
    ("7B", 256, "lm", "minimal", "cublas"),
    ("135M", 1024, "quiet_star", "full", "cublas"),
    ("1B", 1024, "lm", "minimal", "cublas"),
    ("7B", 1024, "quiet_star", "full", "cublas"),
    ("135M", 1024, "lm", "minimal", "cublas"),
    ("7B", 1024, "lm", "minimal", "cublas"),
)
"""Shape, tokens of a window, method, remat, what computes products."""
TINY_S = 30  # for any job of a rehearsal, on two cores
FIRST = 10  # of these are timed before anything else

ARMS = {
    "plain LM": ["method=lm"],
    "beta 1e6 T 3": [],
    "beta 1e6 T 1": ["method.reinforce_temperature=1"],
    "beta 1 T 1": ["method.beta=1", "method.reinforce_temperature=1"],
    "pause": ["method.fill=pause"],
}
"""Of part d: what each changes in experiments/quiet_star/smollm2_math."""
RATES = ("1e-5", "3e-6", "3e-5")
"""Of part g: learning rates, to be chosen on dev."""
SAME = ["improve.samples=2", "improve.temperature=1.0"]
STAR_ARMS = {
    "filter, hints": [*SAME],
    "filter, no hints": [*SAME, "improve.hint=never"],
    "no filter, hints": [*SAME, "improve.keep=all"],
    "no filter, no hints": [*SAME, "improve.keep=all", "improve.hint=never"],
    "direct": ["improve=direct", "improve.iterations=1"],
}
"""Of part f: the filter on and off at one temperature, hints on and off, and answers alone, with all steps at once."""


@dataclass(frozen=True)
class Job:
    """One process: a function of jobs.py with its arguments."""

    part: str
    name: str
    kind: str
    arguments: dict[str, Any]
    seconds: float  # estimated
    environment: dict[str, str] = field(default_factory=dict)
    timed: bool = True  # it measures time, and nothing else may run meanwhile
    compiles: bool = False  # alone: it needs no memory of its own, and has to see all of the device's
    needs: tuple[str, ...] = ()  # jobs that must have ended before


@dataclass(frozen=True)
class Amounts:
    """Sizes of the jobs."""

    length: int  # of a window, in the profile and over devices
    steps: int  # timed
    dtype: str
    arms: tuple[str, ...]  # of part d
    train: tuple[str, ...]  # its overrides
    train_s: float
    seeds: tuple[int, ...]
    rows: tuple[int, ...]  # of generation
    new_tokens: int
    star_arms: tuple[str, ...]  # of part f
    star: tuple[str, ...]  # its overrides
    direct_steps: int  # of answers alone: as many as the others have in all iterations
    star_s: float
    rates: tuple[str, ...]  # of part g
    grpo: tuple[str, ...]  # its overrides
    grpo_s: float


AMOUNTS = {
    "full": Amounts(
        256, 10, "bfloat16", tuple(ARMS),
        ("eval.items=1500", "eval.batch_size=64", "eval.every=10", "eval.choice_texts=false", "model.dtype=bfloat16",
         "model.remat=full", "sample_every=0", "keep=1"), 500, (0, 1, 2),
        (1, 64, 256), 32, tuple(STAR_ARMS),
        ("sample_batch=256", "batch_size=16", "improve.problems=1000", "improve.iterations=3", "improve.steps=60",
         "dev=0", "test=true"), 218, 200,
        RATES, ("keep=1",), 270,
    ),
    "tiny": Amounts(
        32, 2, "float32", ("plain LM", "beta 1e6 T 3"),
        ("steps=2", "batch_size=2", "data.length=24", "method.thought_len=3", "method.lookahead=2", "eval.items=2",
         "eval.choice_texts=false", "eval.every=0", "save_every=1", "sample_every=0", "optim.warmup_steps=0"), 20, (0,),
        (2,), 3, ("direct",),
        ("sample_batch=8", "batch_size=2", "length=96", "improve.problems=4", "improve.iterations=1",
         "improve.steps=2", "dev=4", "test=true", "improve.few_shot=false", "optim.warmup_steps=0"), 2, 20,
        ("1e-5",), ("steps=1", "batch_size=4", "data.samples=2", "data.length=256", "eval.items=2", "eval.every=0",
                    "save_every=1", "task.max_new_tokens=8", "data.max_new_tokens=8"), 20,
    ),
}  # fmt: skip


def jobs(size: str, data: Path, out: Path, devices: int = 0) -> list[Job]:
    """All jobs. If `devices` is not 0, that many CPU devices replace the accelerators."""
    amounts = AMOUNTS[size]
    environment = {"QSTAR_DATA": str(data)}
    if devices:
        flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
        environment |= {"XLA_FLAGS": flags.strip(), "JAX_PLATFORMS": "cpu"}
    tiny = size == "tiny"
    compiled, steps = list(_compiled(amounts, tiny)), list(_steps(amounts, tiny))
    ordered = [
        *_machine(amounts, tiny, out),
        *compiled[:FIRST],
        *steps[:FIRST],
        *_generation(amounts, data),
        *_correct(amounts, out, tiny, data),
        *_trainings(amounts, out, data, *amounts.seeds[:1]),
        *compiled[FIRST:],
        *steps[FIRST:],
        *_trainings(amounts, out, data, *amounts.seeds[1:]),
        *_sharded(amounts, devices, tiny),
    ]
    ordered = [dataclasses.replace(job, seconds=TINY_S) for job in ordered] if tiny else ordered
    return [dataclasses.replace(job, environment=environment | _with_flags(environment, job)) for job in ordered]


def _trainings(amounts: Amounts, out: Path, data: Path, *seeds: int) -> Iterator[Job]:
    for seed in seeds:
        for part in (_mathematics, _star, _reinforced):
            yield from part(amounts, out, data, seed)


def _with_flags(environment: Mapping[str, str], job: Job) -> dict[str, str]:
    """A job's environment, with XLA's flags of all jobs before its own; where nothing is timed, what compiles fast."""
    own = job.environment.get("XLA_FLAGS", "" if job.timed else PRODUCTS["cublas"])
    flags = f"{environment.get('XLA_FLAGS', os.environ.get('XLA_FLAGS', ''))} {own}".strip()
    return {**job.environment, **({"XLA_FLAGS": flags} if flags else {})}


def driver() -> str | None:
    """Name, driver and memory of the devices as nvidia-smi says; None where there is none."""
    try:
        command = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _machine(amounts: Amounts, tiny: bool, out: Path) -> Iterator[Job]:
    yield Job("a", NAMING, "device", {"side": 512 if tiny else 8192}, 20)
    shape = {"rows": 1, "length": 32, "heads": 4, "kv_heads": 2, "head_size": 16} if tiny else {
        "rows": 8, "length": 1024, "heads": 32, "kv_heads": 8, "head_size": 64
    }  # fmt: skip
    yield Job("a", "attention of the text", "text_attention", {**shape, "dtype": amounts.dtype}, 40)
    shape = {**shape, "length": 16} if tiny else {**shape, "rows": 2, "length": 256}
    yield Job("a", "attention of the columns", "column_attention", {**shape, "columns": 17, "dtype": amounts.dtype}, 40)
    case = {"shape": "tiny" if tiny else "1B", "length": amounts.length, "dtype": amounts.dtype}
    case |= {"rows": 1 if tiny else 8, "attention": "einsum" if tiny else "cudnn", "out": str(out / "profile")}
    unrolled = {"XLA_FLAGS": UNROLLED} if shutil.which("nvidia-smi") else {}
    yield Job("a", "profile of a step", "profiled_step", case, 130, unrolled)


def _correct(amounts: Amounts, out: Path, tiny: bool, data: Path) -> Iterator[Job]:
    model = "bundled:cups" if tiny else carry.model(data)
    for name, kind, arguments, seconds in (
        ("logits against the CPU", "logits", {"model": model, "length": 32 if tiny else 256}, 25),
        ("a small run against the CPU", "small_run", {"steps": 2 if tiny else 10}, 60),
        ("resumed bit for bit", "resumed", {"out": str(out / "resumed"), "steps": 2 if tiny else 10}, 75),
    ):
        yield Job("c", name, kind, arguments, seconds, timed=False)


def _compiled(amounts: Amounts, tiny: bool) -> Iterator[Job]:
    """The programs of `_steps`, compiled side by side before anything is timed."""
    for name, arguments, environment in _settings(amounts, tiny):
        seconds = 110 if name.endswith("triton") else 15 if "/lm/" in name else 45
        yield Job(
            "b", f"compiled/{name}", "compiled_step", arguments, seconds, environment, timed=False, compiles=True
        )  # fmt: skip


def _steps(amounts: Amounts, tiny: bool) -> Iterator[Job]:
    for name, arguments, environment in _settings(amounts, tiny):
        seconds = 20 if "/lm/" in name else 50 if "/1024/" in name else 35
        yield Job("b", f"step/{name}", "step", {**arguments, "steps": amounts.steps}, seconds, environment)


def _settings(amounts: Amounts, tiny: bool) -> Iterator[tuple[str, dict[str, Any], dict[str, str]]]:
    """Names, arguments and environments: what may reach the goal at 1B first; of the others one setting each."""
    settings = [("tiny", 32, method, "full", "cublas") for method in ("quiet_star", "lm")] if tiny else SETTINGS
    for shape, length, method, remat, products in settings:
        arguments = {
            "shape": shape, "method": method, "length": length, "remat": remat, "dtype": amounts.dtype,
            "attention": "einsum" if tiny else "cudnn",
            "most_rows": 1 if tiny else 64 if method == "lm" else 2 if shape == "7B" else 8,
        }  # fmt: skip
        yield f"{shape}/{method}/{length}/{remat}/{products}", arguments, {"XLA_FLAGS": PRODUCTS[products]}


def _mathematics(amounts: Amounts, out: Path, data: Path, seed: int) -> Iterator[Job]:
    folders = [arm.replace(" ", "_") for arm in amounts.arms]
    names = tuple(f"mathematics/{arm}/{seed}" for arm in amounts.arms)
    for arm, folder, name in zip(amounts.arms, folders, names, strict=True):
        own = [override for override in amounts.train if not (arm == "plain LM" and override.startswith("method."))]
        arguments = {
            "folder": str(out / "mathematics" / folder / str(seed)),
            "experiment_name": "quiet_star/smollm2_math",
            "model": carry.model(data),
            "overrides": [*ARMS[arm], *own, "control=false", f"seed={seed}"],
        }
        yield Job("d", name, "trained", arguments, amounts.train_s, timed=False)
    pairs = {"folder": str(out / "mathematics"), "arms": folders, "seed": seed}
    yield Job("d", f"mathematics/paired tests/{seed}", "paired_tests", pairs, 25, timed=False, needs=names)
    benefit = {"folder": str(out / "mathematics"), "arms": folders[1:]}
    benefit |= {"seed": seed, "texts": 2 if amounts.dtype == "float32" else 64, "data": str(data)}
    yield Job("d", f"mathematics/benefit by token/{seed}", "token_benefit", benefit, 100, timed=False, needs=names)


def _generation(amounts: Amounts, data: Path) -> Iterator[Job]:
    for thought_len in (0, 3 if amounts.dtype == "float32" else 12):
        arguments = {
            "model": carry.model(data), "rows": amounts.rows, "new_tokens": amounts.new_tokens,
            "thought_len": thought_len, "dtype": amounts.dtype, "prompt": 8 if amounts.dtype == "float32" else 64,
        }  # fmt: skip
        yield Job("e", f"generation/thoughts of {thought_len}", "generation", arguments, 100)


def _star(amounts: Amounts, out: Path, data: Path, seed: int) -> Iterator[Job]:
    for task in ("sums",) if amounts.dtype == "float32" else ("sums", "svamp"):
        for arm in amounts.star_arms:
            folder = out / "star" / task / arm.replace(" ", "_").replace(",", "") / str(seed)
            changes = [*STAR_ARMS[arm], *([f"improve.steps={amounts.direct_steps}"] if arm == "direct" else [])]
            arguments = {
                "folder": str(folder), "experiment_name": f"star/smollm2/{task}", "model": carry.model(data),
                "sums": str(data / "sums"), "overrides": [*amounts.star, *changes, f"seed={seed}"],
            }  # fmt: skip
            yield Job("f", f"star/{task}/{arm}/{seed}", "improved", arguments, amounts.star_s, timed=False)


def _reinforced(amounts: Amounts, out: Path, data: Path, seed: int) -> Iterator[Job]:
    for rate in amounts.rates:
        arguments = {
            "folder": str(out / "grpo" / rate / str(seed)), "model": carry.model(data), "sums": str(data / "sums"),
            "overrides": [f"optim.lr={rate}", *amounts.grpo, f"seed={seed}"],
        }  # fmt: skip
        yield Job("g", f"grpo/{rate}/{seed}", "reinforced", arguments, amounts.grpo_s, timed=False)


def _sharded(amounts: Amounts, devices: int, tiny: bool) -> Iterator[Job]:
    for layout in ("data", "fsdp", "tensor"):
        arguments = {
            "shape": "tiny" if tiny else "1B", "length": amounts.length, "dtype": amounts.dtype,
            "steps": amounts.steps, "layout": layout,
        }  # fmt: skip
        yield Job("h", f"sharding/{layout}", "sharded", arguments, 90)
