"""Layout scores as families: what each row's pictures show of the maps they were made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol as Shape

import numpy as np
from jaxtyping import Float64

from mamoe.data.geometry.joint import Geometry
from mamoe.errors import DatasetError
from mamoe.evaluation.distances.family import Measured
from mamoe.evaluation.features.store import read_through
from mamoe.evaluation.layout.asked import Classes, Layout, check_sizes
from mamoe.evaluation.layout.attributes import MIN_AREA, colour_hits, named_colours
from mamoe.evaluation.layout.fidelity import RECALLED, absent, fidelity, names_of
from mamoe.evaluation.layout.panoptic_quality import Reading
from mamoe.evaluation.layout.text_regions import TextRegions
from mamoe.evaluation.protocol import Better, Family, PictureSet, Protocol, Score, hash_of_names, library_versions
from mamoe.evaluation.ratios import measured_of_sums, ratio

COLOURS, TEXT = "colour hits", "text agreement"


class Segmenting(Shape):
    """What reads pictures: the domain's own network or one from transformers."""

    @property
    def identity(self) -> str: ...

    def read(self, images: Sequence[np.ndarray]) -> list[Reading]: ...


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Asked:
    """What the pictures were made from."""

    layouts: Mapping[str, Layout]  # picture's name without its ending -> layout at the picture's size
    classes: Classes
    reference: str  # hash of the pictures and maps, and of prompts that are not the data set's
    geometry: Geometry | None  # what pictures go through before they are looked at
    elsewhere: Mapping[str, str]  # rows of pictures that were not made from these layouts -> the reason to give

    def why_not(self, row: PictureSet) -> str | None:
        """Why a row has no layout scores."""
        return row.missing or self.elsewhere.get(row.label)

    def of(self, row: PictureSet) -> list[Layout]:
        """The layouts of a row's pictures, in order.

        Raises:
            DatasetError: pictures without a map.
        """
        strange = [
            path.name for path, name in zip(row.paths, row.layout_names, strict=True) if name not in self.layouts
        ]
        if strange:
            raise DatasetError(
                f"{len(strange)} of {len(row.paths)} pictures of {row.label!r} have no map, such as {strange[0]}. "
                "Maps and pictures belong together by their names without endings."
            )
        return [self.layouts[name] for name in row.layout_names]

    def pictures(self, row: PictureSet) -> list[np.ndarray]:
        """A row's pictures u8, of the sizes of their maps.

        Raises:
            DatasetError: a picture cannot be read, or has another size than its map.
        """
        images = [read_through(path, self.geometry) for path in row.paths]
        try:
            check_sizes(images, self.of(row))
        except ValueError as error:
            raise DatasetError(f"{row.label}: {error}") from None
        return images

    def score(self, row: PictureSet, name: str, measured: Measured, *, method: str, extractor: str | None) -> Score:
        """A measured value with its protocol; higher is better."""
        protocol = Protocol(
            name=method,
            extractor=extractor,
            preprocessing=None if self.geometry is None else str(self.geometry),
            reference=self.reference,
            images=hash_of_names(row.names),
            generation=row.generation,
            versions=library_versions(),
        )
        return measured.as_score(name, Better.HIGHER, len(row.paths), protocol)


def fidelity_family(
    asked: Asked,
    segmenter: Segmenting,
    title: str,
    *,
    instances: str,
    unknown: frozenset[int] = frozenset(),
    seed: int = 0,
) -> Family:
    """mIoU, pixel accuracy, PQ, IoU per class and recall by instance size of a segmenter's reading.

    Args:
        asked: what the pictures were made from.
        segmenter: reads them.
        title: what the scores are called after, e.g. ``domain``: "mIoU-domain".
        instances: where the readings' instances come from, for the protocol.
        unknown: numbers of classes the segmenter does not know.
        seed: of the intervals.
    """

    def family(row: PictureSet) -> Sequence[Score]:
        why = asked.why_not(row)
        if why is None:
            readings = segmenter.read(asked.pictures(row))
            found = fidelity(
                readings, asked.of(row), asked.classes, unknown=unknown, seed=seed, numbers=row.layout_numbers
            )
        else:
            found = absent(names_of(asked.classes), why)
        return [
            asked.score(
                row,
                f"{name}-{title}",
                measured,
                method=_method(name, instances),
                extractor=segmenter.identity,
            )
            for name, measured in found.items()
        ]

    return family


def colour_family(
    asked: Asked, vocabulary: Mapping[str, Float64[np.ndarray, "3"]], learned_from: str, *, seed: int = 0
) -> Family:
    """The share of instances, among those whose prompt names a colour, that show it.

    Args:
        asked: what the pictures were made from.
        vocabulary: what the words look like; empty gives n/a.
        learned_from: hash of the pictures that say so.
        seed: of the intervals.
    """

    def family(row: PictureSet) -> Sequence[Score]:
        why = asked.why_not(row)
        if why is None and not vocabulary:
            why = "the training prompts name fewer than two colours"
        if why is None:
            hits = []
            for image, layout in zip(asked.pictures(row), asked.of(row), strict=True):
                rate = colour_hits(
                    [image], [layout.panoptic], [named_colours(layout.prompts, list(vocabulary))], vocabulary
                )
                hits.append((rate.hits, rate.n))
            measured = measured_of_sums(
                np.array(hits), ratio, absent="no prompt names a colour", seed=seed, layouts=row.layout_numbers
            )
        else:
            measured = Measured(value=None, missing=why)
        method = f"share of instances of {MIN_AREA} pixels or more whose mean colour is nearest to its word's"
        return [asked.score(row, COLOURS, measured, method=method, extractor=f"colours learned from {learned_from}")]

    return family


def text_family(asked: Asked, clip: TextRegions | None, *, seed: int = 0) -> Family:
    """CLIP's agreement of instances with their prompts; n/a without CLIP."""

    def family(row: PictureSet) -> Sequence[Score]:
        why = asked.why_not(row) or ("no CLIP is given; see --clip" if clip is None else None)
        if why is None and clip is not None:
            sums = clip(asked.pictures(row), asked.of(row))
            measured = measured_of_sums(
                sums, ratio, absent="no instance has a prompt", seed=seed, layouts=row.layout_numbers
            )
        else:
            measured = Measured(value=None, missing=why)
        method = f"mean cosine of cut-out and prompt, instances of {MIN_AREA} pixels or more"
        identity = None if clip is None else clip.identity
        return [asked.score(row, TEXT, measured, method=method, extractor=identity)]

    return family


def _method(name: str, instances: str) -> str:
    if name == "PQ":
        return f"panoptic quality; instances: {instances}"
    if name.startswith("recall"):
        return f"share of instances with {RECALLED:.0%} of their pixels read as their class"
    if name == "pixel accuracy":
        return "share of pixels read as their class, void left out"
    return "intersection over union of classes, void left out"
