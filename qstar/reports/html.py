"""HTML for notebooks and pages: text that is never markup, tables, and one style that fits light and dark.

Colours are those of the text with some transparency, green and red, so that a fragment looks right on any ground.
"""

import html
import math
import re
from collections.abc import Iterable, Sequence

from qstar.reports.glyphs import visible

NUMBER = re.compile(r"[-+]?[\d.,]+(e[-+]\d+)?(/\d+)?( \[[-+.,\d]+, [-+.,\d]+\])?$")
BREAK = re.compile(r"(?<=[./])(?=[A-Za-z])")  # where a dotted name may be wrapped
LARGE = 10**9  # whole numbers from here on, such as FLOPs, are rounded
LONGEST = 160  # characters of a cell; the rest is in its tooltip
STYLE = """
.qstar { font: 14px/1.45 system-ui, sans-serif; }
.qstar code, .qstar .mono { font: 13px/1.5 ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; }
.qstar .soft { opacity: .65; }
.qstar .title { font-weight: 600; margin: 0 0 4px; }
.qstar table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: 6px 0 10px; }
.qstar caption { caption-side: bottom; text-align: left; opacity: .65; font-size: 12px; padding-top: 4px; }
.qstar th, .qstar td { text-align: right; padding: 3px 12px 3px 0; border: 0;
  border-bottom: 1px solid rgb(128 128 128 / 25%); background: none; vertical-align: top; white-space: nowrap; }
.qstar th { font-weight: 600; white-space: normal; vertical-align: bottom; }
.qstar .left { text-align: left; white-space: pre-wrap; max-width: 46ch; overflow-wrap: break-word; }
.qstar .scroll { overflow-x: auto; max-width: 100%; }
.qstar .panels { display: flex; flex-wrap: wrap; align-items: flex-end; gap: 12px 20px; margin: 8px 0; }
.qstar svg { max-width: 100%; height: auto; }
.qstar .up { color: #157a43; font-weight: 600; } .qstar .down { color: #b93a18; font-weight: 600; }
@media (prefers-color-scheme: dark) { .qstar .up { color: #5fd394; } .qstar .down { color: #ff9573; } }
.qstar details { margin-left: 14px; } .qstar details.whole { margin-left: 0; }
.qstar summary { cursor: pointer; }
"""


def escaped(text: object) -> str:
    """As text of an element or the value of an attribute in double quotes."""
    return html.escape(str(text), quote=True)


def fragment(body: str) -> str:
    """For a notebook: the body with the style that it needs."""
    return f'<div class="qstar"><style>{STYLE}</style>{body}</div>'


def table(columns: Sequence[str], rows: Sequence[Sequence[object]], caption: str = "") -> str:
    """A table; columns of numbers, with intervals or without, are aligned right."""
    left = [not all(_numeric(row[i]) for row in rows) or not rows for i in range(len(columns))]
    kind = [' class="left"' if text else "" for text in left]
    head = "".join(f"<th{kind[i]}>{_breakable(name)}</th>" for i, name in enumerate(columns))
    body = "".join(
        "<tr>" + "".join(f"<td{kind[i]}{_tooltip(value)}>{cell(value)}</td>" for i, value in enumerate(row)) + "</tr>"
        for row in rows
    )
    title = f"<caption>{escaped(caption)}</caption>" if caption else ""
    return f'<div class="scroll"><table>{title}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _breakable(name: str) -> str:
    return BREAK.sub("<wbr>", escaped(name))


def cell(value: object) -> str:
    """A value as the text of a cell."""
    text = written(value)
    return escaped(text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…")


def written(value: object) -> str:
    """Numbers in at most four digits, nothing for what is missing, control characters as visible signs."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return number(value)
    if isinstance(value, int):
        return str(value) if abs(value) < 10_000 else f"{value:,}" if abs(value) < LARGE else number(value)
    return visible(str(value))


def number(value: float) -> str:
    """`0.8125`, `12.3`, `1.23e+09`: about four digits."""
    if not math.isfinite(value):
        return str(value)
    if value == 0 or 1e-3 <= abs(value) < 1e5:
        digits = max(0, min(4, 3 - math.floor(math.log10(abs(value))))) if value else 0
        return f"{value:,.{digits}f}"
    return f"{value:.3g}"


def _tooltip(value: object) -> str:
    text = written(value)
    return f' title="{escaped(text)}"' if len(text) > LONGEST else ""


def _numeric(value: object) -> bool:
    if value is None or isinstance(value, int | float) or value in ("", "…"):
        return True
    return isinstance(value, str) and NUMBER.match(value) is not None


def heading(text: str) -> str:
    return f'<div class="title">{escaped(text)}</div>'


def facts(pairs: Iterable[tuple[str, object]]) -> str:
    """Names with their values in one soft line."""
    return '<div class="soft">' + " · ".join(f"{escaped(name)} {cell(value)}" for name, value in pairs) + "</div>"
