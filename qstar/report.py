"""What a run shows in the end: tables of answers and iterations, and the thoughts that helped most."""

import math
from collections.abc import Iterator, Sequence

from rich.console import Group
from rich.table import Table
from rich.text import Text

from qstar.data.tokenizer import Tokenizer
from qstar.display.spelling import visible
from qstar.evals.measure import Figure
from qstar.evals.paired import Comparison
from qstar.evals.suite import Row
from qstar.thoughts.read import Helpful

BEFORE = 40  # tokens shown before a thought
NAMES = {"probability": "probability of the answer"}  # of figures, where the short name does not explain itself

Groups = Sequence[tuple[str, Sequence[Row]]]
"""Rows of several models, each with its name."""


def table(groups: Groups) -> Group:
    """Evaluations of several models for the screen, one under another: a table for every kind of figures."""
    tables = []
    for columns, lines in _tables(groups):
        out = Table(caption="95 % intervals in brackets", title_justify="left")
        out.title = "Held-out answers" if not tables else None
        for name in columns:
            out.add_column(name, justify="left" if name in ("task", "model", "thoughts") else "right")
        for line in lines:
            out.add_row(*line)
        tables.append(out)
    return Group(*tables)


def markdown(groups: Groups) -> str:
    """The same for a file."""
    return "\n".join(
        "".join(f"| {' | '.join(cells)} |\n" for cells in (columns, ("---",) * len(columns), *lines))
        for columns, lines in _tables(groups)
    )


def _tables(groups: Groups) -> list[tuple[tuple[str, ...], list[tuple[str, ...]]]]:
    """Columns and lines; rows that have the same figures are together."""
    found: dict[tuple[str, ...], list[tuple[str, ...]]] = {}
    for name, rows in groups:
        for row in rows:
            figures = [_figure(figure) for figure in row.figures.values()]
            line = (row.task, name, _thoughts(row), *figures, str(row.n))
            found.setdefault(tuple(row.figures), []).append(line)
    return [
        (("task", "model", "thoughts", *(NAMES.get(name, name.replace("_", " ")) for name in names), "n"), lines)
        for names, lines in found.items()
    ]


def _thoughts(row: Row) -> str:
    return {"none": "no", "greedy": "likeliest", "sampled": f"sampled x {row.draws}"}[row.way]


def _figure(figure: Figure) -> str:
    shown = f"{figure.value:.3f}"
    return shown if math.isnan(figure.low) else f"{shown} [{figure.low:.3f}, {figure.high:.3f}]"


def comparisons(found: Sequence[Comparison], title: str) -> Table:
    """Paired tests for the screen."""
    out = Table(title=title, title_justify="left")
    out.caption = "difference: second - first, 95 % bootstrap interval over items; p: two-sided"
    for name in ("task", "number", "first", "second", "difference", "p", "test", "n"):
        out.add_column(name, justify="left" if name in ("task", "number", "test") else "right")
    for one in found:
        first, second = (f"{value:.3f} ({way})" for value, way in zip((one.first, one.second), one.ways, strict=True))
        difference = f"{one.difference:+.3f} [{one.low:+.3f}, {one.high:+.3f}]"
        out.add_row(one.task, one.column, first, second, difference, f"{one.p:.2g}", one.test, str(one.n))
    return out


def helpful(one: Helpful, tokenizer: Tokenizer) -> Text:
    """A thought where it was thought: the text before it, <the thought>, the token it helped."""
    tokens = one.reading.tokens

    def decode(ids: Sequence[int]) -> str:
        return visible(tokenizer.decode(ids))

    line = Text("  ")
    line.append(decode(tokens[max(0, one.position - BEFORE) : one.position]))
    line.append(f"<{decode(one.thought.tokens)}>", style="cyan")
    line.append(decode(tokens[one.position : one.position + 1]), style="bold green")
    line.append(f"   {one.thought.gain:+.2f} nats, mixing weight {one.thought.weight:.2f}", style="dim")
    return line


# --- self-training ----------------------------------------------------------------------------------------------------


def iterations(lines: Sequence[dict]) -> str:
    """Self-training in Markdown: a row for every iteration, dev accuracy by group, tokens and FLOPs spent up to it."""
    names = list(lines[0]["groups"])
    groups = names if len(names) > 1 else []
    head = ("iteration", "steps", "examples", "right", "right with hint", "dev", *groups, "generated tokens", "FLOPs")
    rows = [head, ("---",) * len(head), *_iteration_rows(lines, groups)]
    text = "".join(f"| {' | '.join(cells)} |\n" for cells in rows)
    if "test" in lines[-1]:
        text += "\nTest, after the last iteration: " + share(lines[-1]["test"]["accuracy"])
        text += (
            "".join(f"; {name}: {share(found)}" for name, found in lines[-1]["test"]["groups"].items() if groups) + "\n"
        )
    return text


def _iteration_rows(lines: Sequence[dict], groups: Sequence[str]) -> Iterator[tuple[str, ...]]:
    generated = flops = 0
    for line in lines:
        spent = [*line.get("ledger", {}).values(), line.get("train", {})]
        generated += sum(one.get("generated_tokens", 0) for one in spent)
        flops += sum(one.get("flops", 0) for one in spent)
        of = lambda right, n, line=line: f"{line[right]}/{line[n]}" if n in line else ""  # noqa: E731
        yield (
            str(line["iteration"]),
            str(line.get("steps", "")),
            str(line.get("examples", "")),
            of("right", "sampled"),
            of("right_hinted", "hinted"),
            share(line["accuracy"]),
            *(f"{line['groups'][name]['share']:.3f}" for name in groups),
            f"{generated:,}",
            f"{flops:.3g}",
        )


def share(found: dict) -> str:
    """A share with its 95 % interval."""
    return f"{found['share']:.3f} [{found['low']:.3f}, {found['high']:.3f}] of {found['n']}"
