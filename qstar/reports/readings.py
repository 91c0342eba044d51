"""Texts with the thoughts before every token, to look at and to count with: what `run.read(texts)` gives.

readings.table()     a row for every thought: token, thought, weight, gain, NLL without and with it, candidates
readings.best(5)     the thoughts that helped most; `worst(5)` those that hurt most
readings.page(0)     a text as the self-contained page that `qstar-think` writes
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import overload

from qstar.reports import glyphs, html, page
from qstar.reports.arrow import Frame
from qstar.reports.glyphs import Decoder
from qstar.reports.html import escaped
from qstar.thoughts import read
from qstar.thoughts.read import Candidate, Helpful, Reading, Step, Thought

MOST = 12  # texts that a notebook shows
BEFORE = 40  # tokens before a thought in a table of thoughts
CLEAR = 0.05  # nats: what is less is not coloured


@dataclass(frozen=True, repr=False)
class Readings(Sequence[Reading]):
    """Readings of texts in their order. A sequence of `qstar.thoughts.read.Reading`s, whose log-probs are in nats."""

    readings: tuple[Reading, ...]
    decoder: Decoder  # the tokenizer
    about: str  # which model thinks, and how

    def __len__(self) -> int:
        return len(self.readings)

    @overload
    def __getitem__(self, index: int) -> Reading: ...
    @overload
    def __getitem__(self, index: slice) -> "Readings": ...
    def __getitem__(self, index: int | slice) -> "Reading | Readings":
        if isinstance(index, slice):
            return Readings(self.readings[index], self.decoder, self.about)
        return self.readings[index]

    @property
    def texts(self) -> list[str]:
        """What was read, with what was written after it."""
        return [self.decoder.decode(reading.tokens) for reading in self.readings]

    @property
    def base_nll(self) -> float:
        """Nats per token without thoughts, over all texts; NaN where no text has two tokens."""
        return _mean([-step.base for step in self._steps()])

    @property
    def mixed_nll(self) -> float:
        """The same with thoughts."""
        return _mean([-step.mixed for step in self._steps()])

    @property
    def helped(self) -> float:
        """Share of tokens that thoughts made likelier by more than rounding shows."""
        return _mean([float(step.gain >= read.SHOWS) for step in self._steps()])

    def _steps(self) -> Iterator[Step]:
        return (step for reading in self.readings for step in reading.steps)

    def table(self) -> Frame:
        """A row for every thought before every token but the first of each text.

        `text` numbers the texts, `position` the tokens and `draw` the thoughts before one; `nll_without` and `nll` are
        of the token, without and with the thought; `candidates_without` and `candidates` are the likeliest next tokens
        with their probabilities; `written` says whether the model wrote the token.
        """
        names = ("text", "position", "draw", "token", "thought", "weight", "gain", "nll_without", "nll")
        return Frame.of(self._rows(), names)

    def _rows(self) -> Iterator[dict[str, object]]:
        for number, reading in enumerate(self.readings):
            parts = glyphs.pieces(self.decoder, reading.tokens)
            for position, step in enumerate(reading.steps, 1):
                for draw, thought in enumerate(step.thoughts):
                    yield {
                        "text": number,
                        "position": position,
                        "draw": draw,
                        "token": parts[position],
                        "id": step.token,
                        "thought": self.decoder.decode(thought.tokens) if thought.tokens else "",
                        "weight": thought.weight,
                        "gain": thought.gain,
                        "nll_without": -thought.base,
                        "nll": -thought.mixed,
                        "candidates_without": self._candidates(step.likeliest),
                        "candidates": self._candidates(thought.likeliest),
                        "written": position >= reading.given,
                    }

    def _candidates(self, candidates: Sequence[Candidate]) -> list[dict[str, object]]:
        return [
            {"token": self.decoder.token(candidate.token), "probability": math.exp(candidate.logprob)}
            for candidate in candidates
        ]

    def best(self, n: int = 10) -> Frame:
        """The thoughts that helped most, best first, each with the text before it."""
        return self._shown(read.best(self.readings, n))

    def worst(self, n: int = 10) -> Frame:
        """Those that made a token less likely, the worst first."""
        return self._shown(read.worst(self.readings, n))

    def _shown(self, chosen: Sequence[Helpful]) -> Frame:
        rows = [
            {
                "text before": self.decoder.decode(
                    entry.reading.tokens[max(0, entry.position - BEFORE) : entry.position]
                ),
                "thought": self.decoder.decode(entry.thought.tokens) if entry.thought.tokens else "",
                "token": glyphs.pieces(self.decoder, entry.reading.tokens)[entry.position],
                "gain": entry.thought.gain,
                "weight": entry.thought.weight,
                "nll without": -entry.thought.base,
            }
            for entry in chosen
        ]
        return Frame.of(rows, ("text before", "thought", "token", "gain", "weight", "nll without"))

    def page(self, number: int = 0) -> str:
        """A text as one self-contained HTML page, to write to a file."""
        return page.page(self.readings[number], self.decoder, self.about)

    # --- shown

    def _told(self) -> str:
        count = sum(len(reading.steps) for reading in self.readings)
        texts = "1 text" if len(self) == 1 else f"{len(self)} texts"
        if not count:
            return f"{texts} of one token"
        return (
            f"{texts}, {count} tokens with thoughts: NLL {self.base_nll:.3f} without, {self.mixed_nll:.3f} with, "
            f"{self.helped:.0%} of the tokens helped"
        )

    def __repr__(self) -> str:
        return f"Readings({self._told()})"

    def _repr_html_(self) -> str:
        return html.fragment(f"<style>{STYLE}</style>{self.html()}")

    def html(self) -> str:
        """The coloured texts, without the style of a page (`STYLE`): point at a token, or walk with Tab."""
        shown = "".join(f'<div class="read">{self._text(reading)}</div>' for reading in self.readings[:MOST])
        left = f'<div class="soft">and {len(self) - MOST} more</div>' if len(self) > MOST else ""
        legend = "green: likelier after the thought, red: less likely, underlined: written by the model"
        head = (
            f'<div class="title">{escaped(self._told())}</div><div class="soft">{escaped(self.about)} · {legend}</div>'
        )
        return f"{head}{shown}{left}"

    def _text(self, reading: Reading) -> str:
        parts = glyphs.pieces(self.decoder, reading.tokens)
        first = f"<span>{escaped(glyphs.visible(parts[0]))}</span>"
        spans = (
            self._token(part, step, position >= reading.given)
            for position, (part, step) in enumerate(zip(parts[1:], reading.steps, strict=True), 1)
        )
        return first + "".join(spans)

    def _token(self, part: str, step: Step, written: bool) -> str:
        hue = "34 162 93" if step.gain > 0 else "226 85 47"
        strength = 0.7 * (1 - math.exp(-1.2 * abs(step.gain))) if abs(step.gain) >= CLEAR else 0.0
        look = f"background:rgb({hue} / {strength:.2f})" if strength else ""
        kind = "token written" if written else "token"
        breaks = "<br>" * part.count("\n")
        pop = "".join(self._thought(thought, step) for thought in step.thoughts)
        return (
            f'<span class="{kind}" tabindex="0" style="{look}">{escaped(glyphs.visible(part))}'
            f'<span class="pop"><b>{escaped(glyphs.quoted(part))}</b>{pop}</span></span>{breaks}'
        )

    def _thought(self, thought: Thought, step: Step) -> str:
        words = self._spelled(thought)
        tone = "up" if thought.gain >= CLEAR else "down" if thought.gain <= -CLEAR else ""
        nexts = (
            f"next without: {self._nexts(step.likeliest)}<br>with: {self._nexts(thought.likeliest)}"
            if thought.likeliest
            else ""
        )
        return (
            f'<span class="thought">{words}<br><span class="{tone}">{thought.gain:+z.2f} nats</span>, weight '
            f"{thought.weight:z.2f}, NLL {-thought.base:z.2f} to {-thought.mixed:z.2f}<br>{nexts}</span>"
        )

    def _spelled(self, thought: Thought) -> str:
        if not thought.tokens:
            return '<i class="soft">(pauses)</i>'
        return f"<code>{escaped(glyphs.quoted(self.decoder.decode(thought.tokens)))}</code>"

    def _nexts(self, candidates: Sequence[Candidate]) -> str:
        names = (escaped(glyphs.quoted(self.decoder.token(candidate.token))) for candidate in candidates[:3])
        shares = (math.exp(candidate.logprob) for candidate in candidates)
        return ", ".join(f"<code>{name}</code> {share:.0%}" for name, share in zip(names, shares, strict=False))


STYLE = """
.qstar .read { font: 16px/2 ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace;
  white-space: pre-wrap; overflow-wrap: anywhere; margin: 4px 0; }
.qstar .token { position: relative; padding: 3px 1px; border-radius: 3px; cursor: default; }
.qstar .written { border-bottom: 2px solid currentColor; border-radius: 3px 3px 0 0; }
.qstar .token:focus { outline: 2px solid #2f6fde; }
.qstar .pop { display: none; position: absolute; z-index: 9; left: 0; top: 100%; width: max-content; max-width: 44ch;
  padding: 8px 12px; border-radius: 8px; font: 13px/1.45 system-ui, sans-serif; white-space: normal; color: #1d1f21;
  background: #fff; box-shadow: 0 3px 16px rgb(0 0 0 / 28%); }
.qstar .pop .up { color: #157a43; } .qstar .pop .down { color: #b93a18; }
.qstar .thought { display: block; margin-top: 6px; }
.qstar .token:hover > .pop, .qstar .token:focus > .pop { display: block; }
"""


def _mean(values: list[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan
