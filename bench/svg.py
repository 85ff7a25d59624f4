"""Line charts as SVG, without a library: a frame, round ticks, lines of several series, a legend.

Must not know: what the numbers mean.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 760, 380
LEFT, RIGHT, TOP, BOTTOM = 76, 190, 40, 52  # the legend is on the right
COLOURS = ("#0b6e99", "#d1495b", "#3a7d44", "#edae49", "#6a4c93", "#30343f", "#8d99ae", "#00798c")
TICKS = 5


@dataclass(frozen=True, slots=True)
class Line:
    """One series; points with an infinite value are left out. `step`: it keeps its value to the next point."""

    name: str
    points: Sequence[tuple[float, float]]
    step: bool = False


@dataclass(frozen=True, slots=True)
class Chart:
    """What to draw. A mark is a vertical line at an x, with what happened there."""

    title: str
    x_label: str
    y_label: str
    lines: Sequence[Line]
    marks: Sequence[tuple[float, str]] = ()

    def to_svg(self) -> str:
        lines = [Line(line.name, _finite(line.points), line.step) for line in self.lines]
        xs = [x for line in lines for x, _ in line.points]
        ys = [y for line in lines for _, y in line.points]
        x_ticks, y_ticks = ticks(min(xs, default=0.0), max(xs, default=1.0)), ticks(0.0, max(ys, default=1.0))
        to_x = _scale(x_ticks[0], x_ticks[-1], LEFT, WIDTH - RIGHT)
        to_y = _scale(y_ticks[0], y_ticks[-1], HEIGHT - BOTTOM, TOP)
        parts = [_text(LEFT, 22, self.title, size=15)]
        for value in x_ticks:
            parts += [_rule(to_x(value), TOP, to_x(value), HEIGHT - BOTTOM, "#e6e6e6")]
            parts += [_text(to_x(value), HEIGHT - BOTTOM + 18, number(value), anchor="middle")]
        for value in y_ticks:
            parts += [_rule(LEFT, to_y(value), WIDTH - RIGHT, to_y(value), "#e6e6e6")]
            parts += [_text(LEFT - 8, to_y(value) + 4, number(value), anchor="end")]
        parts += [_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 12, self.x_label, anchor="middle")]
        middle = (TOP + HEIGHT - BOTTOM) / 2
        parts += [_text(16, middle, self.y_label, anchor="middle", turn=f"rotate(-90 16 {middle:g})")]
        for x, what in self.marks:
            parts += [_rule(to_x(x), TOP, to_x(x), HEIGHT - BOTTOM, "#888", dashed=True)]
            parts += [_text(to_x(x) + 4, TOP + 12, what)]
        for place, line in enumerate(lines):
            colour = COLOURS[place % len(COLOURS)]
            parts += [_path([(to_x(x), to_y(y)) for x, y in _stepped(line)], colour)]
            height = TOP + 8 + 18 * place
            parts += [_rule(WIDTH - RIGHT + 12, height, WIDTH - RIGHT + 32, height, colour, width=2.5)]
            parts += [_text(WIDTH - RIGHT + 38, height + 4, line.name)]
        return document(WIDTH, HEIGHT, parts)


def document(width: float, height: float, parts: Iterable[str]) -> str:
    """A whole file of elements."""
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:g}" height="{height:g}" '
    head += f'viewBox="0 0 {width:g} {height:g}" font-family="sans-serif" font-size="12">'
    return "\n".join([head, '<rect width="100%" height="100%" fill="white"/>', *parts, "</svg>", ""])


def ticks(low: float, high: float) -> list[float]:
    """About five round values that hold both ends."""
    span = high - low
    if not span > 0:
        span = abs(high) or 1.0
    rough = span / TICKS
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [position * step for position in range(first, max(last, first + 1) + 1)]


def number(value: float) -> str:
    """Short: 1500 as 1,500, 0.25 as it is."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{round(value, 6):g}"


def _finite(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    return [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]


def _stepped(line: Line) -> Iterable[tuple[float, float]]:
    for place, (x, y) in enumerate(line.points):
        if line.step and place:
            yield x, line.points[place - 1][1]
        yield x, y


@dataclass(frozen=True, slots=True)
class _Scale:
    low: float
    factor: float
    start: float

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) * self.factor


def _scale(low: float, high: float, start: float, end: float) -> _Scale:
    return _Scale(low, (end - start) / (high - low), start)


def _path(points: Sequence[tuple[float, float]], colour: str) -> str:
    drawn = " ".join(f"{'L' if place else 'M'}{x:.1f} {y:.1f}" for place, (x, y) in enumerate(points))
    return f'<path d="{drawn}" fill="none" stroke="{colour}" stroke-width="1.8" stroke-linejoin="round"/>'


def _rule(x1: float, y1: float, x2: float, y2: float, colour: str, *, width: float = 1, dashed: bool = False) -> str:
    dashes = ' stroke-dasharray="4 3"' if dashed else ""
    places = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
    return f'<line {places} stroke="{colour}" stroke-width="{width:g}"{dashes}/>'


def _text(x: float, y: float, words: str, *, anchor: str = "start", size: int = 12, turn: str = "") -> str:
    turned = f' transform="{turn}"' if turn else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}"{turned}>{escape(words)}</text>'
