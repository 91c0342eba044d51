"""A reading in the terminal: the text in colour, then every token with the thoughts before it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, Group
from rich.table import Table
from rich.text import Text

from qstar.reports import glyphs
from qstar.reports.glyphs import Decoder
from qstar.thoughts import read
from qstar.thoughts.read import Reading, Step, Thought

NARROW = 60  # columns of a terminal below which there is no room for a table
SMALL, LARGE = 0.05, 1.0  # nats: below the first a change is dim, from the second on bold


def style(gain: float) -> str:
    """Green where thinking helped, red where it hurt, dim where it hardly mattered."""
    if abs(gain) < SMALL:
        return "dim"
    colour = "green" if gain > 0 else "red"
    return f"bold {colour}" if abs(gain) >= LARGE else colour


def show(reading: Reading, decoder: Decoder) -> Group:
    """All there is to show; print it on a rich console."""
    parts = glyphs.pieces(decoder, reading.tokens)
    legend = Text.assemble(
        "Each token: ",
        ("likelier after the thought", "green"),
        ", ",
        ("less likely", "red"),
        ", ",
        ("hardly changed", "dim"),
        *([", ", ("written by the model", "underline")] if reading.given < len(reading.tokens) else []),
    )
    return Group(
        legend, Text(), running(reading, parts), Text(), Thoughts(reading, parts, decoder), summary(reading, decoder)
    )


def running(reading: Reading, parts: Sequence[str]) -> Text:
    """The text as it runs, every token in the colour of its change; what the model wrote is underlined."""
    out = Text()
    for number, part in enumerate(parts):
        look = style(reading.steps[number - 1].gain) if number else "default"
        look += " underline" if number >= reading.given else ""
        out.append(glyphs.visible(part).replace(glyphs.NEWLINE, glyphs.NEWLINE + "\n"), look)
    return out


@dataclass(frozen=True)
class Thoughts:
    """Every thought: a table, or lines where the terminal is too narrow for one."""

    reading: Reading
    parts: Sequence[str]
    decoder: Decoder

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Table | Text]:
        if options.max_width >= NARROW:
            yield table(self.reading, self.parts, self.decoder)
            return
        names = ("weight ", "log p ", "with ", "change ")
        for number, (part, step) in enumerate(zip(self.parts[1:], self.reading.steps, strict=True), 1):
            rows = _rows(number, part, step, self.decoder, written=number >= self.reading.given)
            for place, token, thought, *figures in rows:
                if place.plain:
                    yield Text.assemble((place.plain, "dim"), " ", token)
                said = (text for name, figure in zip(names, figures, strict=True) for text in (", ", name, figure))
                yield Text.assemble("  ", thought, *said)


def table(reading: Reading, parts: Sequence[str], decoder: Decoder) -> Table:
    """A row for every thought; log-probs in nats."""
    out = Table(box=None, header_style="bold", padding=(0, 1), pad_edge=False)
    out.add_column("", justify="right", style="dim")
    out.add_column("token")
    out.add_column("thought before it", overflow="fold")
    for name in ("weight", "log p without", "with", "change"):
        out.add_column(name, justify="right", no_wrap=True)
    for number, (part, step) in enumerate(zip(parts[1:], reading.steps, strict=True), 1):
        for row in _rows(number, part, step, decoder, written=number >= reading.given):
            out.add_row(*row)
    return out


def _rows(number: int, part: str, step: Step, decoder: Decoder, written: bool) -> Iterator[tuple[Text, ...]]:
    for index, thought in enumerate(step.thoughts):
        look = style(thought.gain)
        # Assembled: the style of a whole Text would underline the rest of the cell as well.
        token = Text.assemble((glyphs.quoted(part), style(step.gain) + (" underline" if written else "")))
        yield (
            Text("" if index else str(number)),
            Text() if index else token,
            spelled(thought, decoder),
            Text(f"{thought.weight:z.2f}"),
            Text(f"{thought.base:z.2f}"),
            Text(f"{thought.mixed:z.2f}"),
            Text(f"{thought.gain:+z.2f}", look),
        )


def spelled(thought: Thought, decoder: Decoder) -> Text:
    """The thought's text; pauses have none."""
    return Text(glyphs.quoted(decoder.decode(thought.tokens))) if thought.tokens else Text("(pauses)", "dim")


def summary(reading: Reading, decoder: Decoder) -> Text:
    """Both NLLs, the share of tokens that were helped, and the best thought."""
    change = reading.base_nll - reading.mixed_nll
    out = Text.assemble(
        f"\nNLL {reading.base_nll:.3f} without thoughts, {reading.mixed_nll:.3f} with: ",
        (f"{change:+z.3f} nats a token", style(change)),
        f"; {reading.helped:.0%} of {len(reading.steps)} tokens helped",
    )
    for helpful in read.best([reading], 1):
        token = glyphs.quoted(decoder.token(reading.tokens[helpful.position]))
        out.append("\nBest thought: ")
        out.append(spelled(helpful.thought, decoder))
        out.append(f" before {token} (token {helpful.position}): ")
        out.append(f"{helpful.thought.gain:+.2f} nats", style(helpful.thought.gain))
    return out
