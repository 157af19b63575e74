"""Condition pictures: what methods with a picture input (ControlNet-XS, concatenation) are shown.

They are drawn from the panoptic map, after the geometry, or come from a folder of pictures.
"""

from __future__ import annotations

from enum import StrEnum

import numpy as np
from jaxtyping import UInt8

from mamoe.vocabulary.colourize import borders_of
from mamoe.vocabulary.panoptic import PanopticMap
from mamoe.vocabulary.taxonomy import Taxonomy


class Drawn(StrEnum):
    """Condition pictures that are drawn from the panoptic map."""

    CLASSES = "classes"  # every pixel in the colour of its class, instances not told apart
    EDGES = "edges"  # white where a segment or a class meets another, black elsewhere


def drawn_kind(condition: str | None) -> Drawn | None:
    """The kind of drawing a setting names; None where it names a folder or nothing."""
    return Drawn(condition) if condition in list(Drawn) else None


def drawn_condition(panoptic: PanopticMap, taxonomy: Taxonomy, kind: Drawn) -> UInt8[np.ndarray, "H W 3"]:
    """The condition picture of a map, RGB. Void is black among the classes. Mirroring the map mirrors the picture."""
    if kind is Drawn.CLASSES:
        return taxonomy.palette[panoptic.class_id]
    edges = borders_of(panoptic.segment_id) | borders_of(panoptic.class_id)
    return np.repeat(np.where(edges, 255, 0).astype(np.uint8)[..., None], 3, axis=2)
