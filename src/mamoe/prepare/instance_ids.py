"""Maps of one number a pixel that is a label, or label * divisor + number where single things are told apart."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
from jaxtyping import Int32

from mamoe.prepare.labelled import Labelled
from mamoe.vocabulary.panoptic import PanopticMap
from mamoe.vocabulary.runs import numbers_in
from mamoe.vocabulary.taxonomy import Taxonomy


def panoptic_from_instance_ids(
    ids: Int32[np.ndarray, "H W"],
    class_of: Mapping[int, int],
    taxonomy: Taxonomy,
    *,
    divisor: int = 1000,
    unnumbered: Collection[int] = (),
) -> Labelled:
    """Single things become segments of their own, and so do each stuff class and the unseparated rest of each thing
    class, which is a group; segments are numbered in the order of the ids. Void has segment 0.

    Args:
        ids: from 0.
        class_of: class id by label; every other label is void.
        taxonomy: of the class ids.
        divisor: see above.
        unnumbered: numbers that stand for "no number": the label is not told apart there.
    """
    present = numbers_in(ids)
    class_id = np.full(present[-1] + 1, taxonomy.void_id, dtype=np.uint8)
    segment_id = np.zeros(present[-1] + 1, dtype=np.int32)
    segments: dict[tuple[int, int | None], int] = {}  # by class, and id of the single thing
    for value in present:
        label = label_of(value, divisor)
        if label not in class_of or class_of[label] == taxonomy.void_id:
            continue
        single = value >= divisor and value % divisor not in unnumbered and taxonomy.is_thing(class_of[label])
        key = class_of[label], value if single else None
        class_id[value] = class_of[label]
        segment_id[value] = segments.setdefault(key, len(segments) + 1)
    return Labelled(
        panoptic=PanopticMap(segment_id=np.take(segment_id, ids), class_id=np.take(class_id, ids)),
        groups=frozenset(s for (cls, one), s in segments.items() if one is None and taxonomy.is_thing(cls)),
    )


def label_of(value: int, divisor: int = 1000) -> int:
    """The label of an id."""
    return value if value < divisor else value // divisor
