"""What a run shows in the end: one table of answers, and the thoughts that helped most."""

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from qstar.data.tokenizer import Tokenizer
from qstar.display.spelling import visible
from qstar.evals.suite import Row
from qstar.thoughts.read import Helpful

COLUMNS = ("task", "model", "thoughts", "accuracy", "probability of the answer", "nll", "n")
BEFORE = 40  # tokens shown before a thought

Groups = Sequence[tuple[str, Sequence[Row]]]
"""Rows of several models, each with its name."""


def table(groups: Groups) -> Table:
    """Evaluations of several models, one under another, for the screen."""
    out = Table(title="Held-out answers", caption="95 % intervals in brackets", title_justify="left")
    for name in COLUMNS:
        out.add_column(name, justify="left" if name in ("task", "model", "thoughts") else "right")
    for cells in _cells(groups):
        out.add_row(*cells)
    return out


def markdown(groups: Groups) -> str:
    """The same for a file."""
    lines = [COLUMNS, ("---",) * len(COLUMNS), *_cells(groups)]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def _cells(groups: Groups) -> list[tuple[str, ...]]:
    return [
        (
            row.task,
            name,
            "yes" if row.thoughts else "no",
            f"{row.accuracy:.3f} [{row.accuracy_low:.3f}, {row.accuracy_high:.3f}]",
            f"{row.probability:.3f} [{row.probability_low:.3f}, {row.probability_high:.3f}]",
            f"{row.nll:.3f}",
            str(row.n),
        )
        for name, rows in groups
        for row in rows
    ]


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
