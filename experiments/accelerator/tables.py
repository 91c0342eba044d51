"""Tables of what was measured on an accelerator, in Markdown."""

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

from qstar.reports import frames, selftraining, tables
from qstar.reports.tables import section

GIB = 2**30


def markdown(outcomes: Sequence, out: Path | None = None) -> str:
    """All parts that have results, then what failed and how long everything took.

    Of trainings below `out` that have not ended there are the evaluations so far.
    """
    done = {one.job: one.result for one in outcomes if one.status == "done"}
    if out is not None:
        done = done | _begun(out)
    parts = [render(done) for render in SECTIONS] + ([trainings(out)] if out else [])
    rows = [[one.job, one.status, f"{one.seconds:.0f}", one.error.replace("|", "/")] for one in outcomes]
    return "\n".join(
        [*filter(None, parts), "## Jobs\n", tables.markdown(["job", "status", "s", "error"], rows) if rows else ""]
    )


def _begun(out: Path) -> dict:
    files = {file.parent.relative_to(out).parts: file for file in sorted(out.glob("mathematics/*/*/evals.jsonl"))}
    return {
        f"mathematics/{arm.replace('_', ' ')}/{seed}": {"evaluations": frames.lines(file)}
        for (_, arm, seed), file in files.items()
    }


def machine(done: dict) -> str:
    one = done.get("device")
    if one is None:
        return ""
    memory = f"{one['memory_bytes'] / GIB:.1f} GiB" if one["memory_bytes"] else "unknown"
    peaks = ", ".join(f"{dtype} {flops / 1e12:.4g} TFLOP/s" for dtype, flops in one["peak_flops"].items())
    text = f"## The device\n\n{one['devices']} x {one['kind']} ({one['platform']}; driver {one['driver']}), memory "
    text += f"{memory}, jax {one['jax']}. Peak of a large product: {peaks}; copying: "
    return text + f"{one['copy_bytes_per_s'] / 1e9:.4g} GB/s.\n" + _attention(done, one)


def _attention(done: dict, device: dict) -> str:
    rows = []
    for kernel, one in done.get("attention of the text", {}).items():
        cells = ["", "", one["error"]] if "error" in one else [
            f"{1e3 * one['seconds']:.2f}", f"{one['flops_per_s'] / 1e12:.3g}", _kernels(one)
        ]  # fmt: skip
        rows.append([f"text, {kernel}, forward and backward", *cells])
    one = done.get("attention of the columns")
    text = ""
    if one:
        cells = [f"{1e3 * one['seconds']:.2f}", f"{one['flops_per_s'] / 1e12:.3g}", _kernels(one)]
        rows.append(["columns, forward", *cells])
        peak, rate = max(device["peak_flops"].values()), device["copy_bytes_per_s"]
        least = {
            "its arithmetic at the peak": one["flops"] / peak,
            "its operands read and written once": one["operand_bytes"] / rate,
            "its scores written and read once": 2 * one["score_bytes"] / rate,
        }
        text = "\nLeast time of the columns' attention by " + ", by ".join(
            f"{name}: {1e3 * seconds:.2f} ms" for name, seconds in least.items()
        )
    head = ["attention", "ms", "TFLOP/s", "kernels"]
    return "\n" + (tables.markdown(head, rows) if rows else "") + (text + ".\n" if text else "") + _profile(done)


def _kernels(one: dict) -> str:
    return ", ".join(f"{name} x {count}" for name, count in sorted(one["kernels"].items())) or "XLA's own"


def _profile(done: dict) -> str:
    times = done.get("profile of a step", {}).get("microseconds", {})
    whole = sum(times.values())
    rows = [[kind, f"{us / 1e3:.1f}", f"{us / whole:.2f}"] for kind, us in list(times.items())[:15]]
    return "\n" + (tables.markdown(["operations of a step", "ms", "share"], rows) if rows else "")


def correctness(done: dict) -> str:
    rows = []
    for precision in ("default", "highest"):
        one = done.get("logits against the CPU", {}).get(precision)
        if one:
            said = f"{one['largest_difference']:.2e}; same arg-max {one['same_argmax']:.4f}"
            rows.append([f"logits, products at {precision} precision", said])
        run = done.get("a small run against the CPU", {}).get(precision)
        if run:
            said = ", ".join(f"{name} {value:.2e}" for name, value in run.items())
            rows.append([f"metrics of a small run, {precision} precision", said])
    for name, value in done.get("resumed bit for bit", {}).get("largest_difference", {}).items():
        rows.append([f"weights of a resumed run, {name}", "equal" if value == 0 else f"{value:.2e}"])
    return section("Correctness", ["largest difference from the CPU", ""], rows)


def step_times(done: dict) -> str:
    rows = []
    for name, one in done.items():
        kind, _, setting = name.partition("/")
        if kind == "step":
            compiled = done.get(f"compiled/{setting}", {}).get("seconds")
            rows.append([*setting.split("/"), *_step(one), "" if compiled is None else f"{compiled:.0f}"])
    head = [
        "shape",
        "method",
        "T",
        "remat",
        "products",
        "rows",
        "ms",
        "range",
        "tokens/s",
        "thoughts/s",
        "utilisation",
        "peak GiB",
        "s to compile",
    ]
    return section("Steps", head, rows)


def _step(one: dict) -> list[str]:
    median = statistics.median(one["seconds"])
    return [
        str(one["rows"]),
        *tables.median_and_spread([1e3 * seconds for seconds in one["seconds"]]),
        tables.tokens(one["tokens"] / median),
        tables.tokens(one["thoughts"] / median) if one["thoughts"] else "",
        f"{one['flops'] / median / one['peak_flops']:.2f}",
        f"{one['peak_bytes'] / GIB:.2f}",
    ]


TASKS = {"gsm8k": "GSM8K", "commonsense_qa": "CommonsenseQA"}


def mathematics(done: dict) -> str:
    rows = []
    for name, one in done.items():
        if name.startswith("mathematics/") and "evaluations" in one:
            _, arm, seed = name.split("/")
            by = {(line["step"], line["way"], line["task"]): line for line in one["evaluations"]}
            for step, way in dict.fromkeys((step, way) for step, way, _ in by):
                lines = [by.get((step, way, task)) for task in TASKS]
                rows.append([arm, seed, step, way, *(cell for line in lines for cell in _scores(line))])
    scores = [f"{task} {score}" for task in TASKS.values() for score in ("probability", "arg-max", "NLL")]
    head = ["arm", "seed", "step", "thoughts", *scores]
    return section("SmolLM2-135M on mathematical text", head, rows) + _pairs(done) + _benefits(done)


LOSSES = ("nll", "nll_mixed", "thought_nll", "reward", "weight")


def trainings(out: Path) -> str:
    """Means over the first ten steps and over the last ten that all arms of a seed have."""
    files = sorted(out.glob("mathematics/*/*/metrics.jsonl"))
    by = {file.parent.relative_to(out).parts: {line["step"]: line for line in frames.lines(file)} for file in files}
    shortest: dict[str, int] = {}
    for (_, _, seed), lines in by.items():
        shortest[seed] = min(shortest.get(seed, max(lines)), max(lines)) // 10 * 10
    rows = []
    for (_, arm, seed), lines in by.items():
        for end in sorted({10, shortest[seed]}) if shortest[seed] else ():
            some = [{"nll": lines[step]["loss"]} | lines[step] for step in range(end - 9, end + 1)]  # plain: its loss
            known = [[line[name] for line in some if name in line] for name in LOSSES]
            means = [f"{statistics.mean(values):.4f}" if values else "" for values in known]
            rows.append([arm.replace("_", " "), seed, f"{end - 9} to {end}", *means])
    return section("While training on it", ["arm", "seed", "steps", *LOSSES], rows)


def _scores(line: dict | None) -> list[str]:
    if line is None:
        return [""] * 3
    return [*(tables.figure(line, name, ".4f") for name in ("probability", "accuracy")), f"{line['nll']:.2f}"]


def _pairs(done: dict) -> str:
    told = lambda value: f"{value:.4g}" if isinstance(value, float) else str(value)  # noqa: E731
    rows = [
        [name.rpartition("/")[2], *map(told, one.values())]
        for name, found in done.items()
        if name.startswith("mathematics/paired")
        for one in found["comparisons"]
    ]
    heads = [list(one) for found in done.values() for one in found.get("comparisons", [])]
    return "\n" + tables.markdown(["seed", *heads[0]], rows) if rows else ""


def _benefits(done: dict) -> str:
    found = [(name, arm, text) for name, one in done.items() if name.startswith("mathematics/benefit")
             for arm, text in one.items()]  # fmt: skip
    return "".join(
        f"\n### Benefit by token: {arm}, seed {name.rpartition('/')[2]}\n\n{text}\n" for name, arm, text in found
    )


def generation(done: dict) -> str:
    rows = [
        [str(one["thought_len"]), str(row["rows"]), f"{row['tokens_per_s']:,.0f}",
         f"{row['weight_bytes_per_s'] / one['copy_bytes_per_s']:.2f}"]
        for name, one in done.items() if name.startswith("generation/") for row in one["rows"]
    ]  # fmt: skip
    head = ["thought", "rows", "tokens/s", "weights read, as a share of copying's rate"]
    return section("Generation", head, rows)


def star(done: dict) -> str:
    rows = []
    for name, one in done.items():
        if name.startswith("star/"):
            _, task, arm, seed = name.split("/")
            for line in one["iterations"]:
                test = tables.share(line["test"]["accuracy"]) if "test" in line else ""
                rows.append(
                    [
                        task,
                        arm,
                        seed,
                        line["iteration"],
                        *selftraining.sampled(line),
                        tables.share(line["accuracy"]),
                        test,
                    ]
                )
    head = ["questions", "arm", "seed", "iteration", "right", "right with a hint", "dev", "test"]
    return section("STaR on SmolLM2-135M", head, rows)


def reinforced(done: dict) -> str:
    rows = []
    for name, one in done.items():
        if name.startswith("grpo/"):
            _, rate, seed = name.split("/")
            steps = [f"{line['step']}: {tables.figure(line, 'accuracy')} of {line['n']}" for line in one["dev"]]
            last = one["test"][-1]
            rows.append([rate, seed, "; ".join(steps), f"{tables.figure(last, 'accuracy')} of {last['n']}"])
    return section("GRPO on SmolLM2-135M", ["learning rate", "seed", "dev by step", "test"], rows)


def sharding(done: dict) -> str:
    found = [one for name, one in done.items() if name.startswith("sharding/")]
    rows = []
    for one in (one for one in found if one["devices"] > 1):
        speeds = [part["tokens"] / statistics.median(part["seconds"]) for part in (one["alone"], one["together"])]
        share = f"{speeds[1] / speeds[0] / one['devices']:.2f}"
        rows.append([one["layout"], str(one["devices"]), *(f"{speed:,.0f}" for speed in speeds), share])
    head = ["layout", "devices", "tokens/s of one", "tokens/s of all", "efficiency"]
    if found and not rows:
        return "## Sharding\n\nOne device: there is nothing to shard over.\n"
    return section("Sharding", head, rows)


SECTIONS: tuple[Callable[[dict], str], ...] = (
    machine, step_times, generation, correctness, mathematics, star, reinforced, sharding
)  # fmt: skip
