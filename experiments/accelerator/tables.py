"""Tables of what was measured on accelerators, in Markdown."""

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

from qstar.reports import frames, selftraining, tables
from qstar.reports.tables import section

GIB = 2**30


def markdown(outcomes: Sequence, *outs: Path) -> str:
    """Everything of one machine."""
    return "\n".join(filter(None, (of_machine(outcomes), of_trainings(outcomes, *outs))))


def of_machine(outcomes: Sequence) -> str:
    """Which device it is, and what was timed and compared on it."""
    done = {outcome.job: outcome.result for outcome in outcomes if outcome.status == "done"}
    return "\n".join(filter(None, (render(done) for render in OF_MACHINE)))


def of_trainings(outcomes: Sequence, *outs: Path) -> str:
    """Parts whose results do not depend on the machine, then what failed and how long everything took.

    Of trainings below the folders `outs` that have not ended there are the evaluations so far. Of a training that lies
    in several of them the last one counts.
    """
    done = {outcome.job: outcome.result for outcome in outcomes if outcome.status == "done"}
    done |= {job: evaluated | done.get(job, {}) for job, evaluated in _begun(outs).items()}
    parts = [render(done) for render in OF_TRAININGS] + [trainings(outs)]
    rows = [[job.job, job.status, f"{job.seconds:.0f}", job.error.replace("|", "/")] for job in outcomes]
    return "\n".join(
        [*filter(None, parts), "## Jobs\n", tables.markdown(["job", "status", "s", "error"], rows) if rows else ""]
    )


def _begun(outs: Sequence[Path]) -> dict:
    """Evaluations of trainings by the names of their jobs, as far as they came."""
    begun = {}
    for (arm, seed), lines in _lines(outs, "mathematics/*/*/evals.jsonl").items():
        begun[f"mathematics/{arm.replace('_', ' ')}/{seed}"] = {"evaluations": lines}
    for (rate, seed), lines in _lines(outs, "grpo/*/*/evals.jsonl").items():
        begun[f"grpo/{rate}/{seed}"] = {"dev": lines, "test": []}
    return begun


def _lines(outs: Sequence[Path], pattern: str) -> dict[tuple[str, str], list[dict]]:
    """Records of trainings by the names of the two folders they lie in."""
    found = [file for out in outs for file in sorted(out.glob(pattern))]
    return {(file.parent.parent.name, file.parent.name): frames.lines(file) for file in found}


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
    by_step = section("SmolLM2-135M on mathematical text", head, rows)
    return by_step + _over_seeds(done) + _pairs(done) + _benefits(done)


SCORES = {"probability": "probability", "accuracy": "arg-max", "nll": "NLL"}
FORMS = {"probability": "z.4f", "accuracy": "z.4f", "nll": "z.2f"}
CONTROL = "plain LM"


def _over_seeds(done: dict) -> str:
    """Means of the last step that all arms have over seeds, and differences seed by seed."""
    runs = [
        {"arm": arm, "seed": int(seed), **line}
        for name, result in done.items() if name.startswith("mathematics/") and "evaluations" in result
        for _, arm, seed in [name.split("/")] for line in result["evaluations"]
    ]  # fmt: skip
    if not runs:
        return ""
    ended = max(line["step"] for line in runs)
    last = [line for line in runs if line["step"] == ended]
    of = lambda **given: [line for line in last if given.items() <= line.items()]  # noqa: E731
    text = ""
    for task, title in TASKS.items():
        rows = []
        for arm, way in dict.fromkeys((line["arm"], line["way"]) for line in last):
            own, without = of(arm=arm, way=way, task=task), of(arm=arm, way="none", task=task)
            control = of(arm=CONTROL, way="none", task=task)
            cells = [cell for score in SCORES for cell in (
                tables.mean(own, score, form=FORMS[score]),
                tables.gain(own, score, control, form=FORMS[score]) if arm != CONTROL else "",
                tables.gain(own, score, without, form=FORMS[score]) if way != "none" else "",
            )]  # fmt: skip
            rows.append([arm, way, str(len(own)), *cells])
        head = ["arm", "thoughts", "seeds"]
        head += [cell for name in SCORES.values() for cell in (name, f"less {CONTROL}", "less no thoughts")]
        text += f"\nStep {ended}, {title}, means over seeds:\n\n" + tables.markdown(head, rows)
    return text


LOSSES = ("nll", "nll_mixed", "thought_nll", "reward", "weight")


def trainings(outs: Sequence[Path]) -> str:
    """Means over the first ten steps and over the last ten that all arms of a seed have."""
    by = {
        names: {line["step"]: line for line in lines}
        for names, lines in _lines(outs, "mathematics/*/*/metrics.jsonl").items()
    }
    shortest: dict[str, int] = {}
    for (_, seed), lines in by.items():
        shortest[seed] = min(shortest.get(seed, max(lines)), max(lines)) // 10 * 10
    rows = []
    for (arm, seed), lines in by.items():
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
    rows, ends = [], []
    for name, result in done.items():
        if name.startswith("star/"):
            _, task, arm, seed = name.split("/")
            for line in result["iterations"]:
                test = tables.share(line["test"]["accuracy"]) if "test" in line else ""
                cells = [*selftraining.sampled(line), tables.share(line["accuracy"]), test]
                rows.append([task, arm, seed, line["iteration"], *cells])
                if "test" in line:
                    ends.append({"task": task, "arm": arm, "seed": int(seed), **line["test"]["accuracy"]})
    head = ["questions", "arm", "seed", "iteration", "right", "right with a hint", "dev", "test"]
    means = [
        [task, arm, str(len(group)), tables.mean(group, "share", questions=min(line["n"] for line in group))]
        for (task, arm), group in frames.by(ends, "task", "arm").items()
    ]
    by_seed = section("STaR on SmolLM2-135M", head, rows)
    return by_seed + ("\n" + tables.markdown(["questions", "arm", "seeds", "test, over seeds"], means) if means else "")


def reinforced(done: dict) -> str:
    runs = {tuple(name.split("/")[1:]): result for name, result in done.items() if name.startswith("grpo/")}
    steps = list(dict.fromkeys(line["step"] for result in runs.values() for line in result["dev"]))
    rows = []
    for (rate, seed), result in sorted(runs.items()):
        by = {line["step"]: f"{line['accuracy']:.3f}" for line in result["dev"]}
        test = [f"{tables.figure(line, 'accuracy')} of {line['n']}" for line in result["test"][-1:]]
        rows.append([rate, seed, *(by.get(step, "") for step in steps), *(test or [""])])
    head = ["learning rate", "seed", *(f"dev, {step} steps" for step in steps), "test"]
    return section("GRPO on SmolLM2-135M", head, rows)


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


OF_MACHINE: tuple[Callable[[dict], str], ...] = (machine, step_times, generation, correctness, sharding)
OF_TRAININGS: tuple[Callable[[dict], str], ...] = (mathematics, star, reinforced)
