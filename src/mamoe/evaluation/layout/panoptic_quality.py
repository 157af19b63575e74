"""Panoptic quality (Kirillov et al., "Panoptic Segmentation", 2019), from counts that add up over pictures.

PQ of a class = sum of the matched segments' IoU / (TP + FP/2 + FN/2); segments match where their IoU is above 1/2,
which makes matches unique. Equal to torchmetrics' ``panoptic_quality``, which keeps no counts of single pictures and
so has no intervals.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int32, UInt8

_MATCH = 0.5
_SEGMENTS = 1 << 16  # more than any picture has
VOID = 255  # class of pixels without one, in readings and in maps brought to class numbers


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Reading:
    """What a segmenter sees in a picture, in class numbers."""

    labels: UInt8[np.ndarray, "H W"]  # the likeliest class of every pixel; VOID: none of the taxonomy
    class_id: UInt8[np.ndarray, "H W"]  # of the segment a pixel belongs to; VOID: it belongs to none
    segment_id: Int32[np.ndarray, "H W"]  # instances of things, in [0, 65535]; ignored for stuff


def panoptic_counts(
    reading: Reading,
    class_id: UInt8[np.ndarray, "H W"],
    segment_id: Int32[np.ndarray, "H W"],
    *,
    things: Collection[int],
    num_classes: int,
) -> Float64[np.ndarray, "4 K"]:
    """Sum of IoU, true positives, false positives and false negatives of every class in one picture.

    Args:
        reading: of the picture.
        class_id: what the picture should show; ids of ``num_classes`` and above are void.
        segment_id: its segments; ignored for stuff.
        things: classes whose segments count one by one; a stuff class is one segment.
        num_classes: K.

    Raises:
        ValueError: reading and map differ in size.
    """
    if reading.class_id.shape != class_id.shape:
        raise ValueError(f"A reading {reading.class_id.shape} and a map {class_id.shape} differ in size.")
    seen = _colours(reading.class_id, reading.segment_id, things, num_classes)
    wanted = _colours(class_id, segment_id, things, num_classes)
    seen_area, wanted_area = _areas(seen), _areas(wanted)
    pairs, areas = np.unique(np.stack([seen.ravel(), wanted.ravel()]), axis=1, return_counts=True)
    both = {(int(s), int(w)): int(area) for (s, w), area in zip(pairs.T, areas, strict=True)}
    void = num_classes * _SEGMENTS

    counts = np.zeros((4, num_classes))
    matched_seen, matched_wanted = {void}, {void}
    for (s, w), area in both.items():
        if w == void or s // _SEGMENTS != w // _SEGMENTS:
            continue
        union = seen_area[s] - both.get((s, void), 0) + wanted_area[w] - both.get((void, w), 0) - area
        if area / union > _MATCH:
            counts[:2, w // _SEGMENTS] += area / union, 1
            matched_seen.add(s)
            matched_wanted.add(w)
    for s in seen_area.keys() - matched_seen:
        counts[2, s // _SEGMENTS] += both.get((s, void), 0) / seen_area[s] <= _MATCH
    for w in wanted_area.keys() - matched_wanted:
        counts[3, w // _SEGMENTS] += both.get((void, w), 0) / wanted_area[w] <= _MATCH
    return counts


def panoptic_quality(counts: Float64[np.ndarray, "*B 4 K"]) -> Float64[np.ndarray, "*B K"]:
    """PQ of every class in [0, 1] from counts summed over pictures; nan for a class in neither maps nor readings."""
    iou, tp, fp, fn = np.moveaxis(counts, -2, 0)
    weight = tp + 0.5 * (fp + fn)
    return np.divide(iou, weight, out=np.full(iou.shape, np.nan), where=weight > 0)


def _colours(class_id: np.ndarray, segment_id: np.ndarray, things: Collection[int], num_classes: int) -> np.ndarray:
    """One number per segment: class * 65536 + instance, the instance 0 for stuff and void."""
    known = np.minimum(class_id, num_classes).astype(np.int64)
    countable = np.isin(class_id, np.array(sorted(things), dtype=np.uint8))
    return known * _SEGMENTS + np.where(countable, segment_id, 0)


def _areas(colours: np.ndarray) -> dict[int, int]:
    values, counts = np.unique(colours, return_counts=True)
    return {int(value): int(count) for value, count in zip(values, counts, strict=True)}
