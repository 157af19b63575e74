"""The pairs of a split, one after another, looked at more closely than a training does at its start."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np

from mamoe.data.folder.split import SampleFiles, SplitFiles
from mamoe.data.reading.looks import CloseMap, ClosePicture, MapLook
from mamoe.errors import DatasetError
from mamoe.prepare.doctor.cells import CellCounter, CellCounts
from mamoe.prepare.doctor.findings import Finding, Severity
from mamoe.prepare.doctor.pixels import PairLook, Trained, look_closely
from mamoe.prepare.doctor.twins import Print
from mamoe.vocabulary.panoptic import read_panoptic_rgb
from mamoe.vocabulary.taxonomy import Taxonomy

_BLENDED = 0.2  # share of blended borders; ids that were never resized smoothly have less than half of it
_MODES = {"1": "black and white alone", "L": "greys alone", "P": "a palette", "CMYK": "printing colours (CMYK)"}
_MOST_PLACES = 50  # maps of which the place of a wrong colour is looked for


@dataclass(kw_only=True, slots=True)
class Gathered:
    """What all splits add up to."""

    cells: CellCounts = field(default_factory=CellCounts)
    prints: list[Print] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    wrong_colour: dict[Path, int] = field(default_factory=dict)  # map -> R << 16 | G << 8 | B of the first wrong one
    latent_cells: int = 0
    vanishing: int = 0  # instances smaller than half a latent cell
    instances: int = 0


class CloserLook:
    """One split's; see :class:`mamoe.data.check.split.Closer`."""

    def __init__(
        self, split: str, files: SplitFiles, taxonomy: Taxonomy, counter: CellCounter, trained: Trained, into: Gathered
    ) -> None:
        self.split, self.counter, self.trained, self.into = split, counter, trained, into
        self.lacking: list[tuple[Path, list[int]]] = []  # maps with segments of things that have no prompt
        self._prompted = files.instance_prompts is not None and any(s.prompts.by_segment for s in files.samples)
        self._things = frozenset(row.id for row in taxonomy.classes if row.is_thing)
        self._known = frozenset(row.id for row in taxonomy.classes) | {taxonomy.void_id}

    @property
    def look(self) -> Callable[[ClosePicture, CloseMap], PairLook]:
        """:func:`look_closely`, which may go to another process."""
        return partial(look_closely, things=self._things, counter=self.counter, trained=self.trained)

    def add(self, sample: SampleFiles, look: MapLook, close: object) -> None:
        """Take a pair in."""
        assert sample.panoptic is not None
        self._note_wrong_colour(sample.panoptic, look)
        if not isinstance(close, PairLook):
            return
        self.into.findings += _findings(sample.image, sample.panoptic, close)
        self.into.prints.append(Print(image=sample.image, split=self.split, thumbnail=close.thumbnail))
        self.into.cells.add_cells(close.cells)
        self.into.latent_cells += close.cells.finest
        self._add_instances(sample, look, close)

    def _add_instances(self, sample: SampleFiles, look: MapLook, close: PairLook) -> None:
        assert sample.panoptic is not None and look.colours is not None
        height, width = self.trained(*look.size)
        scale = height * width / (look.size[0] * look.size[1])
        areas = {
            colour >> 8: (colour & 255, count * scale)
            for colour, count in zip(look.colours.tolist(), look.counts.tolist(), strict=True)
            if colour >> 8 and colour & 255 in self._things
        }
        self.into.cells.add_instances(areas)
        self.into.instances += len(areas)
        self.into.vanishing += sum(area < 32 for _, area in areas.values())
        lacking = sorted(areas.keys() - sample.prompts.by_segment.keys())
        if self._prompted and lacking:
            self.lacking.append((sample.panoptic, lacking))

    def _note_wrong_colour(self, path: Path, look: MapLook) -> None:
        if look.colours is None or len(self.into.wrong_colour) >= _MOST_PLACES:
            return
        mixed = {segment for segment, classes in look.segments.items() if len(classes) > 1}
        rarest = sorted(zip(look.counts.tolist(), look.colours.tolist(), strict=True))
        for _, colour in rarest:
            if colour & 255 not in self._known or colour >> 8 in mixed:
                self.into.wrong_colour[path] = colour
                return


def place_of(path: Path, colour: int) -> tuple[int, int] | None:
    """(row, column) of the first pixel of that colour; None: there is none any more."""
    try:
        rgb = read_panoptic_rgb(path).astype(np.int32)
    except DatasetError:
        return None
    found = np.argwhere((rgb[..., 0] << 16 | rgb[..., 1] << 8 | rgb[..., 2]) == colour)
    return None if not len(found) else (int(found[0, 0]), int(found[0, 1]))


def _findings(image: Path, panoptic: Path, look: PairLook) -> list[Finding]:
    found: list[Finding] = []

    def warn(kind: str, text: str, file: Path, segment: int | None = None) -> None:
        found.append(Finding(severity=Severity.WARNING, kind=kind, text=text, file=file, segment=segment))

    if look.blended is not None and look.blended > _BLENDED:
        warn(
            "blended borders",
            f"{panoptic}: {look.blended:.0%} of the borders have colours between those of their two sides. The map "
            "was resized smoothly or saved with loss; resize ids by nearest, save them as PNG",
            panoptic,
        )
    if look.offset is not None:
        warn("shifted map", f"{panoptic} would fit {image.name} better {look.offset}", panoptic)
    for segment, pieces in look.fragments.items():
        warn(
            "segment in many pieces",
            f"{panoptic}: segment {segment} is a thing in {pieces} pieces; is it several things with one id?",
            panoptic,
            segment,
        )
    if look.is_blank:
        warn("blank picture", f"{image} is of one colour", image)
    if look.mode not in ("RGB", "RGBA"):
        text = f"{image} has {_MODES.get(look.mode, look.mode)}; it is read as RGB, whose colours may differ"
        found.append(Finding(severity=Severity.NOTE, kind="converted colours", text=text, file=image))
    return found


def located_colours(findings: list[Finding], wrong: Mapping[Path, int]) -> list[Finding]:
    """The findings about wrong colours, with the place of the first."""
    places = {path: place_of(path, colour) for path, colour in wrong.items()}
    return [
        replace(one, position=places[one.file]) if one.file in places and one.severity is Severity.PROBLEM else one
        for one in findings
    ]
