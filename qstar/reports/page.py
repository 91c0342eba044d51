"""A reading as one self-contained HTML page: point at a token, or walk with the arrow keys, and see its thought.

The page is `page.html` with its data in one JSON element. Everything that comes from the model reaches the document as
text of elements, never as markup, and the page may load nothing (its content security policy says so).
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path

from qstar.reports import glyphs
from qstar.reports.glyphs import Decoder
from qstar.thoughts import read
from qstar.thoughts.read import Candidate, Reading, Step, Thought

TEMPLATE = Path(__file__).with_name("page.html")
BEST = 5


def page(reading: Reading, decoder: Decoder, about: str) -> str:
    """The page's source; `about` says which model thought."""
    data = {
        "about": about,
        "given": reading.given,
        "summary": {"base": _number(reading.base_nll), "mixed": _number(reading.mixed_nll), "helped": reading.helped},
        "tokens": _tokens(reading, decoder),
        "best": [[helpful.position, _thought(helpful.thought, decoder)] for helpful in read.best([reading], BEST)],
    }
    return TEMPLATE.read_text(encoding="utf-8").replace("@DATA@", embedded(data))


def embedded(data: dict) -> str:
    """JSON that may stand inside a script element: pure ASCII, without anything that opens a tag or a comment."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _tokens(reading: Reading, decoder: Decoder) -> list[dict]:
    parts = glyphs.pieces(decoder, reading.tokens)
    known = [{}, *(_step(step, decoder) for step in reading.steps)]
    return [
        {"text": glyphs.visible(part), "name": glyphs.quoted(part), "breaks": part.count("\n"), **step}
        for part, step in zip(parts, known, strict=True)
    ]


def _step(step: Step, decoder: Decoder) -> dict:
    return {
        "id": step.token,
        "gain": _number(step.gain),
        "base": _number(step.base),
        "mixed": _number(step.mixed),
        "next": _candidates(step.likeliest, step.token, decoder),
        "thoughts": [
            {**_thought(thought, decoder), "next": _candidates(thought.likeliest, step.token, decoder)}
            for thought in step.thoughts
        ],
    }


def _thought(thought: Thought, decoder: Decoder) -> dict:
    return {
        "text": glyphs.quoted(decoder.decode(thought.tokens)) if thought.tokens else None,
        "weight": _number(thought.weight),
        "mixed": _number(thought.mixed),
        "gain": _number(thought.gain),
    }


def _candidates(candidates: Sequence[Candidate], true: int, decoder: Decoder) -> list[dict]:
    return [
        {
            "name": glyphs.quoted(decoder.token(candidate.token)),
            "share": _number(math.exp(candidate.logprob)),
            "true": candidate.token == true,
        }
        for candidate in candidates
    ]


def _number(value: float) -> float | None:
    """Four decimals; what is not a number is null in JSON."""
    return round(value, 4) if math.isfinite(value) else None
