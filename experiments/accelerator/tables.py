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
    done = {outcome.job: outcome.result for outcome in outcomes if outcome.status == "done"}
    if out is not None:
        done = done | _begun(out)
    parts = [render(done) for render in SECTIONS] + ([trainings(out)] if out else [])
    rows = [[job.job, job.status, f"{job.seconds:.0f}", job.error.replace("|", "/")] for job in outcomes]
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
    device = done.get("device")
    if device is None:
        return ""
    memory = f"{device['memory_bytes'] / GIB:.1f} GiB" if device["memory_bytes"] else "unknown"
    peaks = ", ".join(f"{dtype} {flops / 1e12:.4g} TFLOP/s" for dtype, flops in device["peak_flops"].items())
    text = f"## The device\n\n{device['devices']} x {device['kind']} ({device['platform']}; driver {device['driver']})"
    text += f", memory {memory}, jax {device['jax']}. Peak of a large product: {peaks}; copying: "
    return text + f"{device['copy_bytes_per_s'] / 1e9:.4g} GB/s.\n" + _attention(done, device)


def _attention(done: dict, device: dict) -> str:
    rows = []
    for kernel, measured in done.get("attention of the text", {}).items():
        cells = ["", "", measured["error"]] if "error" in measured else [
            f"{1e3 * measured['seconds']:.2f}", f"{measured['flops_per_s'] / 1e12:.3g}", _kernels(measured)
        ]  # fmt: skip
        rows.append([f"text, {kernel}, forward and backward", *cells])
    columns = done.get("attention of the columns")
    text = ""
    if columns:
        cells = [f"{1e3 * columns['seconds']:.2f}", f"{columns['flops_per_s'] / 1e12:.3g}", _kernels(columns)]
        rows.append(["columns, forward", *cells])
        peak, rate = max(device["peak_flops"].values()), device["copy_bytes_per_s"]
        least = {
            "its arithmetic at the peak": columns["flops"] / peak,
            "its operands read and written once": columns["operand_bytes"] / rate,
            "its scores written and read once": 2 * columns["score_bytes"] / rate,
        }
        text = "\nLeast time of the columns' attention by " + ", by ".join(
            f"{name}: {1e3 * seconds:.2f} ms" for name, seconds in least.items()
        )
    head = ["attention", "ms", "TFLOP/s", "kernels"]
    return "\n" + (tables.markdown(head, rows) if rows else "") + (text + ".\n" if text else "") + _profile(done)


def _kernels(measured: dict) -> str:
    return ", ".join(f"{name} x {count}" for name, count in sorted(measured["kernels"].items())) or "XLA's own"


def _profile(done: dict) -> str:
    times = done.get("profile of a step", {}).get("microseconds", {})
    whole = sum(times.values())
    rows = [[kind, f"{us / 1e3:.1f}", f"{us / whole:.2f}"] for kind, us in list(times.items())[:15]]
    return "\n" + (tables.markdown(["operations of a step", "ms", "share"], rows) if rows else "")


def correctness(done: dict) -> str:
    rows = []
    for precision in ("default", "highest"):
        logits = done.get("logits against the CPU", {}).get(precision)
        if logits:
            said = f"{logits['largest_difference']:.2e}; same arg-max {logits['same_argmax']:.4f}"
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
    for name, result in done.items():
        kind, _, setting = name.partition("/")
        if kind == "step":
            compiled = done.get(f"compiled/{setting}", {}).get("seconds")
            rows.append([*setting.split("/"), *_step(result), "" if compiled is None else f"{compiled:.0f}"])
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


def _step(measured: dict) -> list[str]:
    median = statistics.median(measured["seconds"])
    return [
        str(measured["rows"]),
        *tables.median_and_spread([1e3 * seconds for seconds in measured["seconds"]]),
        tables.tokens(measured["tokens"] / median),
        tables.tokens(measured["thoughts"] / median) if measured["thoughts"] else "",
        f"{measured['flops'] / median / measured['peak_flops']:.2f}",
        f"{measured['peak_bytes'] / GIB:.2f}",
    ]


TASKS = {"gsm8k": "GSM8K", "commonsense_qa": "CommonsenseQA"}


def mathematics(done: dict) -> str:
    rows = []
    for name, result in done.items():
        if name.startswith("mathematics/") and "evaluations" in result:
            _, arm, seed = name.split("/")
            by = {(line["step"], line["way"], line["task"]): line for line in result["evaluations"]}
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
    shown = lambda value: f"{value:.4g}" if isinstance(value, float) else str(value)  # noqa: E731
    rows = [
        [name.rpartition("/")[2], *map(shown, comparison.values())]
        for name, result in done.items()
        if name.startswith("mathematics/paired")
        for comparison in result["comparisons"]
    ]
    heads = [list(comparison) for result in done.values() for comparison in result.get("comparisons", [])]
    return "\n" + tables.markdown(["seed", *heads[0]], rows) if rows else ""


def _benefits(done: dict) -> str:
    benefits = [(name, arm, text) for name, result in done.items() if name.startswith("mathematics/benefit")
             for arm, text in result.items()]  # fmt: skip
    return "".join(
        f"\n### Benefit by token: {arm}, seed {name.rpartition('/')[2]}\n\n{text}\n" for name, arm, text in benefits
    )


def generation(done: dict) -> str:
    rows = [
        [str(result["thought_len"]), str(row["rows"]), f"{row['tokens_per_s']:,.0f}",
         f"{row['weight_bytes_per_s'] / result['copy_bytes_per_s']:.2f}"]
        for name, result in done.items() if name.startswith("generation/") for row in result["rows"]
    ]  # fmt: skip
    head = ["thought", "rows", "tokens/s", "weights read, as a share of copying's rate"]
    return section("Generation", head, rows)


def star(done: dict) -> str:
    rows = []
    for name, result in done.items():
        if name.startswith("star/"):
            _, task, arm, seed = name.split("/")
            for line in result["iterations"]:
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
    for name, result in done.items():
        if name.startswith("grpo/"):
            _, rate, seed = name.split("/")
            steps = [f"{line['step']}: {tables.figure(line, 'accuracy')} of {line['n']}" for line in result["dev"]]
            last = result["test"][-1]
            rows.append([rate, seed, "; ".join(steps), f"{tables.figure(last, 'accuracy')} of {last['n']}"])
    return section("GRPO on SmolLM2-135M", ["learning rate", "seed", "dev by step", "test"], rows)


def sharding(done: dict) -> str:
    results = [result for name, result in done.items() if name.startswith("sharding/")]
    rows = []
    for result in (result for result in results if result["devices"] > 1):
        speeds = [part["tokens"] / statistics.median(part["seconds"]) for part in (result["alone"], result["together"])]
        share = f"{speeds[1] / speeds[0] / result['devices']:.2f}"
        rows.append([result["layout"], str(result["devices"]), *(f"{speed:,.0f}" for speed in speeds), share])
    head = ["layout", "devices", "tokens/s of one", "tokens/s of all", "efficiency"]
    if results and not rows:
        return "## Sharding\n\nOne device: there is nothing to shard over.\n"
    return section("Sharding", head, rows)


SECTIONS: tuple[Callable[[dict], str], ...] = (
    machine, step_times, generation, correctness, mathematics, star, reinforced, sharding
)  # fmt: skip
