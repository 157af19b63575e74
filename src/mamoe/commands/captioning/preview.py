"""A page of crops and answers, to look at before money is spent. One HTML file that needs nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2

from mamoe.pages.embedding import Picture, jpeg_uri
from mamoe.storage.staging import write_whole


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Row:
    """One item."""

    name: str
    picture: Picture | None  # as the model is shown it; None where it cannot be read
    before: str  # the text that is there
    answer: str | None  # None: not asked
    fault: str | None  # why the answer does not serve


@dataclass(frozen=True, kw_only=True, slots=True)
class Preview:
    """Everything the page says."""

    title: str
    facts: Sequence[tuple[str, str]]
    system: str
    prompt: str
    rows: Sequence[Row]


def write_preview(preview: Preview, path: Path) -> None:
    """Write the page, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(render_preview(preview), path)


def render_preview(preview: Preview) -> str:
    """The page as HTML; pictures are inside it, and every text is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("mamoe.commands.captioning", "."), autoescape=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["jpeg"] = jpeg_uri
    return environment.get_template("preview.html.j2").render(preview=preview)
