"""How far labels agree with the class maps: pixel accuracy and intersection over union."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64, Int64, UInt8


def confusion(
    predicted: Sequence[UInt8[np.ndarray, "_ _"]], wanted: Sequence[UInt8[np.ndarray, "_ _"]], num_classes: int
) -> Int64[np.ndarray, "K K"]:
    """Pixel counts [wanted class, predicted class] over all pictures; pixels whose wanted class is void are left out.

    Args:
        predicted: labels in [0, num_classes).
        wanted: class maps of the same sizes; ids of ``num_classes`` and above are void.

    Raises:
        ValueError: as many labels as maps of equal sizes are wanted, or a predicted label is out of range.
    """
    if len(predicted) != len(wanted):
        raise ValueError(f"Labels and class maps must be as many, got {len(predicted)} and {len(wanted)}.")
    counts = np.zeros((num_classes, num_classes), dtype=np.int64)
    for number, (labels, classes) in enumerate(zip(predicted, wanted, strict=True)):
        if labels.shape != classes.shape:
            raise ValueError(f"Picture {number}: labels {labels.shape} and class map {classes.shape} differ in size.")
        if labels.max(initial=0) >= num_classes:
            raise ValueError(f"Picture {number}: labels must be below {num_classes}, got {labels.max()}.")
        known = classes < num_classes
        pairs = classes[known].astype(np.int64) * num_classes + labels[known]
        counts += np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)
    return counts


def pixel_accuracy(confusion: Int64[np.ndarray, "K K"]) -> float:
    """The share of pixels labelled as wanted, in [0, 1]; nan without pixels."""
    total = int(confusion.sum())
    return int(confusion.trace()) / total if total else math.nan


def class_iou(confusion: Int64[np.ndarray, "K K"]) -> Float64[np.ndarray, "K"]:
    """Intersection over union of every class, in [0, 1]; nan for a class neither wanted nor predicted."""
    both = confusion.diagonal().astype(np.float64)
    either = confusion.sum(axis=0) + confusion.sum(axis=1) - both
    return np.divide(both, either, out=np.full(len(both), np.nan), where=either > 0)
