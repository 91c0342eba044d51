"""Tables of what was measured on an accelerator, in Markdown."""

import statistics
from collections.abc import Callable, Iterable, Sequence

GIB = 2**30


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    rows = list(rows)
    return "".join(f"| {' | '.join(cells)} |\n" for cells in (head, ["---"] * len(head), *rows)) if rows else ""


def markdown(outcomes: Sequence) -> str:
    """All parts that have results, then what failed and how long everything took."""
    done = {one.job: one.result for one in outcomes if one.status == "done"}
    parts = [render(done) for render in SECTIONS]
    rows = [[one.job, one.status, f"{one.seconds:.0f}", one.error.replace("|", "/")] for one in outcomes]
    return "\n".join([*filter(None, parts), "## Jobs\n", table(["job", "status", "s", "error"], rows)])


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
    return "\n" + table(head, rows) + (text + ".\n" if text else "") + _profile(done)


def _kernels(one: dict) -> str:
    return ", ".join(f"{name} x {count}" for name, count in sorted(one["kernels"].items())) or "XLA's own"


def _profile(done: dict) -> str:
    times = done.get("profile of a step", {}).get("microseconds", {})
    whole = sum(times.values())
    rows = [[kind, f"{us / 1e3:.1f}", f"{us / whole:.2f}"] for kind, us in list(times.items())[:15]]
    return "\n" + table(["operations of a step", "ms", "share"], rows)


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
    return "## Correctness\n\n" + table(["largest difference from the CPU", ""], rows) if rows else ""


def step_times(done: dict) -> str:
    rows = []
    for name, one in done.items():
        if name.startswith("step/"):
            _, shape, method, length, remat = name.split("/")
            rows.append([shape, method, length, remat, *_step(one), _kernels(one)])
    head = ["shape", "method", "T", "remat", "rows", "ms", "range", "tokens/s", "thoughts/s", "utilisation", "peak GiB"]
    return "## Steps\n\n" + table([*head, "kernels"], rows) if rows else ""


def _step(one: dict) -> list[str]:
    seconds = sorted(one["seconds"])
    median = statistics.median(seconds)
    return [
        str(one["rows"]),
        f"{1e3 * median:.1f}",
        f"{1e3 * seconds[0]:.1f} to {1e3 * seconds[-1]:.1f}",
        f"{one['tokens'] / median:,.0f}",
        f"{one['thoughts'] / median:,.0f}" if one["thoughts"] else "",
        f"{one['flops'] / median / one['peak_flops']:.2f}",
        f"{one['peak_bytes'] / GIB:.2f}",
    ]


def mathematics(done: dict) -> str:
    rows = []
    for name, one in done.items():
        if name.startswith("mathematics/") and "evaluations" in one:
            _, arm, seed = name.split("/")
            for line in one["evaluations"]:
                scores = [
                    f"{line[key]:.4f} [{line[key + '_low']:.4f}, {line[key + '_high']:.4f}]" if key in line else ""
                    for key in ("probability", "accuracy", "nll")
                ]
                rows.append([arm, seed, str(line["step"]), line["task"], line["way"], *scores, str(line["n"])])
    head = ["arm", "seed", "step", "task", "thoughts", "probability", "arg-max", "NLL", "n"]
    text = "## SmolLM2-135M on mathematical text\n\n" + table(head, rows) if rows else ""
    return text + _pairs(done) + _benefits(done)


def _pairs(done: dict) -> str:
    told = lambda value: f"{value:.4g}" if isinstance(value, float) else str(value)  # noqa: E731
    rows = [
        [name.rpartition("/")[2], *map(told, one.values())]
        for name, found in done.items()
        if name.startswith("mathematics/paired")
        for one in found["comparisons"]
    ]
    heads = [list(one) for found in done.values() for one in found.get("comparisons", [])]
    return "\n" + table(["seed", *heads[0]], rows) if rows else ""


def _benefits(done: dict) -> str:
    found = [(name, arm, text) for name, one in done.items() if name.startswith("mathematics/benefit")
             for arm, text in one.items()]  # fmt: skip
    return "".join(
        f"\n### Benefit by token: {arm}, seed {name.rpartition('/')[2]}\n\n{text}\n" for name, arm, text in found
    )


def generation(done: dict) -> str:
    rate = done.get("device", {}).get("copy_bytes_per_s")
    rows = [
        [str(one["thought_len"]), str(row["rows"]), f"{row['tokens_per_s']:,.0f}",
         f"{row['weight_bytes_per_s'] / rate:.2f}" if rate else ""]
        for name, one in done.items() if name.startswith("generation/") for row in one["rows"]
    ]  # fmt: skip
    head = ["thought", "rows", "tokens/s", "weights read, as a share of copying's rate"]
    return "## Generation\n\n" + table(head, rows) if rows else ""


def star(done: dict) -> str:
    rows = []
    for name, one in done.items():
        if name.startswith("star/"):
            _, task, arm, seed = name.split("/")
            for line in one["iterations"]:
                shares = [_share(line["accuracy"]), _share(line["test"]["accuracy"]) if "test" in line else ""]
                samples = [f"{line[a]}/{line[b]}" if b in line else "" for a, b in
                           (("right", "sampled"), ("right_hinted", "hinted"))]  # fmt: skip
                rows.append([task, arm, seed, str(line["iteration"]), *samples, *shares])
    head = ["questions", "arm", "seed", "iteration", "right", "right with a hint", "dev", "test"]
    return "## STaR on SmolLM2-135M\n\n" + table(head, rows) if rows else ""


def _share(one: dict) -> str:
    return f"{one['share']:.3f} [{one['low']:.3f}, {one['high']:.3f}] of {one['n']}"


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
    return "## Sharding\n\n" + table(head, rows) if rows else ""


SECTIONS: tuple[Callable[[dict], str], ...] = (
    machine, correctness, step_times, mathematics, generation, star, sharding
)  # fmt: skip
