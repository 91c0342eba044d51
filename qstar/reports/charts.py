"""Curves as inline SVG, without a library: for notebooks and pages that load nothing.

Points have their values as tooltips; bands are intervals; a legend is above. Colours are those of `figures`.
"""

import math
from collections.abc import Iterator, Sequence

from qstar.reports.figures import Curve
from qstar.reports.html import escaped, number

WIDTH, HEIGHT = 360, 215
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 30, 34  # around the axes
LEGEND = 15  # height of a line of the legend
LABEL, LETTER = 28, 6.7  # width of a label without its letters, and of a wide letter
TICKS = 5
MARKED = 60  # points that are drawn as such; of more only the line


def chart(curves: Sequence[Curve], title: str, x: str, shares: bool = False) -> str:
    """One panel; an empty text where no curve has a finite value.

    Args:
        shares: the y axis is from 0 to 1.
    """
    curves = [curve for curve in curves if any(map(math.isfinite, curve.y))]
    if not curves:
        return ""
    named = [curve for curve in curves if curve.label]
    lines = _legend_lines([curve.label for curve in named])
    top = TOP + LEGEND * len(lines)
    height = HEIGHT + LEGEND * len(lines)
    xs, ys = _limits(curves, shares)
    place = _Axes(xs, ys, top, height)
    parts = [
        f'<svg class="chart" role="img" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}" '
        f'aria-label="{escaped(title)}" font-family="system-ui, sans-serif" font-size="11">',
        f'<text x="2" y="13" fill="currentColor" font-weight="600" font-size="12.5">{escaped(title)}</text>',
        *_legend(lines, {curve.label: curve for curve in named}),
        *_grid(place, x),
    ]
    for curve in curves:
        parts += _curve(curve, place)
    return "".join((*parts, "</svg>"))


class _Axes:
    def __init__(self, xs: tuple[float, float], ys: tuple[float, float], top: float, height: float):
        self.xs, self.ys, self.top, self.bottom = xs, ys, top, height - BOTTOM

    def x(self, value: float) -> float:
        low, high = self.xs
        return LEFT + (value - low) / (high - low) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        low, high = self.ys
        return self.bottom - (min(max(value, low), high) - low) / (high - low) * (self.bottom - self.top)


def _limits(curves: Sequence[Curve], shares: bool) -> tuple[tuple[float, float], tuple[float, float]]:
    xs = [float(value) for curve in curves for value in curve.x]
    ys = [float(v) for curve in curves for v in (*curve.y, *curve.low, *curve.high) if math.isfinite(v)]
    low, high = (0.0, 1.0) if shares else (min(ys), max(ys))
    room = 0.0 if shares else 0.05 * (high - low) or 0.05 * abs(high) or 0.5
    left, right = min(xs), max(xs)
    return (left, right if right > left else left + 1), (low - room, high + room)


def ticks(low: float, high: float, count: int = TICKS) -> list[float]:
    """Round numbers between the limits, about `count` of them."""
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 12) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def _grid(place: _Axes, x: str) -> Iterator[str]:
    for value in ticks(*place.ys):
        y = place.y(value)
        yield f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="currentColor" opacity=".13"/>'
        yield _text(LEFT - 6, y + 4, _tick(value), "end")
    for value in _whole(ticks(*place.xs), place):
        yield _text(place.x(value), place.bottom + 15, _tick(value), "middle")
    yield f'<path d="M{LEFT} {place.bottom}H{WIDTH - RIGHT}" stroke="currentColor" opacity=".45"/>'
    yield _text(WIDTH - RIGHT, place.bottom + 29, x, "end")


def _text(x: float, y: float, text: str, anchor: str) -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
    return f'<text {place} fill="currentColor" opacity=".7">{escaped(text)}</text>'


def _whole(values: Sequence[float], place: _Axes) -> list[float]:
    """Steps and iterations are whole numbers."""
    return [value for value in values if value == int(value)] or [place.xs[0], place.xs[1]]


def _tick(value: float) -> str:
    if value and (abs(value) >= 1e5 or abs(value) < 1e-3):
        return f"{value:.1e}".replace("e+0", "e").replace("e-0", "e-")
    return f"{value:,.10g}"


def _curve(curve: Curve, place: _Axes) -> Iterator[str]:
    points = [(float(x), float(y)) for x, y in zip(curve.x, curve.y, strict=True)]
    if curve.low:
        low = [(float(x), float(v)) for x, v in zip(curve.x, curve.low, strict=True) if math.isfinite(v)]
        high = [(float(x), float(v)) for x, v in zip(curve.x, curve.high, strict=True) if math.isfinite(v)]
        if len(low) > 1:
            around = " ".join(f"{place.x(x):.1f},{place.y(y):.1f}" for x, y in (*low, *reversed(high)))
            yield f'<polygon points="{around}" fill="{curve.colour}" opacity=".16"/>'
        for (x, bottom), (_, top) in zip(low, high, strict=True):
            if len(low) <= MARKED:
                yield (
                    f'<line x1="{place.x(x):.1f}" x2="{place.x(x):.1f}" y1="{place.y(bottom):.1f}" '
                    f'y2="{place.y(top):.1f}" stroke="{curve.colour}" opacity=".55"/>'
                )
    known = [(x, y) for x, y in points if math.isfinite(y)]
    dash = ' stroke-dasharray="5 4"' if curve.line != "-" else ""
    path = " ".join(f"{place.x(x):.1f},{place.y(y):.1f}" for x, y in known)
    if len(known) > 1:
        look = f'fill="none" stroke="{curve.colour}" stroke-width="1.8" stroke-linejoin="round"{dash}'
        yield f'<polyline points="{path}" {look}/>'
    # Of long curves the points are there to be pointed at, and not seen.
    seen = len(known) <= MARKED
    for x, y in known[:: max(1, len(known) // 400)]:
        look = f'r="{2.6 if len(known) > 20 else 3.2}"' if seen else 'r="5" opacity="0"'
        tooltip = escaped(f"{curve.label + ': ' if curve.label else ''}{number(y)} at {_tick(x)}")
        at = f'cx="{place.x(x):.1f}" cy="{place.y(y):.1f}"'
        yield f'<circle {at} {look} fill="{curve.colour}"><title>{tooltip}</title></circle>'


def _legend_lines(labels: Sequence[str]) -> list[list[str]]:
    """Labels in lines that fit, by a generous width of a letter; none where there is only one curve without a name."""
    lines: list[list[str]] = []
    room = 0.0
    for label in labels:
        width = LABEL + LETTER * len(label)
        if not lines or room < width:
            lines.append([])
            room = WIDTH - 4.0
        lines[-1].append(label)
        room -= width
    return lines


def _legend(lines: Sequence[Sequence[str]], curves: dict[str, Curve]) -> Iterator[str]:
    for row, labels in enumerate(lines):
        x, y = 2.0, 20 + LEGEND * row
        for label in labels:
            curve = curves[label]
            dash = ' stroke-dasharray="4 3"' if curve.line != "-" else ""
            yield f'<path d="M{x:.0f} {y + 5}h14" stroke="{curve.colour}" stroke-width="2.2"{dash}/>'
            yield f'<text x="{x + 18:.0f}" y="{y + 9}" fill="currentColor">{escaped(label)}</text>'
            x += LABEL + LETTER * len(label)
