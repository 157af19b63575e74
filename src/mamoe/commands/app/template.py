"""A layout to begin with: what most maps of a data set have at every place."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from mamoe.vocabulary.panoptic import PanopticMap, resized_panoptic
from mamoe.vocabulary.taxonomy import Taxonomy

MOST_MAPS = 128  # more would change little; their counts fit u8


def mean_layout(maps: Iterable[PanopticMap], size: tuple[int, int], taxonomy: Taxonomy) -> PanopticMap:
    """Every pixel has the stuff that most of the maps have there, in one segment a class; void where none has any.

    Things are left out: where they are differs from map to map, and they are what people paint.

    Args:
        maps: at most ``MOST_MAPS`` of them, of any sizes.
        size: (H, W) of the result in pixels.
        taxonomy: says which classes are stuff; on a tie the one it names first wins.
    """
    stuff = [row.id for row in taxonomy.classes if not row.is_thing]
    counts = np.zeros((len(stuff), *size), dtype=np.uint8)
    for panoptic in maps:
        class_id = resized_panoptic(panoptic, size).class_id
        for number, wanted in enumerate(stuff):
            counts[number] += class_id == wanted
    if not stuff:
        counts, stuff = np.zeros((1, *size), dtype=np.uint8), [taxonomy.void_id]
    some = counts.any(axis=0)
    class_id = np.where(some, np.array(stuff, dtype=np.uint8)[counts.argmax(axis=0)], np.uint8(taxonomy.void_id))
    present = [wanted for wanted in stuff if (class_id[some] == wanted).any()]
    number_of_class = np.zeros(256, dtype=np.int32)
    number_of_class[present] = np.arange(1, len(present) + 1)
    return PanopticMap(segment_id=np.where(some, number_of_class[class_id], 0).astype(np.int32), class_id=class_id)
