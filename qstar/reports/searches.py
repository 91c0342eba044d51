"""Tables of searches: what accuracy a budget buys, and what it is spent on."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from qstar.reports import tables
from qstar.reports.glyphs import visible

COLUMNS = (
    "strategy", "budget", "accuracy", "questions", "candidates", "tokens written", "tokens scored", "FLOPs", "seconds"
)  # fmt: skip


@dataclass(frozen=True)
class Line:
    """A strategy with a budget; costs are means over questions."""

    strategy: str
    budget: str
    questions: int
    accuracy: float
    low: float  # of its 95 % interval
    high: float
    candidates: float
    written: float  # tokens
    scored: float  # tokens that scorers read
    flops: float
    seconds: float | None = None  # where it was measured


def table(lines: Sequence[Line]) -> tables.Fitted:
    """For a terminal."""
    out = tables.screen(COLUMNS, _cells(lines), text=2)
    out.caption = "costs are means over questions; 95 % intervals in brackets"
    return tables.Fitted(out)


def markdown(lines: Sequence[Line]) -> str:
    return tables.markdown(COLUMNS, _cells(lines))


def tree(rows: Sequence[dict]) -> str:
    """The steps of a question below one another, each with its scores, its value and its verdict.

    Steps of one parent that nothing follows and that say the same are one line, with their number.

    Args:
        rows: of one question, in the order of their nodes, as `data/rationales.py` stores them.
    """
    children = defaultdict(list)
    for row in rows:
        children[row["place"]["parent"]].append(row)
    lines, waiting = [], [(row, 0) for row in children[-1]]
    said = {row["place"]["node"]: (row["place"]["parent"], _node_text(row)) for row in rows}
    alike = Counter(text for node, text in said.items() if node not in children)
    while waiting:
        row, depth = waiting.pop()
        node = row["place"]["node"]
        times = 1 if node in children else alike.pop(said[node], 0)
        if times:
            lines.append("  " * depth + said[node][1] + (f"  ({times} times)" if times > 1 else ""))
        waiting += [(child, depth + 1) for child in reversed(children.get(node, ()))]
    return "\n".join(lines)


def ranked(scores: Mapping[str, float], value: float | None, spelled: Callable[[float], str]) -> list[str]:
    """The scores of a step, and its value where that is none of them."""
    numbers = list(scores.items())
    if value is not None and value not in scores.values():
        numbers.append(("value", value))
    return [f"{name} {spelled(number)}" for name, number in numbers]


def _node_text(row: dict) -> str:
    place = row["place"]
    if place["parent"] < 0:
        return f"{row['problem']}: {visible(row['question'])}"
    numbers = ranked(dict(place["scores"]), place["value"], "{:.3f}".format)
    ending = [f"{row['answer'] or 'no answer'} {'right' if row['correct'] else 'wrong'}"] if place["final"] else []
    marks = ["rollout"] * place["rollout"] + ["<- chosen"] * place["chosen"]
    return "  ".join([visible(row["written"]), *numbers, *ending, *marks])


def _cells(lines: Sequence[Line]) -> Iterator[tuple[str, ...]]:
    for line in lines:
        yield (
            line.strategy,
            line.budget,
            tables.interval(line.accuracy, line.low, line.high),
            str(line.questions),
            f"{line.candidates:.1f}",
            f"{line.written:.1f}",
            f"{line.scored:.1f}",
            f"{line.flops:.3g}",
            "" if line.seconds is None else f"{line.seconds:.3f}",
        )
