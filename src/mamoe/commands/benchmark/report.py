"""A benchmark's report: one HTML file that needs nothing else, and the same numbers as CSV, JSON and Markdown."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import yaml
from markupsafe import Markup
from PIL import Image

from mamoe.commands.benchmark.results import Outcome
from mamoe.commands.benchmark.tables import (
    PER_CLASS,
    Grid,
    Part,
    as_csv,
    cost_grid,
    equal_time_grid,
    failures,
    mean_curve,
    parts_of,
    score_grid,
)
from mamoe.data.reading.pictures import read_picture
from mamoe.evaluation.protocol import ProtocolError
from mamoe.pages.curve import Series, loss_curve
from mamoe.pages.embedding import jpeg_uri
from mamoe.storage.staging import write_whole
from mamoe.vocabulary.selection import spread

HTML, MARKDOWN, CSV, JSON = "report.html", "report.md", "report.csv", "report.json"
_WIDEST = 512  # pixels of a picture on the sheets
_HIDDEN = ("train/lr", "train/grad_norm")
RULE = (
    "Mean over seeds and 95 % interval (Student's t over seeds; of a single seed: bootstrap over pictures). “best”: "
    "the best mean. “tie”: the 95 % interval of the difference to the best mean holds 0 (Welch 1947, with "
    "Satterthwaite's degrees of freedom). “worse”: it does not. With one seed there is no verdict. Many comparisons "
    "are made and none is corrected for: one in twenty equal pairs is called different."
)


@dataclass(frozen=True, kw_only=True, slots=True)
class About:
    """What made a report."""

    name: str
    command: str
    config: Mapping[str, Any]
    facts: Sequence[tuple[str, str]]  # machine, versions, time
    scores: Sequence[str]  # of the main table; patterns
    sheet: int  # layouts on the picture sheet


@dataclass(frozen=True, kw_only=True, slots=True)
class Sheet:
    """Pictures side by side: a row per layout, a column per method."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[str | None, ...]], ...]  # (layout, data URIs)


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """A curve, or one picture."""

    title: str
    body: Markup


@dataclass(frozen=True, kw_only=True, slots=True)
class Contents:
    """All that the page shows."""

    about: About
    tables: tuple[Grid, ...]
    per_class: tuple[Grid, ...]
    everything: tuple[Grid, ...]
    costs: tuple[Grid, ...]
    failed: tuple[tuple[str, str], ...]
    warnings: tuple[str, ...]
    notes: tuple[str, ...]
    curves: tuple[Figure, ...]
    sheets: tuple[Sheet, ...]
    copies: tuple[tuple[str, str], ...]  # (method, data URI)


def write_report(outcomes: Sequence[Outcome], about: About, out: Path) -> Path:
    """Write report.html, .md, .csv and .json into ``out``; returns the page."""
    contents = contents_of(outcomes, about)
    write_whole(as_csv(parts_of(outcomes)), out / CSV)
    write_whole(json.dumps(_json(outcomes, contents), indent=1, ensure_ascii=False) + "\n", out / JSON)
    write_whole(markdown(contents), out / MARKDOWN)
    write_whole(render(contents), out / HTML)
    return out / HTML


def contents_of(outcomes: Sequence[Outcome], about: About) -> Contents:
    """Tables, curves and sheets of a grid, finished or not."""
    parts = parts_of(outcomes)
    shown = [part for part in parts if next(part.finished, None) is not None]
    warnings, seconds = [], []
    for part in shown:
        try:
            part.comparable()
        except ProtocolError as error:
            warnings.append(f"{part.title}: {error}")
    for part in shown:
        if (grid := equal_time_grid(part)) is not None:
            seconds.append(grid)
    return Contents(
        about=about,
        tables=tuple(score_grid(part, about.scores, f"Scores: {part.title}") for part in shown),
        per_class=tuple(score_grid(part, [PER_CLASS], f"Per class: {part.title}").turned() for part in shown),
        everything=tuple(score_grid(part, ["*"], f"All: {part.title}", without=[PER_CLASS]).turned() for part in shown),
        costs=(*(cost_grid(part) for part in shown), *seconds),
        failed=tuple(failures(outcomes)),
        warnings=tuple(warnings),
        notes=tuple(note for part in shown if (note := _on_samplers(part)) is not None),
        curves=tuple(figure for part in shown for figure in _curves(part)),
        sheets=tuple(sheet for part in shown if (sheet := _sheet(part, about.sheet)) is not None),
        copies=tuple(copy for part in shown for copy in _copies(part)),
    )


def render(contents: Contents) -> str:
    """The page; every text is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("mamoe.commands.benchmark", "."), autoescape=True, undefined=jinja2.StrictUndefined
    )
    config = yaml.safe_dump(dict(contents.about.config), sort_keys=False, allow_unicode=True, width=120)
    return environment.get_template("report.html.j2").render(contents=contents, rule=RULE, config=config)


def markdown(contents: Contents) -> str:
    """The main table, the costs and the failures, to paste into a document."""
    grids = [*contents.tables, *contents.per_class, *contents.costs]
    lines = [f"`{contents.about.command}`", "", *(f"{what}: {value}." for what, value in contents.about.facts), ""]
    lines += [f"{grid.markdown()}" for grid in grids if grid.columns]
    if contents.failed:
        lines += ["**Cells without a result**", "", *(f"- {cell}: {why}" for cell, why in contents.failed), ""]
    lines += [
        *(f"Not comparable: {warning}" for warning in contents.warnings),
        *(f"{note}\n" for note in contents.notes),
        RULE,
    ]
    return "\n".join(lines) + "\n"


def _on_samplers(part: Part) -> str | None:
    """A word on methods that were drawn by different samplers, which goes with their base models."""
    samplers = part.samplers
    if len(set(samplers.values())) < 2:
        return None
    each = ", ".join(f"{method} by {sampler}" for method, sampler in samplers.items())
    return f"Every model is drawn by the sampler it came with, in as many steps with as much guidance: {each}."


def _json(outcomes: Sequence[Outcome], contents: Contents) -> dict[str, Any]:
    return {
        "name": contents.about.name,
        "command": contents.about.command,
        "config": dict(contents.about.config),
        "facts": dict(contents.about.facts),
        "tables": [asdict(grid) for grid in (*contents.tables, *contents.per_class, *contents.costs)],
        "cells": [
            {
                **asdict(outcome.cell),
                "error": outcome.error,
                "result": None if outcome.result is None else outcome.result.to_dict(),
            }
            for outcome in outcomes
        ],
    }


def _curves(part: Part) -> Iterable[Figure]:
    names = dict.fromkeys(
        name for outcome in part.finished if outcome.result is not None for name in outcome.result.curves
    )
    for name in names:
        if name in _HIDDEN:
            continue
        by_step, by_time = [], []
        for method, found in part.outcomes.items():
            held = [outcome.result for outcome in found if outcome.result is not None and name in outcome.result.curves]
            if not held:
                continue
            mean = mean_curve([result.curves[name] for result in held])
            by_step.append(Series(name=method, points=mean))
            times = [result.cost.seconds_per_step for result in held if result.cost.seconds_per_step]
            if times:
                pace = float(np.median(times))
                by_time.append(Series(name=method, points=tuple((x * pace, y) for x, y in mean)))
        for series, across in ((by_step, "step"), (by_time, "seconds of steps")):
            if body := loss_curve(series, across=across):
                yield Figure(title=f"{name}: {part.title}, mean over seeds, by {across}", body=body)


def _sheet(part: Part, count: int) -> Sheet | None:
    first = next(part.finished, None)
    if first is None or first.result is None or not first.result.pictures:
        return None
    stems = list(spread(list(first.result.pictures), count))
    columns: list[tuple[str, Path, Mapping[str, str]]] = [("real", first.folder, first.result.real)]
    for method, found in part.outcomes.items():
        done = next((outcome for outcome in found if outcome.result is not None), None)
        if done is not None and done.result is not None:
            columns.append((f"{method}, seed {done.cell.seed}", done.folder, done.result.pictures))
    rows = [(stem, tuple(_picture(folder, files.get(stem)) for _, folder, files in columns)) for stem in stems]
    return Sheet(title=part.title, columns=tuple(name for name, _, _ in columns), rows=tuple(rows))


def _copies(part: Part) -> Iterable[tuple[str, str]]:
    for method, found in part.outcomes.items():
        done = next((o for o in found if o.result is not None and o.result.copies is not None), None)
        if done is None or done.result is None:
            continue
        uri = _picture(done.folder, done.result.copies, widest=10_000)
        if uri is not None:
            yield f"{method}, seed {done.cell.seed}: {part.title}", uri


def _picture(folder: Path, name: str | None, widest: int = _WIDEST) -> str | None:
    """A picture as a data URI; None when it is no longer there."""
    if name is None or not (folder / name).is_file():
        return None
    image = Image.fromarray(read_picture(folder / name))
    if image.width > widest:
        image = image.resize((widest, max(1, round(image.height * widest / image.width))), Image.Resampling.LANCZOS)
    return jpeg_uri(np.asarray(image))
