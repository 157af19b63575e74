"""The page of a check: one HTML file that needs nothing else; pictures are inside it, every text is escaped."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import jinja2
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from mamoe.console import visible
from mamoe.data.folder.split import SampleFiles
from mamoe.data.reading.pictures import read_picture
from mamoe.errors import DatasetError
from mamoe.pages.embedding import Picture, jpeg_uri
from mamoe.prepare.doctor.cells import LEVELS
from mamoe.prepare.doctor.examine import Diagnosis
from mamoe.prepare.doctor.findings import Finding
from mamoe.vocabulary.colourize import borders_of, colourize
from mamoe.vocabulary.panoptic import PanopticMap, read_panoptic_rgb
from mamoe.vocabulary.taxonomy import Taxonomy

_SHOWN, _OF_ONE_KIND = 12, 2  # findings with pictures
_LISTED = 200  # findings of one severity in the table
_SIDE = 480  # of a picture on the page
_MARK = (255, 0, 200)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Shown:
    """A finding in pictures."""

    finding: Finding
    picture: Picture
    overlay: Picture  # the map over the picture, its borders, and a cross where the fault is


@dataclass(frozen=True, kw_only=True, slots=True)
class Bar:
    """One row of a histogram."""

    name: str
    colour: str  # CSS
    pixels: float  # shares in [0, 1]
    cells: tuple[float, ...]  # by level


def render_page(diagnosis: Diagnosis) -> str:
    """The page as HTML."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("mamoe.commands.check", "."), autoescape=True, undefined=jinja2.StrictUndefined
    )
    environment.filters |= {"jpeg": jpeg_uri, "zip": zip}
    return environment.get_template("page.html.j2").render(
        diagnosis=diagnosis,
        groups=_groups(diagnosis.findings),
        most=_LISTED,
        shown=list(_shown(diagnosis)),
        samples=list(_good(diagnosis)),
        bars=_bars(diagnosis),
        sides=[8 << level for level in range(LEVELS)],
        lost=[int(n) for n in diagnosis.cells.vanishing.sum(axis=1)],
    )


def _groups(findings: Sequence[Finding]) -> list[tuple[str, list[Finding]]]:
    names = dict.fromkeys(finding.severity.value for finding in findings)
    return [(name, [one for one in findings if one.severity.value == name]) for name in names]


def _bars(diagnosis: Diagnosis) -> list[Bar]:
    report, shares = diagnosis.report, diagnosis.cells.shares()
    pixels = sum((c.pixels for c in report.splits.values()), np.zeros(256, dtype=np.int64))
    total = max(1, int(pixels.sum()))
    rows = [
        Bar(
            name=row.name,
            colour=f"rgb{row.colour}",
            pixels=float(pixels[row.id] / total),
            cells=tuple(shares[:, row.id].tolist()),
        )
        for row in report.taxonomy.classes
    ]
    return sorted((row for row in rows if row.pixels), key=lambda row: -row.pixels)


def _shown(diagnosis: Diagnosis) -> Iterator[Shown]:
    """The first few findings of every kind that have a picture."""
    pair_of = {file: s for samples in diagnosis.samples.values() for s in samples for file in (s.image, s.panoptic)}
    told: dict[str, int] = {}
    for finding in diagnosis.findings:
        sample = None if finding.file is None else pair_of.get(finding.file)
        if sample is None or told.get(finding.kind, 0) >= _OF_ONE_KIND or sum(told.values()) >= _SHOWN:
            continue
        pictures = _pictures(sample, diagnosis.report.taxonomy, finding)
        if pictures is not None:
            told[finding.kind] = told.get(finding.kind, 0) + 1
            yield Shown(finding=finding, picture=pictures[0], overlay=pictures[1])


def _good(diagnosis: Diagnosis) -> Iterator[tuple[str, Picture]]:
    """The first pair of every split, so that people see whether maps and pictures belong together."""
    for split, samples in diagnosis.samples.items():
        pictures = _pictures(samples[0], diagnosis.report.taxonomy) if samples else None
        if pictures is not None:
            yield visible(f"{split}: {samples[0].key}"), pictures[1]


def _pictures(
    sample: SampleFiles, taxonomy: Taxonomy, finding: Finding | None = None
) -> tuple[Picture, Picture] | None:
    """The picture, and the map over it; None where a file cannot be read, which the findings say."""
    if sample.panoptic is None:
        return None
    try:
        picture, rgb = read_picture(sample.image), read_panoptic_rgb(sample.panoptic)
    except DatasetError:
        return None
    step = max(1, -(-max(rgb.shape[:2]) // _SIDE))
    small = rgb[step // 2 :: step, step // 2 :: step]
    size = (small.shape[1], small.shape[0])
    picture = np.array(Image.fromarray(picture).resize(size, Image.Resampling.BOX))
    overlay = _over(picture, small, taxonomy, None if finding is None else finding.segment)
    if finding is not None and finding.position is not None:
        _cross(overlay, finding.position[0] // step, finding.position[1] // step)
    return picture, overlay


def _over(picture: Picture, rgb: UInt8[np.ndarray, "H W 3"], taxonomy: Taxonomy, segment: int | None) -> Picture:
    # A segment of two classes is no panoptic map: each colour is a segment here, whatever its class.
    ids = rgb[..., 0].astype(np.int32) << 8 | rgb[..., 1]
    colours = ids << 8 | rgb[..., 2]
    known = np.unique(colours, return_inverse=True)[1].reshape(ids.shape).astype(np.int32)
    if known.max() > 0xFFFF:
        known = known % 0x10000
        painted = taxonomy.palette[rgb[..., 2]]
    else:
        painted = colourize(PanopticMap(segment_id=known + 1, class_id=np.ascontiguousarray(rgb[..., 2])), taxonomy)
    over = (0.5 * picture + 0.5 * painted).astype(np.uint8)
    over[borders_of(colours)] = (255, 255, 255)
    if segment is not None:
        over[borders_of((ids == segment).astype(np.uint8))] = _MARK
    return over


def _cross(picture: Picture, row: int, column: int) -> None:
    picture[max(0, row - 1) : row + 2, max(0, column - 14) : column + 15] = _MARK
    picture[max(0, row - 14) : row + 15, max(0, column - 1) : column + 2] = _MARK
