"""Layout fidelity from readings: counts of every picture, and the scores they sum to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float64, UInt8

from mamoe.evaluation.distances.family import Measured
from mamoe.evaluation.intervals import Layouts
from mamoe.evaluation.layout.asked import Classes, Layout
from mamoe.evaluation.layout.panoptic_quality import Reading, panoptic_counts, panoptic_quality
from mamoe.evaluation.ratios import measured_of_sums, ratio

RECALLED = 0.5  # share of an instance's pixels that must be read as its class
SIZES = ((0, 1), (1, 4), (4, 16), (16, 64), (64, np.inf))  # of an instance, in latent cells

_EMPTY = "no pixel of it in the maps"
_UNKNOWN = "the segmenter does not know this class"


def pixel_counts(
    labels: UInt8[np.ndarray, "H W"], wanted: UInt8[np.ndarray, "H W"], num_classes: int
) -> Float64[np.ndarray, "3 K"]:
    """Pixels of every class read rightly, wanted, and read; those whose wanted class is void are left out."""
    known = wanted < num_classes
    seen, asked = labels[known], wanted[known]
    sizes = (seen[seen == asked], asked, seen)
    return np.stack([np.bincount(ids, minlength=256)[:num_classes] for ids in sizes]).astype(np.float64)


def iou(counts: Float64[np.ndarray, "*B 3 K"]) -> Float64[np.ndarray, "*B K"]:
    """Intersection over union of every class from pixel counts; nan for a class neither wanted nor read."""
    right, wanted, seen = np.moveaxis(counts, -2, 0)
    union = wanted + seen - right
    return np.divide(right, union, out=np.full(right.shape, np.nan), where=union > 0)


def fidelity(
    readings: Sequence[Reading],
    layouts: Sequence[Layout],
    classes: Classes,
    *,
    unknown: frozenset[int] = frozenset(),
    cell: int = 8,
    seed: int = 0,
    numbers: Layouts = None,
) -> dict[str, Measured]:
    """mIoU, pixel accuracy, PQ, IoU of every class, and recall of instances by size; each with its interval.

    mIoU and PQ are means over the classes that are wanted or read, as torchmetrics has them. An instance (a segment of
    a thing) is recalled when at least half of its pixels are read as its class.

    Args:
        readings: of pictures.
        layouts: what the pictures should show, as many and of the same sizes.
        classes: of the data set.
        unknown: numbers of classes the segmenter does not know; their IoU is n/a and not in the means.
        cell: pixels per side of a latent cell.
        seed: of the intervals.
        numbers: which of ``layouts`` are one; see :data:`mamoe.evaluation.intervals.Layouts`.

    Raises:
        ValueError: a reading and its map differ in size.
    """
    pixels, segments, instances = [], [], []
    for reading, layout in zip(readings, layouts, strict=True):
        wanted = classes.numbers(layout.panoptic)
        ids = layout.panoptic.segment_id
        counts = panoptic_counts(reading, wanted, ids, things=classes.things, num_classes=len(classes))
        segments.append(counts)
        pixels.append(pixel_counts(reading.labels, wanted, len(classes)))
        instances.append(_recalls(reading, layout, classes, cell))
    heard = np.array([number not in unknown for number in range(len(classes))])
    pixel, segment, recall = np.stack(pixels), np.stack(segments), np.stack(instances)

    def miou(sums: np.ndarray) -> np.ndarray:
        return _mean(iou(sums)[..., heard])

    def accuracy(sums: np.ndarray) -> np.ndarray:
        return ratio(sums[..., :2, :].sum(axis=-1))

    def pq(sums: np.ndarray) -> np.ndarray:
        return _mean(panoptic_quality(sums)[..., heard])

    nothing = "the maps hold no class the segmenter knows"
    found = {
        "mIoU": measured_of_sums(pixel, miou, absent=nothing, seed=seed, layouts=numbers),
        "pixel accuracy": measured_of_sums(pixel, accuracy, absent=nothing, seed=seed, layouts=numbers),
        "PQ": measured_of_sums(segment, pq, absent=nothing, seed=seed, layouts=numbers),
    }
    found |= class_ious(pixel, classes, unknown=unknown, seed=seed, numbers=numbers)
    for place, (low, high) in enumerate(SIZES):
        found[f"recall {_range(low, high)} cells"] = measured_of_sums(
            recall[:, place], ratio, absent="no instance of this size in the maps", seed=seed, layouts=numbers
        )
    return found


def class_ious(
    pixels: Float64[np.ndarray, "n 3 K"],
    classes: Classes,
    *,
    unknown: frozenset[int] = frozenset(),
    seed: int = 0,
    numbers: Layouts = None,
) -> dict[str, Measured]:
    """IoU/<class> of every class from the pixel counts of every picture; n/a for one that no map holds."""
    found = {}
    for number, name in enumerate(classes.names):
        if number in unknown or not pixels[:, 1, number].any():
            found[f"IoU/{name}"] = Measured(value=None, missing=_UNKNOWN if number in unknown else _EMPTY)
        else:
            column = pixels[:, :, [number]]
            found[f"IoU/{name}"] = measured_of_sums(
                column, lambda sums: iou(sums)[..., 0], absent=_EMPTY, seed=seed, layouts=numbers
            )
    return found


def mean_iou(counts: Float64[np.ndarray, "*B 3 K"]) -> Float64[np.ndarray, "*B"]:
    """Mean of :func:`iou` over the classes that have one."""
    return _mean(iou(counts))


def names_of(classes: Classes) -> tuple[str, ...]:
    """The scores of :func:`fidelity`, in order."""
    sizes = [f"recall {_range(low, high)} cells" for low, high in SIZES]
    return ("mIoU", "pixel accuracy", "PQ", *(f"IoU/{name}" for name in classes.names), *sizes)


def absent(names: Sequence[str], why: str) -> Mapping[str, Measured]:
    """Every name with the same reason for having no value."""
    return {name: Measured(value=None, missing=why) for name in names}


def _recalls(reading: Reading, layout: Layout, classes: Classes, cell: int) -> Float64[np.ndarray, "S 2"]:
    """Instances recalled and instances, by size."""
    ids = layout.panoptic.segment_id
    areas = np.bincount(ids.ravel())
    right = np.bincount(ids[reading.labels == classes.numbers(layout.panoptic)], minlength=len(areas))
    counts = np.zeros((len(SIZES), 2))
    for segment, class_id in layout.panoptic.classes.items():
        if int(classes.number_of_id[class_id]) in classes.things:
            cells = areas[segment] / cell**2
            place = next(place for place, (low, high) in enumerate(SIZES) if low <= cells < high)
            counts[place] += right[segment] >= RECALLED * areas[segment], 1
    return counts


def _mean(values: np.ndarray) -> np.ndarray:
    """Over the last axis, without nan; nan where all are."""
    known = np.isfinite(values)
    count = known.sum(axis=-1)
    total = np.where(known, values, 0).sum(axis=-1)
    return np.divide(total, count, out=np.full(np.shape(total), np.nan), where=count > 0)


def _range(low: float, high: float) -> str:
    return f"from {low:g}" if np.isinf(high) else f"{low:g} to {high:g}"
