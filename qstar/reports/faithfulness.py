"""What thoughts hold: tables, strips and examples of what experiments/quiet_star/faithfulness measured, for its page
and for the reports of runs.

A record is a line of JSON. `part` says what was measured: `edits` of thoughts, `written` workings, `readability`, or an
`examples` of an edit. In a study `arm` (of thoughts) or `model` (of workings) and `base` say of which run; what was
measured of one run lies in its directory, and says nothing of the kind.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from qstar import files
from qstar.evals import intervals
from qstar.files import JsonObject
from qstar.reports import charts, frames, glyphs, html, tables
from qstar.reports.arrow import Frame
from qstar.reports.figures import COLOURS, Curve
from qstar.reports.html import escaped

FILE = "faithfulness.jsonl"  # in a run directory
STUDY = "results.jsonl"  # in the folder of a study
MEASURE = "python experiments/quiet_star/faithfulness/faithfulness.py"
COLUMNS = ("bases", "right, unedited", "true places", "followed", "places after it follow",
           "kept, last place: followed", "kept, earlier place: followed", "stayed")  # fmt: skip
STRIPS = {
    ("continued", "followed"): "Answers that follow an edit of one token, what comes after it generated again",
    ("kept", "right"): "Right answers with one token replaced, the others kept",
}
KINDS = {"edits": "Thoughts", "written": "Written workings"}
LEGEND = (
    "An edit puts another place at one token. Followed: the answer is the one that the remaining moves give from "
    "there; stayed: it is the same as without the edit."
)
KEPT = {"continued": "tokens after the edit generated again", "kept": "the other tokens kept"}
CHANCE = 0.2  # one place of five
SHADE = 0.6  # opacity of the cell of a share of 1


# --- figures --------------------------------------------------------------------------------------------------------


def of_part(lines: Sequence[JsonObject], *parts: str) -> list[JsonObject]:
    return [line for line in lines if line["part"] in parts]


def mean(lines: Sequence[Mapping], name: str) -> float:
    """Over all edits."""
    return float(np.average([line[name] for line in lines], weights=[line["n"] for line in lines]))


def over_bases(lines: Sequence[Mapping], name: str, questions: bool = True) -> str:
    """The mean over bases with its interval; empty where no line has it."""
    values, count = _by_base(lines, name), max((line["n"] for line in lines), default=0)
    return tables.over_runs(values, questions=count if questions else 0)


def _by_base(lines: Sequence[Mapping], name: str) -> dict[tuple[int, int], float]:
    by_base = frames.grouped((line for line in lines if name in line), lambda line: line.get("base", 0))
    return {(base, 0): mean(of, name) for base, of in by_base.items()}


def of_whom(line: Mapping) -> str:
    """The arm or model that a line is of; nothing for the run in whose directory it lies."""
    return str(line.get("arm", line.get("model", "")))


def shares(lines: Sequence[JsonObject]) -> Iterator[list[str]]:
    """A row of name and `COLUMNS` for each arm or model."""
    for name, of in frames.grouped(lines, of_whom).items():
        rest = {kind: [line for line in of if line["rest"] == kind] for kind in ("unedited", "kept", "continued")}
        kept = [line for line in rest["kept"] if line["left"] >= 0]
        yield [
            name,
            str(len({line.get("base", 0) for line in of})),
            over_bases(rest["unedited"], "right"),
            over_bases(rest["unedited"], "holds"),
            over_bases(rest["continued"] or kept, "followed"),
            over_bases(rest["continued"], "written"),
            over_bases([line for line in kept if line["left"] == 0], "followed"),
            over_bases([line for line in kept if line["left"] > 0], "followed"),
            over_bases([line for line in kept if line["left"] > 0], "stayed"),
        ]


def by_place(lines: Sequence[JsonObject], rest: str) -> dict[str, dict[int, list[JsonObject]]]:
    """The edits of each arm or model by the moves that are left after them, first tokens first."""
    edits = [line for line in lines if line["rest"] == rest]
    return {
        name: dict(sorted(frames.grouped(of, lambda line: int(line["left"])).items(), reverse=True))
        for name, of in frames.grouped(edits, of_whom).items()
    }


# --- what is shown --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, repr=False)
class Held:
    """What was measured of one run, or of the runs of a study or a sweep."""

    lines: Sequence[JsonObject]
    path: Path  # of the run or the study

    @property
    def edits(self) -> list[JsonObject]:
        return of_part(self.lines, "edits", "written")

    def table(self) -> Frame:
        """Shares of answers, a row for each arm or model; the interval is over bases, of one base over questions."""
        names = ("of", *COLUMNS)
        frame = Frame.of((dict(zip(names, row, strict=True)) for row in shares(self.edits)), names)
        return frame if any(frame["of"]) else frame.select(*(name for name in COLUMNS if name != "bases"))

    def places(self) -> Frame:
        """The records of edits: a row for every number of moves left, and each of `kept` and `continued`."""
        return Frame.of([line for line in self.edits if "left" in line])

    def __repr__(self) -> str:
        names = [name for name in frames.grouped(self.edits, of_whom) if name]
        return f"Held({str(self.path)!r}{': ' if names else ''}{', '.join(names)})"

    def _repr_html_(self) -> str:
        return html.fragment(f"<style>{STYLE}</style>{self.html()}")

    def html(self) -> str:
        """Shares, strips by place, readers over steps, and examples, without the style of a page (`STYLE`)."""
        asked = max((line["n"] for line in self.edits), default=0)
        steps = sorted({line["step"] for line in self.edits if "step" in line})
        about = [("questions", asked), *(("step", step) for step in steps[-1:]), ("chance", f"{CHANCE:.1f}")]
        kinds = [(title, of) for part, title in KINDS.items() if (of := of_part(self.lines, part))]
        shown = "".join(_kind(title if len(kinds) > 1 else "", Held(of, self.path)) for title, of in kinds)
        return f'{html.facts(about)}<div class="soft">{LEGEND}</div>{shown}{self._readers()}{self._examples()}'

    def _readers(self) -> str:
        read = of_part(self.lines, "readability")
        by_name = frames.grouped(read, of_whom)
        curves = [
            curve
            for colour, (name, of) in zip(COLOURS, by_name.items(), strict=False)
            for curve in _read_over_steps(name, of, colour, bands=len(by_name) == 1)
        ]
        if not curves:
            return ""
        title = html.heading("Readability: right answers after the run's thoughts, read by itself and by its base")
        return f'{title}<div class="panels">{charts.chart(curves, "Right answers", "step", True)}</div>'

    def _examples(self) -> str:
        by_name = frames.grouped(of_part(self.lines, "examples"), of_whom)
        examples = [
            (f"{name}: {said}" if name else said, edited)
            for name, of in by_name.items()
            for rest, said in KEPT.items()
            if (edited := [line for line in of if line["rest"] == rest])
        ]
        parts = [
            f'<details class="whole"{" open" if not number else ""}><summary>{escaped(said)}, {len(edited)} examples'
            f"</summary>{_examples(edited)}</details>"
            for number, (said, edited) in enumerate(examples)
        ]
        legend = (
            "of every place the first edit, and the first whose answer is not the one that the moves give (green where "
            "it is); red: the token that was put in, underlined: generated after it"
        )
        return f'{html.heading("Edits")}<div class="soft">{legend}</div>{"".join(parts)}' if parts else ""


def _kind(title: str, held: Held) -> str:
    """The shares and strips of thoughts, or of written workings."""
    strips = "".join(_strip(name, held.edits, *kind) for kind, name in STRIPS.items())
    return f'{html.heading(title) if title else ""}<div class="held">{held.table().html(100)}</div>{strips}'


def _read_over_steps(name: str, lines: Sequence[JsonObject], colour: str, bands: bool) -> Iterator[Curve]:
    by_step = sorted(frames.grouped(lines, lambda line: int(line["step"])).items())
    for reader, said, style in (("own", "itself", "-"), ("frozen", "base", "--")):
        read = [intervals.across(_by_base(of, reader), max(line["n"] for line in of)) for _, of in by_step]
        mean, low, high = ([getattr(share, end) for share in read] for end in ("mean", "low", "high"))
        label = f"{name}, {said}" if name else said
        band = (low, high) if bands else ((), ())
        yield Curve(label, [step for step, _ in by_step], mean, colour, *band, line=style)


def _strip(title: str, lines: Sequence[JsonObject], rest: str, figure: str) -> str:
    """A cell for every token, the darker the larger the share, with the interval as its tooltip."""
    rows = by_place(lines, rest)
    lefts = sorted({left for of in rows.values() for left in of}, reverse=True)
    if not lefts:
        return ""
    head = "".join(f"<th>{left}</th>" for left in lefts)
    body = "".join(
        f'<tr><th class="left">{escaped(name)}</th>{"".join(_shaded(of.get(left, []), figure) for left in lefts)}</tr>'
        for name, of in rows.items()
    )
    first = "moves left after the token"
    below = "; below 0: tokens after the last state" if lefts[-1] < 0 else ""
    return (
        f'{html.heading(title)}<div class="scroll"><table class="strip"><caption>{first}{below}</caption>'
        f"<thead><tr><th></th>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _shaded(lines: Sequence[JsonObject], figure: str) -> str:
    whole = over_bases(lines, figure)
    if not whole:
        return "<td></td>"
    share = float(whole.split()[0])
    look = f"background:rgb(34 162 93 / {SHADE * share:.2f})"
    return f'<td style="{look}" title="{escaped(whole)}">{share:.2f}</td>'


def _examples(lines: Sequence[JsonObject]) -> str:
    names = ("question", "thought", "answer", "edited", "answer", "by the moves")
    head = "".join(f'<th class="left">{name}</th>' for name in names)
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(map(_example, lines))}</tbody></table></div>"
    )


def _example(line: JsonObject) -> str:
    code = lambda text: f"<code>{escaped(glyphs.visible(str(text)))}</code>"  # noqa: E731
    at, edited = int(line["at"]), str(line["edited"])
    after = escaped(glyphs.visible(edited[at + 1 :]))
    rest = f"<u>{after}</u>" if line["rest"] == "continued" else after
    marked = f'{escaped(glyphs.visible(edited[:at]))}<b class="down">{escaped(edited[at : at + 1])}</b>{rest}'
    tone = "up" if line["became"] == line["expected"] else "down"
    cells = (
        code(line["question"]),
        code(line["thought"]),
        code(line["answer"]),
        f"<code>{marked}</code>",
        f'<code class="{tone}">{escaped(glyphs.visible(str(line["became"])))}</code>',
        code(line["expected"]),
    )
    row = "".join(f'<td class="left">{cell}</td>' for cell in cells)
    return f"<tr>{row}</tr>"


STYLE = """
.qstar .held .left { min-width: 22ch; }
.qstar .strip th { padding: 2px 8px; font-weight: 400; border: 0; vertical-align: middle; }
.qstar .strip th:not(.left) { text-align: center; }
.qstar .strip td { text-align: center; padding: 5px 9px; border: 2px solid transparent; background-clip: padding-box; }
"""


# --- records --------------------------------------------------------------------------------------------------------


def of_run(path: Path) -> Held:
    """What was measured of a run. Raises FileNotFoundError, with the command that measures, where nothing was."""
    if not (path / FILE).is_file():
        raise FileNotFoundError(f"{path / FILE} is not there: measure what thoughts hold with {MEASURE} {path}")
    return Held(_lines(path / FILE), path)


def of_study(path: Path) -> Held:
    """What was measured of the runs of a study, from its results.jsonl or the folder with it.

    Raises FileNotFoundError where there is none, ValueError for records of another kind.
    """
    file = path / STUDY if path.is_dir() else path
    if not file.is_file():
        raise FileNotFoundError(f"{file} is not there: expected what {MEASURE} wrote")
    return Held(_lines(file), path)


def _lines(file: Path) -> list[JsonObject]:
    return files.records(file, "a measurement of what thoughts hold", part=str)
