"""Maps of classes alone: connected areas of a thing class are taken for instances."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int32, UInt8

from mamoe.prepare.annotations import connected_components
from mamoe.vocabulary.panoptic import PanopticMap
from mamoe.vocabulary.taxonomy import Taxonomy

LEAST_PIXELS = 32  # smaller pieces of a thing keep their class but are no instance


def panoptic_from_class_index(
    class_index: Int32[np.ndarray, "H W"] | UInt8[np.ndarray, "H W"], taxonomy: Taxonomy
) -> PanopticMap:
    """Connected areas of a thing class become instances, every stuff class one segment; void has segment 0."""
    class_id = class_index.astype(np.uint8)
    things = [row.id for row in taxonomy.classes if row.is_thing]
    area = connected_components(class_id, things)
    large = np.bincount(area.ravel()) >= LEAST_PIXELS
    large[0] = False
    number = np.where(large, np.cumsum(large), 0).astype(np.int32)
    segment_id = number[area]
    stuff = [row.id for row in taxonomy.classes if not row.is_thing and (class_id == row.id).any()]
    for segment, stuff_id in enumerate(stuff, start=int(large.sum()) + 1):
        segment_id[class_id == stuff_id] = segment
    return PanopticMap(segment_id=segment_id, class_id=class_id)
