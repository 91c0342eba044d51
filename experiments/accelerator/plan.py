"""What is to be done on an accelerator: the jobs, in order of value, with how long each should take.

Estimates are seconds on one H100, by the FLOPs of a job at a third of the peak with a minute for compiling where a
model is large; they decide what fits, and the results say how long each really took.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import carry

PARTS = {
    "a": "what is there",
    "c": "correctness there",
    "b": "step time, utilisation, memory",
    "d": "SmolLM2-135M on mathematical text",
    "e": "generation",
    "f": "STaR on SmolLM2-135M",
    "h": "what sharding costs",
}
"""In order of value."""
SIZES = ("full", "tiny")

ARMS = {
    "plain LM": ["method=lm"],
    "beta 1e6 T 3": [],
    "beta 1e6 T 1": ["method.reinforce_temperature=1"],
    "beta 1 T 1": ["method.beta=1", "method.reinforce_temperature=1"],
    "pause": ["method.fill=pause"],
}
"""Of part d: what each changes in experiments/quiet_star/smollm2_math."""
SAME = ["improve.samples=2", "improve.temperature=1.0"]
STAR_ARMS = {
    "filter, hints": [*SAME],
    "filter, no hints": [*SAME, "improve.hint=never"],
    "no filter, hints": [*SAME, "improve.keep=all"],
    "no filter, no hints": [*SAME, "improve.keep=all", "improve.hint=never"],
    "direct": ["improve=direct", "improve.iterations=1"],
}
"""Of part f: the filter on and off at one temperature, hints on and off, and answers alone."""


@dataclass(frozen=True)
class Job:
    """One process: a function of jobs.py with its arguments."""

    part: str
    name: str
    kind: str
    arguments: dict[str, Any]
    seconds: float  # estimated
    environment: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Amounts:
    """How much of everything."""

    shapes: tuple[str, ...]
    lengths: tuple[int, ...]
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
    star_s: float


AMOUNTS = {
    "full": Amounts(
        ("135M", "1B", "7B"), (256, 1024), 10, "bfloat16", tuple(ARMS),
        ("eval.items=1500", "eval.batch_size=64", "eval.every=10", "model.dtype=bfloat16"), 200, (0, 1, 2),
        (1, 8, 32, 64, 128, 256), 64, tuple(STAR_ARMS),
        ("sample_batch=256", "batch_size=16", "improve.problems=1000", "improve.iterations=3", "improve.steps=60",
         "dev=0", "test=true"), 150,
    ),
    "tiny": Amounts(
        ("tiny",), (32,), 2, "float32", ("plain LM", "beta 1e6 T 3"),
        ("steps=2", "batch_size=2", "data.length=24", "method.thought_len=3", "method.lookahead=2", "eval.items=2",
         "eval.every=1", "save_every=1", "sample_every=0", "optim.warmup_steps=0"), 20, (0,),
        (1, 2), 3, ("direct",),
        ("sample_batch=8", "batch_size=2", "length=96", "improve.problems=4", "improve.iterations=1",
         "improve.steps=2", "dev=4", "test=true", "improve.few_shot=false"), 20,
    ),
}  # fmt: skip


def jobs(size: str, data: Path, out: Path, devices: int = 0) -> list[Job]:
    """All of them. `devices` CPU devices stand in for accelerators where it is not 0."""
    amounts = AMOUNTS[size]
    environment = {"QSTAR_DATA": str(data)}
    if devices:
        flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
        environment |= {"XLA_FLAGS": flags.strip(), "JAX_PLATFORMS": "cpu"}
    tiny = size == "tiny"
    found = [
        *_machine(amounts, tiny),
        *_correct(amounts, out, tiny, data),
        *_steps(amounts, tiny),
        *_mathematics(amounts, out, data),
        *_generation(amounts, data),
        *_star(amounts, out, data, tiny),
        *_sharded(amounts, devices, tiny),
    ]
    return [Job(**{**vars(job), "environment": environment}) for job in found]


def _machine(amounts: Amounts, tiny: bool) -> Iterator[Job]:
    yield Job("a", "device", "device", {"side": 512 if tiny else 8192}, 20)
    shape = {"rows": 1, "length": 32, "heads": 4, "kv_heads": 2, "head_size": 16} if tiny else {
        "rows": 8, "length": 1024, "heads": 32, "kv_heads": 8, "head_size": 64
    }  # fmt: skip
    yield Job("a", "attention of the text", "text_attention", {**shape, "dtype": amounts.dtype}, 40)
    shape = {**shape, "length": 16} if tiny else {**shape, "rows": 2, "length": 256}
    yield Job("a", "attention of the columns", "column_attention", {**shape, "columns": 17, "dtype": amounts.dtype}, 40)
    case = {"shape": amounts.shapes[0], "length": amounts.lengths[0], "dtype": amounts.dtype}
    yield Job("a", "profile of a step", "profiled_step", {**case, "rows": 1 if tiny else 8}, 90)


def _correct(amounts: Amounts, out: Path, tiny: bool, data: Path) -> Iterator[Job]:
    model = "bundled:cups" if tiny else carry.model(data)
    yield Job("c", "logits against the CPU", "logits", {"model": model, "length": 32 if tiny else 256}, 60)
    yield Job("c", "a small run against the CPU", "small_run", {"steps": 2 if tiny else 10}, 60)
    yield Job("c", "resumed bit for bit", "resumed", {"out": str(out / "resumed"), "steps": 2 if tiny else 10}, 90)


def _steps(amounts: Amounts, tiny: bool) -> Iterator[Job]:
    """The settings that may reach the goal at 1B first; of the others one setting each."""
    cases = [
        (shape, method, length, remat)
        for shape in amounts.shapes
        for length in amounts.lengths
        for method in ("quiet_star", "lm")
        for remat in (("minimal", "full") if shape == "1B" else ("full",))
    ]
    cases.sort(key=lambda case: (case[0] != "1B", case[2], case[1] == "lm"))
    for shape, method, length, remat in cases:
        arguments = {
            "shape": shape, "method": method, "length": length, "remat": remat, "dtype": amounts.dtype,
            "steps": amounts.steps, "attention": "xla" if tiny else "cudnn", "most_rows": 2 if tiny else 64,
        }  # fmt: skip
        seconds = {"tiny": 15, "135M": 60, "1B": 75, "7B": 150}[shape]
        yield Job("b", f"step/{shape}/{method}/{length}/{remat}", "step", arguments, seconds)


def _mathematics(amounts: Amounts, out: Path, data: Path) -> Iterator[Job]:
    arms = [arm.replace(" ", "_") for arm in amounts.arms]
    for seed in amounts.seeds:
        for arm in amounts.arms:
            changes = ARMS[arm]
            folder = out / "mathematics" / arm.replace(" ", "_") / str(seed)
            own = [one for one in amounts.train if not (arm == "plain LM" and one.startswith("method."))]
            arguments = {
                "folder": str(folder), "experiment_name": "quiet_star/smollm2_math", "model": carry.model(data),
                "overrides": [*changes, *own, "control=false", f"seed={seed}"],
            }  # fmt: skip
            yield Job("d", f"mathematics/{arm}/{seed}", "trained", arguments, amounts.train_s)
        pairs = {"folder": str(out / "mathematics"), "arms": arms, "seed": seed}
        yield Job("d", f"mathematics/paired tests/{seed}", "paired_tests", pairs, 10)
        benefit = {"folder": str(out / "mathematics"), "arms": arms[1:]}
        benefit |= {"seed": seed, "texts": 2 if amounts.dtype == "float32" else 64, "data": str(data)}
        yield Job("d", f"mathematics/benefit by token/{seed}", "token_benefit", benefit, 60)


def _generation(amounts: Amounts, data: Path) -> Iterator[Job]:
    for thought_len in (0, 3 if amounts.dtype == "float32" else 12):
        arguments = {
            "model": carry.model(data), "rows": amounts.rows, "new_tokens": amounts.new_tokens,
            "thought_len": thought_len, "dtype": amounts.dtype, "prompt": 8 if amounts.dtype == "float32" else 64,
        }  # fmt: skip
        yield Job("e", f"generation/thoughts of {thought_len}", "generation", arguments, 60)


def _star(amounts: Amounts, out: Path, data: Path, tiny: bool) -> Iterator[Job]:
    for seed in amounts.seeds:
        for task in ("sums",) if tiny else ("sums", "svamp"):
            for arm in amounts.star_arms:
                changes = STAR_ARMS[arm]
                folder = out / "star" / task / arm.replace(" ", "_").replace(",", "") / str(seed)
                own = [one for one in amounts.star if not (arm == "direct" and one.startswith("improve."))]
                arguments = {
                    "folder": str(folder), "experiment_name": f"star/smollm2/{task}", "model": carry.model(data),
                    "sums": str(data / "sums"), "overrides": [*changes, *own, f"seed={seed}"],
                }  # fmt: skip
                yield Job("f", f"star/{task}/{arm}/{seed}", "improved", arguments, amounts.star_s)


def _sharded(amounts: Amounts, devices: int, tiny: bool) -> Iterator[Job]:
    for layout in ("data", "fsdp", "tensor"):
        arguments = {
            "shape": amounts.shapes[0] if tiny else "1B", "length": amounts.lengths[0], "dtype": amounts.dtype,
            "steps": amounts.steps, "layout": layout,
        }  # fmt: skip
        yield Job("h", f"sharding/{layout}", "sharded", arguments, 20 if tiny else 90)
