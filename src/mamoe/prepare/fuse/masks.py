"""Masks of single things in the forms they come in: bitmaps, polygons, COCO's run lengths."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int64
from pycocotools import mask as coco_mask

_FAR = 16  # times the picture's size: no polygon has a corner beyond
_MOST_BYTES = 1 << 24  # of a run-length text


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Mask:
    """The pixels of a thing, cut out of its picture; an empty one has no rows."""

    top: int
    left: int
    inside: Bool[np.ndarray, "h w"]

    @property
    def box(self) -> tuple[slice, slice]:
        """Its place in the picture."""
        height, width = self.inside.shape
        return slice(self.top, self.top + height), slice(self.left, self.left + width)

    @property
    def area(self) -> int:
        return int(np.count_nonzero(self.inside))


EMPTY = Mask(top=0, left=0, inside=np.zeros((0, 0), dtype=bool))


def cut_out(bitmap: Bool[np.ndarray, "h w"], top: int = 0, left: int = 0) -> Mask:
    """A bitmap, whose first pixel is at (top, left) of the picture, without the empty rows and columns around it."""
    rows = np.flatnonzero(bitmap.any(axis=1))
    if not len(rows):
        return EMPTY
    columns = np.flatnonzero(bitmap[rows[0] : rows[-1] + 1].any(axis=0))
    inside = bitmap[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return Mask(top=top + int(rows[0]), left=left + int(columns[0]), inside=np.ascontiguousarray(inside))


def from_counts(counts: str | Sequence[int], size: tuple[int, int]) -> Mask:
    """A mask of COCO's run lengths: pixels off, on, off, ... down the columns, left to right.

    Args:
        counts: the lengths, or the text COCO packs them into.
        size: (H, W) of the picture.

    Raises:
        ValueError: they are no run lengths, or do not make up the picture.
    """
    height, width = size
    lengths = _unpacked(counts) if isinstance(counts, str) else _whole(counts)
    if (lengths < 0).any():
        raise ValueError("a run length is negative")
    if (lengths > height * width).any() or int(lengths.sum()) != height * width:
        raise ValueError(f"the run lengths make up {int(lengths.sum())} pixels, but the picture has {height * width}")
    ends = np.cumsum(lengths)
    starts, ends = ends[:-1:2], ends[1::2]
    long = ends > starts
    starts, ends = starts[long], ends[long]
    if not len(starts):
        return EMPTY
    first, last = int(starts[0]) // height, (int(ends[-1]) - 1) // height
    edges = np.empty(2 * len(starts) + 2, dtype=np.int64)
    edges[0], edges[1:-1:2], edges[2:-1:2], edges[-1] = first * height, starts, ends, (last + 1) * height
    runs = np.diff(edges)
    on = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return cut_out(on.reshape(-1, height).T, left=first)


def from_polygons(polygons: Sequence[Sequence[float]], size: tuple[int, int]) -> Mask:
    """What is inside any of the polygons (x1, y1, x2, y2, ... in pixels), as COCO's own tools fill them.

    Raises:
        ValueError: a polygon has fewer than three corners, or is no list of numbers near the picture.
    """
    height, width = size
    corners = [_corners(polygon, size) for polygon in polygons]
    if not corners:
        raise ValueError("there is no polygon")
    left = max(0, int(min(c[::2].min() for c in corners)) - 1)
    top = max(0, int(min(c[1::2].min() for c in corners)) - 1)
    right = min(width, int(max(c[::2].max() for c in corners)) + 2)
    bottom = min(height, int(max(c[1::2].max() for c in corners)) + 2)
    if right <= left or bottom <= top:
        return EMPTY
    shifted = [(c - np.tile([left, top], len(c) // 2)).tolist() for c in corners]
    runs = coco_mask.merge(coco_mask.frPyObjects(shifted, bottom - top, right - left))
    return cut_out(coco_mask.decode(runs).view(bool), top=top, left=left)


def _corners(polygon: Sequence[float], size: tuple[int, int]) -> np.ndarray:
    try:
        corners = np.asarray(polygon, dtype=np.float64)
    except (TypeError, ValueError):
        raise ValueError("a polygon is a list of numbers x1, y1, x2, y2, ...") from None
    if corners.ndim != 1 or len(corners) < 6 or len(corners) % 2:
        raise ValueError(f"a polygon is a list of three corners or more, x and y of each, got {corners.shape}")
    if not np.isfinite(corners).all() or np.abs(corners).max() > _FAR * max(size):
        raise ValueError("a polygon has corners far outside of the picture")
    return corners


def _whole(counts: Sequence[int]) -> Int64[np.ndarray, "n"]:
    lengths = np.asarray(counts)
    if lengths.ndim != 1 or not np.issubdtype(lengths.dtype, np.integer):
        raise ValueError("run lengths are whole numbers")
    return lengths.astype(np.int64)


def _unpacked(text: str) -> Int64[np.ndarray, "n"]:
    """The run lengths in COCO's text: five bits a character from ``0`` on, lowest first, a sixth says that more follow;
    from the fourth on each is the difference to the last but one."""
    if not text or len(text) > _MOST_BYTES or not text.isascii():
        raise ValueError("the run lengths are no text of COCO's kind")
    code = np.frombuffer(text.encode("ascii"), dtype=np.uint8).astype(np.int64) - 48
    if (code < 0).any() or (code > 63).any() or code[-1] & 32:
        raise ValueError("the run lengths are no text of COCO's kind")
    ends = np.flatnonzero(code & 32 == 0)
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    if lengths.max() > 10:
        raise ValueError("the run lengths are no text of COCO's kind")
    place = np.arange(len(code)) - np.repeat(starts, lengths)
    value = np.add.reduceat((code & 31) << (5 * place), starts)
    value -= (code[ends] >> 4 & 1) << (5 * lengths)  # the highest bit is the sign
    value[1::2] = np.cumsum(value[1::2])
    value[2::2] = np.cumsum(value[2::2])
    return value
