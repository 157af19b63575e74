"""Reading and splitting other data sets' label pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int32, UInt8
from PIL import Image

from mamoe.data.panoptic import UNREADABLE
from mamoe.types import DatasetError


def read_index_picture(path: Path) -> Int32[np.ndarray, "H W"]:
    """A label picture with one number per pixel (8 or 16 bits, or a palette).

    Raises:
        DatasetError: the file is missing, damaged, or has several channels.
    """
    try:
        with Image.open(path) as picture:
            if picture.mode not in ("L", "P") and not picture.mode.startswith("I"):
                raise DatasetError(f"{path} must hold one number per pixel, got pixels of the kind {picture.mode!r}.")
            return np.asarray(picture).astype(np.int32)
    except DatasetError:
        raise
    except UNREADABLE as error:
        raise DatasetError(f"Cannot read the annotation {path}: {error}") from None


def connected_components(class_id: UInt8[np.ndarray, "H W"], classes: Sequence[int]) -> Int32[np.ndarray, "H W"]:
    """Number the 8-connected areas of one class each: 1, 2, ... in reading order of their first pixel, 0 elsewhere.

    Each row is cut into runs of one class; runs that touch in neighbouring rows are joined by union-find
    (Rosenfeld and Pfaltz, 1966), so the work in Python grows with the touching runs, not with the pixels.
    """
    wanted = np.isin(class_id, np.array(list(classes), dtype=np.uint8))
    starts = wanted.copy()
    starts[:, 1:] &= (class_id[:, 1:] != class_id[:, :-1]) | ~wanted[:, :-1]
    run = np.cumsum(starts.ravel()).reshape(class_id.shape) - 1

    parent = list(range(int(starts.sum())))
    for a, b in _touching_runs(class_id, wanted, run):
        low, high = sorted((_root(parent, a), _root(parent, b)))
        parent[high] = low

    roots = np.array([_root(parent, i) for i in range(len(parent))], dtype=np.int64)
    number = np.zeros(len(parent) + 1, dtype=np.int32)
    number[1:] = np.unique(roots, return_inverse=True)[1] + 1
    return number[np.where(wanted, run + 1, 0)]


def _touching_runs(class_id: np.ndarray, wanted: np.ndarray, run: np.ndarray) -> list[list[int]]:
    pairs = []
    width = class_id.shape[1]
    for shift in (-1, 0, 1):
        upper = (slice(None, -1), slice(max(0, -shift), width - max(0, shift)))
        lower = (slice(1, None), slice(max(0, shift), width - max(0, -shift)))
        touch = wanted[upper] & wanted[lower] & (class_id[upper] == class_id[lower])
        pairs.append(np.stack([run[upper][touch], run[lower][touch]], axis=1))
    return np.unique(np.concatenate(pairs), axis=0).tolist()


def _root(parent: list[int], i: int) -> int:
    while parent[i] != i:
        parent[i] = parent[parent[i]]
        i = parent[i]
    return i
