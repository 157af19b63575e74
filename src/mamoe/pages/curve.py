"""Curves over steps as inline SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup, escape

_WIDTH, _HEIGHT = 720.0, 260.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 52.0, 16.0, 14.0, 34.0
_IN_ROW = 4  # names of the legend
_SMOOTHED_FROM = 60  # more points than this get a running mean over a thirtieth of them


@dataclass(frozen=True, kw_only=True, slots=True)
class Series:
    """One line of the curve."""

    name: str
    points: tuple[tuple[float, float], ...]  # (step, value), by step


def loss_curve(series: Sequence[Series], *, across: str = "step") -> Markup:
    """All series in one frame with ticks and a legend; noisy ones pale, with their running mean on top.

    Values that are not finite are left out, those below 0 drawn at 0. Nothing to draw gives an empty text.
    """
    lines = [(s.name, [(x, y) for x, y in s.points if math.isfinite(y)]) for s in series]
    lines = [(name, points) for name, points in lines if len(points) > 1]
    if not lines:
        return Markup("")
    first, last = min(p[0][0] for _, p in lines), max(p[-1][0] for _, p in lines)
    # The first noisy losses of a training would flatten all the rest.
    top = float(np.quantile([y for _, points in lines for _, y in points], 0.99)) * 1.05
    top = top if top > 0 else 1.0  # estimates of distances, such as KID, may all lie below 0
    marks: list[str] = [_grid(first, last, top, across)]
    for number, (name, points) in enumerate(lines):
        smooth = _running_mean(points) if len(points) > _SMOOTHED_FROM else points
        if smooth is not points:
            marks.append(_line(points, first, last, top, f"line s{number} raw"))
        marks.append(_line(smooth, first, last, top, f"line s{number}"))
        x, y = _LEFT + 8 + 150 * (number % _IN_ROW), _TOP + 8 + 16 * (number // _IN_ROW)
        marks.append(f'<line x1="{x}" x2="{x + 22}" y1="{y}" y2="{y}" class="line s{number}"/>')
        marks.append(f'<text x="{x + 28}" y="{y + 4}">{escape(name)}</text>')
    body = "".join(marks)
    size = f"0 0 {_WIDTH:g} {_HEIGHT:g}"
    return Markup(f'<svg class="curve" viewBox="{size}" role="img" aria-label="by {escape(across)}">{body}</svg>')


def _running_mean(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    values = np.array(points, dtype=np.float64)
    window = max(3, len(points) // 30)
    kernel = np.full(window, 1 / window)
    means = np.stack([np.convolve(values[:, column], kernel, mode="valid") for column in (0, 1)], axis=1)
    return [(float(x), float(y)) for x, y in means]


def _line(points: Sequence[tuple[float, float]], first: float, last: float, top: float, kind: str) -> str:
    where = " ".join(f"{_x(x, first, last):.1f},{_y(y, top):.1f}" for x, y in points)
    return f'<polyline class="{kind}" points="{where}"/>'


def _grid(first: float, last: float, top: float, across: str) -> str:
    marks = []
    for value in _ticks(top):
        y = _y(value, top)
        marks.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        marks.append(f'<text class="tick end" x="{_LEFT - 8}" y="{y + 4:.1f}">{value:g}</text>')
    for value in _ticks(last):
        if value >= first or value == 0:
            x = _x(max(value, first), first, last)
            marks.append(f'<text class="tick mid" x="{x:.1f}" y="{_HEIGHT - 14}">{value:g}</text>')
    marks.append(
        f'<text class="tick mid" x="{(_LEFT + _WIDTH - _RIGHT) / 2}" y="{_HEIGHT - 1}">{escape(across)}</text>'
    )
    return "".join(marks)


def _ticks(top: float) -> list[float]:
    """Four to eight round numbers from 0 up to ``top``."""
    power = 10.0 ** math.floor(math.log10(top))
    step = next(power * part for part in (2.0, 1.0, 0.5, 0.25, 0.2, 0.1) if top / (power * part) >= 4)
    return [round(step * i, 12) for i in range(int(top / step) + 1)]


def _x(step: float, first: float, last: float) -> float:
    return _LEFT + (step - first) / ((last - first) or 1.0) * (_WIDTH - _LEFT - _RIGHT)


def _y(loss: float, top: float) -> float:
    return _HEIGHT - _BOTTOM - min(max(loss, 0.0), top) / top * (_HEIGHT - _TOP - _BOTTOM)
