"""The demo's page: one HTML file that needs nothing else, neither files nor a network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2

from mamoe.commands.demo.scores import DemoScores, value_of
from mamoe.evaluation.protocol import Score
from mamoe.pages.curve import Series, loss_curve
from mamoe.pages.embedding import Picture, jpeg_uri, png_uri
from mamoe.storage.staging import write_whole


@dataclass(frozen=True, kw_only=True, slots=True)
class InstanceLine:
    """One instance of a gallery row."""

    prompt: str
    swapped_prompt: str
    colour: tuple[int, int, int] | None  # RGB of the word in each prompt; None where it names no colour
    swapped_colour: tuple[int, int, int] | None


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class GalleryRow:
    """One test layout and the pictures of it, all u8 of one size."""

    name: str
    prompt: str
    instances: tuple[InstanceLine, ...]
    panoptic: Picture  # the map, colourized
    real: Picture
    base: Picture  # base model, told the prompt but no layout
    mamoe: Picture
    swapped: Picture  # MaMoE with the colours of the instance prompts swapped


@dataclass(frozen=True, kw_only=True, slots=True)
class Command:
    """A shell command for the reader."""

    what: str  # one line above it
    line: str


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class DemoReport:
    """Everything the page says."""

    title: str
    summary: str  # one paragraph
    scores: DemoScores
    rows: tuple[GalleryRow, ...]
    losses: tuple[Series, ...]
    commands: tuple[Command, ...]
    facts: tuple[tuple[str, str], ...]  # (what, value): machine, time, sizes


def write_page(report: DemoReport, path: Path) -> None:
    """Write the page, whole or not at all."""
    write_whole(render_page(report), path)


def render_page(report: DemoReport) -> str:
    """The page as HTML; pictures are inside it as data URIs, and every text is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("mamoe.commands.demo", "."), autoescape=True, undefined=jinja2.StrictUndefined
    )
    environment.filters |= {"png": png_uri, "jpeg": jpeg_uri, "percent": percent, "css": css_colour, "value": value_of}
    template = environment.get_template("page.html.j2")
    return template.render(
        report=report, scores=report.scores, bars=_bars(report.scores), curve=loss_curve(report.losses)
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Bar:
    name: str
    kind: str  # CSS class
    rate: float
    low: float
    high: float
    note: str


def _bars(scores: DemoScores) -> Sequence[_Bar]:
    named = (
        ("Real pictures", "real", scores.real),
        ("MaMoE", "mamoe", scores.mamoe),
        ("MaMoE, colours swapped", "mamoe", scores.swapped),
        ("Base model without layout", "base", scores.base),
    )
    return [_bar(name, kind, score, scores.instances) for name, kind, score in named]


def _bar(name: str, kind: str, score: Score, instances: int) -> _Bar:
    rate, around = value_of(score), score.interval
    low, high = (rate, rate) if around is None else (around.low, around.high)
    return _Bar(name=name, kind=kind, rate=rate, low=low, high=high, note=f"{round(rate * instances)} of {instances}")


def percent(share: float) -> str:
    """0.934 -> 93.4 %."""
    return f"{100 * share:.1f} %"


def css_colour(rgb: tuple[int, int, int]) -> str:
    """(255, 0, 10) -> #ff000a."""
    return "#" + "".join(f"{int(part):02x}" for part in rgb)
