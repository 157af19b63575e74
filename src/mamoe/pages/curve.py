"""Curves over steps as inline SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup, escape

_WIDTH, _HEIGHT = 720.0, 260.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 52.0, 16.0, 14.0, 40.0
_IN_ROW = 4  # names of the legend
_SMOOTHED_FROM = 60  # more points than this get a running mean over a thirtieth of them


@dataclass(frozen=True, kw_only=True, slots=True)
class Series:
    """One line of the curve."""

    name: str
    points: tuple[tuple[float, float], ...]  # (step, value), by step


@dataclass(frozen=True, kw_only=True, slots=True)
class _Frame:
    """What the axes reach, and where it lies on the page."""

    last: float  # the first is 0
    low: float
    high: float
    top: float  # of the plot, below the legend

    def x(self, step: float) -> float:
        return _LEFT + step / self.last * (_WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        share = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        return _HEIGHT - _BOTTOM - share * (_HEIGHT - self.top - _BOTTOM)


def loss_curve(series: Sequence[Series], *, across: str = "step") -> Markup:
    """All series in one frame with ticks and a legend above; noisy ones pale, with their running mean on top.

    Values that are not finite are left out. The frame begins at 0 unless all values lie within a quarter of the
    largest one, which would leave flat lines; the highest hundredth is drawn at its upper edge. Nothing to draw gives
    an empty text.
    """
    lines = [(s.name, [(x, y) for x, y in s.points if math.isfinite(y)]) for s in series]
    lines = [(name, points) for name, points in lines if len(points) > 1]
    if not lines:
        return Markup("")
    frame = _frame([point for _, points in lines for point in points], rows=math.ceil(len(lines) / _IN_ROW))
    marks: list[str] = [_grid(frame, across)]
    for number, (name, points) in enumerate(lines):
        smooth = _running_mean(points) if len(points) > _SMOOTHED_FROM else points
        if smooth is not points:
            marks.append(_line(points, frame, f"line s{number} raw"))
        marks.append(_line(smooth, frame, f"line s{number}"))
        x, y = _LEFT + 8 + 160 * (number % _IN_ROW), 10 + 16 * (number // _IN_ROW)
        marks.append(f'<line x1="{x}" x2="{x + 22}" y1="{y}" y2="{y}" class="line s{number}"/>')
        marks.append(f'<text x="{x + 28}" y="{y + 4}">{escape(name)}</text>')
    body = "".join(marks)
    size = f"0 0 {_WIDTH:g} {_HEIGHT:g}"
    return Markup(f'<svg class="curve" viewBox="{size}" role="img" aria-label="by {escape(across)}">{body}</svg>')


def _frame(points: Sequence[tuple[float, float]], rows: int) -> _Frame:
    values = [y for _, y in points]
    # The first noisy losses of a training would flatten all the rest.
    high, low = float(np.quantile(values, 0.99)), min(values)
    margin = 0.05 * (abs(high) if low >= 0 and low < 0.75 * high else high - low)
    high = high + margin if high + margin > low else low + 1.0
    low = 0.0 if 0 <= low < 0.75 * high else low - margin
    return _Frame(last=max(x for x, _ in points) or 1.0, low=low, high=high, top=_TOP + 16 * rows)


def _running_mean(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    values = np.array(points, dtype=np.float64)
    window = max(3, len(points) // 30)
    kernel = np.full(window, 1 / window)
    means = np.stack([np.convolve(values[:, column], kernel, mode="valid") for column in (0, 1)], axis=1)
    return [(float(x), float(y)) for x, y in means]


def _line(points: Sequence[tuple[float, float]], frame: _Frame, kind: str) -> str:
    where = " ".join(f"{frame.x(x):.1f},{frame.y(y):.1f}" for x, y in points)
    return f'<polyline class="{kind}" points="{where}"/>'


def _grid(frame: _Frame, across: str) -> str:
    marks = []
    for value in _ticks(frame.low, frame.high):
        y = frame.y(value)
        marks.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        marks.append(f'<text class="tick end" x="{_LEFT - 8}" y="{y + 4:.1f}">{value:g}</text>')
    for value in _ticks(0.0, frame.last):
        marks.append(f'<text class="tick mid" x="{frame.x(value):.1f}" y="{_HEIGHT - 22}">{value:g}</text>')
    marks.append(
        f'<text class="tick mid" x="{(_LEFT + _WIDTH - _RIGHT) / 2}" y="{_HEIGHT - 5}">{escape(across)}</text>'
    )
    return "".join(marks)


def _ticks(low: float, high: float) -> list[float]:
    """Four to eight round numbers between the two."""
    span = high - low
    power = 10.0 ** math.floor(math.log10(span))
    step = next(power * part for part in (2.0, 1.0, 0.5, 0.25, 0.2, 0.1) if span / (power * part) >= 4)
    return [round(step * i, 12) for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]
