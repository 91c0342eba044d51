"""What a run shows in the end: tables of answers and iterations, and the thoughts that helped most."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from rich.console import Group
from rich.text import Text

from qstar.data.tokenizer import Tokenizer
from qstar.evals import measure
from qstar.evals.paired import Comparison
from qstar.evals.suite import Row
from qstar.reports import frames, tables
from qstar.reports.frames import MEASURED, TRAINED
from qstar.reports.glyphs import visible
from qstar.thoughts.read import Helpful

BEFORE = 40  # tokens shown before a thought
NAMES = {"probability": "probability of the answer"}  # of figures, where the short name does not explain itself

Groups = Sequence[tuple[str, Sequence[Row]]]
"""Rows of several models, each with its name."""


def table(groups: Groups) -> Group:
    """Evaluations of several models for the screen, one under another: a table for every kind of figures."""
    shown = [tables.screen(columns, lines, text=3) for columns, lines in _tables(groups)]
    for number, out in enumerate(shown):
        out.title, out.title_justify = None if number else "Held-out answers", "left"
        out.caption = "95 % intervals in brackets"
    return Group(*map(tables.Fitted, shown))


def markdown(groups: Groups) -> str:
    """The same for a file."""
    return "\n".join(tables.markdown(columns, lines) for columns, lines in _tables(groups))


def _tables(groups: Groups) -> list[tuple[tuple[str, ...], list[tuple[str, ...]]]]:
    """Columns and lines; rows that have the same figures are together."""
    by_figures: dict[tuple[str, ...], list[tuple[str, ...]]] = {}
    for name, rows in groups:
        for row in rows:
            figures = [tables.interval(figure.value, figure.low, figure.high) for figure in row.figures.values()]
            line = (row.task, name, _thoughts(row), *figures, str(row.n))
            by_figures.setdefault(tuple(row.figures), []).append(line)
    return [
        (("task", "model", "thoughts", *(NAMES.get(name, name.replace("_", " ")) for name in names), "n"), lines)
        for names, lines in by_figures.items()
    ]


def _thoughts(row: Row) -> str:
    return measure.NAMES[row.way] + (f" x {row.draws}" if row.way == measure.SAMPLED else "")


OWN = ("without", "with thoughts")  # what the two are called where an evaluation is compared with itself


def comparisons(
    results: Sequence[Comparison], title: str, names: tuple[str, str] = OWN, unpaired: str = ""
) -> tables.Fitted:
    """Paired tests for the screen; `names` are those of the two that are compared."""
    columns, rows = paired(results, names)
    out = tables.screen(columns, rows, text=columns.index(names[0]))
    out.title, out.title_justify, out.caption = title, "left", of_difference(names, unpaired)
    return tables.Fitted(out)


def paired(results: Sequence[Comparison], names: tuple[str, str] = OWN) -> tuple[list[str], list[list[str]]]:
    """Columns and rows of paired tests; the ways of thinking are among them where there are several."""
    ways = {result.ways for result in results} != {(measure.NONE, measure.NONE)}
    columns = ["task", "number", *(["thoughts"] if ways else []), *names, "difference", "p", "test", "n"]
    rows = []
    for result in results:
        first, second = (measure.NAMES[way] for way in result.ways)
        way = second if first == second or names == OWN else f"{first} / {second}"
        difference = tables.interval(result.difference, result.low, result.high, "+.3f")
        figures = [f"{result.first:.3f}", f"{result.second:.3f}", difference, f"{result.p:.2g}", result.test]
        rows.append([result.task, result.column, *([way] if ways else []), *figures, str(result.n)])
    return columns, rows


def of_difference(names: tuple[str, str], unpaired: str = "") -> str:
    """What stands below such a table."""
    said = f"difference: {names[1]} - {names[0]}, 95 % bootstrap interval over items; p: two-sided"
    return f"{said}; {unpaired}" if unpaired else said


def left_out(questions: Mapping[str, Sequence[str]]) -> str:
    """A line of a summary: how many questions of each task were too long for the model, and which."""
    counts = (
        f"{len(ids)} of {task} ({', '.join(ids[:5])}{', ...' if len(ids) > 5 else ''})"
        for task, ids in questions.items()
    )
    return f"\nLeft out, longer than the model can read: {'; '.join(counts)}.\n" if questions else ""


def tokenizer(tokenizer: Tokenizer) -> str:
    """A line of a summary: the tokens around a text. Empty if there are none."""
    return f"\nTokenizer: {visible(tokenizer.summary())}.\n" if tokenizer.summary() else ""


def helpful(helped: Helpful, tokenizer: Tokenizer) -> Text:
    """A thought where it was thought: the text before it, <the thought>, the token it helped."""
    tokens = helped.reading.tokens

    def decode(ids: Sequence[int]) -> str:
        return visible(tokenizer.decode(ids))

    line = Text("  ")
    line.append(decode(tokens[max(0, helped.position - BEFORE) : helped.position]))
    line.append(f"<{decode(helped.thought.tokens)}>", style="cyan")
    line.append(decode(tokens[helped.position : helped.position + 1]), style="bold green")
    line.append(f"   {helped.thought.gain:+.2f} nats, mixing weight {helped.thought.weight:.2f}", style="dim")
    return line


# --- labels of steps ------------------------------------------------------------------------------------------------


def labels(summary: dict) -> Group:
    """The counts of a labelling, and its cost by phase, for the screen."""
    head = ("solutions", "right", "skipped", "steps", "labels", "mean label")
    counts = [f"{summary[name]:,}" for name in ("solutions", "right", "skipped", "steps", "labels")]
    spent = [
        (phase, *(f"{costs[name]:,}" for name in ("prompt_tokens", "generated_tokens", "discarded_tokens", "flops")))
        for phase, costs in summary["ledger"].items()
    ]
    costs = ("phase", "tokens read", "tokens written", "tokens discarded", "FLOPs")
    shown = (tables.screen(head, [(*counts, f"{summary['mean_label']:.3f}")]), tables.screen(costs, spent, text=1))
    if summary["skipped"]:
        shown[0].caption = "skipped: their steps cannot be told apart, or two labellers disagree"
    return Group(*map(tables.Fitted, shown))


# --- self-training ----------------------------------------------------------------------------------------------------


def iterations(lines: Sequence[dict]) -> str:
    """Self-training in Markdown: a row for every iteration, what it cost by phase, and what leaks."""
    names = list(lines[0]["groups"])
    groups = names if len(names) > 1 else []
    ways = list(lines[0].get("ways", {}))
    head = ("iteration", "steps", "examples", "right", "right with hint", "dev", *ways, *groups)
    rows = zip(_results(lines, ways, groups), _costs(lines), strict=True)
    parts = [tables.markdown((*head, *COSTS), [(*result, *cost) for result, cost in rows])]
    if "test" in lines[-1]:
        test = lines[-1]["test"]
        shown = {"Test, after the last iteration": test["accuracy"], **test.get("ways", {})}
        shown |= {name: test["groups"][name] for name in groups}
        parts.append("; ".join(f"{name}: {tables.share(share)}" for name, share in shown.items()) + "\n")
    parts.append(tables.markdown(("phase", *SPENT.values()), _phases(lines)))
    leaks = [(str(line["iteration"]), *_leaks(line)) for line in lines if "stated" in line]
    if leaks:
        head = ("iteration", "answer stated before it is derived", "the same with hint", "wrong hints followed")
        parts.append(tables.markdown(head, leaks))
    if any("schedule" in line for line in lines):
        parts.append(_trainings(lines))
    over = [
        (str(line["iteration"]), split, str(count))
        for line in lines
        for split, count in line.get("overlong", {}).items()
    ]
    if over:
        head = ("iteration", "split", "questions left out, longer than the model can read")
        parts.append(tables.markdown(head, over))
    return "\n".join(parts)


def progress(lines: Sequence[dict]) -> tables.Fitted:
    """Self-training for a terminal: a row for every iteration that is done, with its accuracy by group of questions."""
    names = list(lines[0]["groups"])
    groups = names if len(names) > 1 else []
    rows, tokens = [], 0
    for line in lines:
        tokens += sum(frames.spent([line], name) for name in ("generated_tokens", "trained_tokens"))
        accuracy = line["accuracy"]
        rows.append((
            line["iteration"],
            tables.fraction(line, "right", "sampled"),
            tables.fraction(line, "right_hinted", "hinted"),
            tables.interval(accuracy["share"], accuracy["low"], accuracy["high"]),
            *(f"{line['groups'][name]['share']:.2f}" for name in groups),
            tables.tokens(tokens),
        ))  # fmt: skip
    out = tables.screen(("", "right", "with hint", "dev", *groups, "tokens"), rows)
    for column in out.columns:
        column.justify, column.no_wrap = "right", True
    by_group = "; then of each group, such as sums of so many digits" if groups else ""
    dev = f"dev: {lines[0]['accuracy']['n']} questions, 95 % interval{by_group}"
    out.caption = f"{dev}; tokens written and trained on so far"
    return tables.Fitted(out)


def _trainings(lines: Sequence[dict]) -> str:
    """What each iteration's training began with, in a line."""
    last = next(line for line in reversed(lines) if "schedule" in line)
    moments = {"carried": "carried on from the iteration before", "fresh": "fresh in every iteration"}
    first, end, whole = last["schedule_steps"]
    where = f"steps {first} to {end} of {whole} in iteration {last['iteration']}"
    schedule = {"run": f"one schedule for all iterations, {where}", "iteration": "restarted in every iteration"}
    return f"Optimizer: {moments[last['optimizer']]}. Learning rate: {schedule[last['schedule']]}.\n"


COSTS = ("generated tokens", "so far", "trained tokens", "so far", "FLOPs", "so far")
SPENT = {
    "prompt_tokens": "prompt tokens",
    "generated_tokens": "generated tokens",
    "graded_tokens": "graded tokens",
    "trained_tokens": "trained tokens",
    "target_tokens": "of them targets",
    "flops": "FLOPs",
}


def _results(lines: Sequence[dict], ways: Sequence[str], groups: Sequence[str]) -> Iterator[tuple[str, ...]]:
    for line in lines:
        yield (
            str(line["iteration"]),
            str(line.get("steps", "")),
            str(line.get("examples", "")),
            tables.fraction(line, "right", "sampled"),
            tables.fraction(line, "right_hinted", "hinted"),
            tables.share(line["accuracy"]),
            *(f"{line['ways'][name]['share']:.3f}" for name in ways),
            *(f"{line['groups'][name]['share']:.3f}" for name in groups),
        )


def _costs(lines: Sequence[dict]) -> Iterator[tuple[str, ...]]:
    """Of each iteration's self-training, and of all up to it; what measuring cost is not in it."""
    names = ("generated_tokens", "trained_tokens", "flops")
    total = dict.fromkeys(names, 0)
    for line in lines:
        now = {name: frames.spent([line], name) for name in names}
        total = {name: total[name] + now[name] for name in names}
        yield tuple(_spent(name, counts[name]) for name in names for counts in (now, total))


def _phases(lines: Sequence[dict]) -> list[tuple[str, ...]]:
    """What each phase cost over all iterations, and their sum."""
    by_phase: dict[str, Counter[str]] = {phase: Counter() for phase in (*TRAINED, *MEASURED)}
    for line in lines:
        for phase, spent in line["ledger"].items():
            by_phase[phase].update(spent)
    by_phase["all"] = sum(by_phase.values(), Counter())
    return [
        (phase.replace("_", " "), *(_spent(name, row[name]) if name in row else "" for name in SPENT))
        for phase, row in by_phase.items()
        if row
    ]


def _spent(name: str, count: int) -> str:
    return f"{count:.3g}" if name == "flops" else f"{count:,}"


def _leaks(line: dict) -> Iterator[str]:
    for name in ("free", "hinted"):
        stated = line["stated"].get(name)
        yield f"{stated['early']:.3f} of {stated['count']}" if stated else ""
    wrong = line.get("wrong_hints")
    yield f"{wrong['share_followed']:.3f} of {wrong['asked']}" if wrong else ""
