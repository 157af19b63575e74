"""Pictures of panoptic maps for people, and the borders in them."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Integer, UInt8

from mamoe.vocabulary.panoptic import PanopticMap
from mamoe.vocabulary.taxonomy import Taxonomy

_BORDER = 0.45  # brightness of the line around an instance


_VARIATION = 0.35  # how much darker an instance may be than its class colour


def colourize(panoptic: PanopticMap, taxonomy: Taxonomy, borders: bool = True) -> UInt8[np.ndarray, "H W 3"]:
    """A picture of the map for people: class colours, each instance of a thing a little darker or lighter.

    Args:
        panoptic: the map [H W].
        taxonomy: gives the colours; void and unknown classes are black.
        borders: darken the pixels where a thing's segment meets another one.
    """
    thing = np.array([row.is_thing for row in taxonomy.classes])
    things = np.isin(panoptic.class_id, np.array([row.id for row in taxonomy.classes], dtype=np.uint8)[thing])
    # Steps of the golden ratio keep neighbouring ids apart in brightness however many there are.
    spread = 1.0 - _VARIATION * ((panoptic.segment_id * 0.618034) % 1.0)
    brightness = np.where(things & (panoptic.segment_id > 0), spread, 1.0)
    if borders:
        brightness[borders_of(panoptic.segment_id) & things] = _BORDER
    return (taxonomy.palette[panoptic.class_id] * brightness[..., None]).round().astype(np.uint8)


def borders_of(ids: Integer[np.ndarray, "H W"]) -> Bool[np.ndarray, "H W"]:
    """The pixels beside, above or below one of another id: a line two pixels wide."""
    edges = np.zeros(ids.shape, dtype=bool)
    across = ids[:, 1:] != ids[:, :-1]
    down = ids[1:] != ids[:-1]
    edges[:, 1:] |= across
    edges[:, :-1] |= across
    edges[1:] |= down
    edges[:-1] |= down
    return edges
