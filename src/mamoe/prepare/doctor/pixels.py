"""What the pixels of one pair say that its headers and colours do not: twins, borders, places, latent cells.

Everything is looked at on a grid of at most :data:`SIDE` samples a side: a pair costs a few milliseconds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int32, Int64, UInt8
from PIL import Image

from mamoe.data.reading.pictures import as_rgb
from mamoe.errors import DatasetError
from mamoe.prepare.annotations import connected_components
from mamoe.prepare.doctor.shift import Offset, offset_of
from mamoe.storage.hashing import short_file_hash
from mamoe.vocabulary.colourize import borders_of
from mamoe.vocabulary.exif import orientation_of
from mamoe.vocabulary.panoptic import UNREADABLE, read_panoptic_rgb

Trained = Callable[[int, int], tuple[int, int]]  # (H, W) of a file -> (H, W) that the model sees, divisible by 8
SIDE = 256  # samples of the grid on which edges are compared, along the longer side
THUMB = 32  # a side of the thumbnail that tells whether two pictures are one
_ROWS = 8  # every so many rows are searched for blended colours
_SUSPECTED_PIECES, MANY_PIECES = 5, 16  # of a segment: on the grid, which is counted out; and in truth
_FAINT = 2.0  # grey levels of standard deviation below which a picture shows nothing


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PairLook:
    """One picture and its map."""

    digest: str  # of the picture's file
    mode: str  # PIL's word for how the picture stores its pixels
    thumbnail: UInt8[np.ndarray, "32 32"]  # grey
    size: tuple[int, int]  # (H, W) of the map
    blended: float | None  # share of the borders in the map whose colour lies between its neighbours'; None: few
    fragments: dict[int, int]  # segments of things in many pieces -> pieces
    offset: Offset | None  # of the map against the picture; None where neither place is better than the other
    cells: Int64[np.ndarray, "cells K"]  # samples of every class in every latent cell, classes as in ``classes``
    grid: tuple[int, int]  # (h, w) of the cells
    classes: Int64[np.ndarray, "K"]

    @property
    def is_blank(self) -> bool:
        """Whether the picture is of one colour."""
        return float(self.thumbnail.std()) < _FAINT


def look_closely(image: Path, panoptic: Path, things: frozenset[int], trained: Trained) -> PairLook:
    """Look at a pair that can be read.

    Args:
        things: ids of the classes whose segments should be in one piece.
        trained: the size at which a pair is trained.

    Raises:
        DatasetError: one of the two cannot be read after all, or the sizes differ.
    """
    rgb = read_panoptic_rgb(panoptic)
    height, width = rgb.shape[:2]
    step = max(1, -(-max(height, width) // SIDE))
    ids = _coded(rgb[step // 2 :: step, step // 2 :: step])
    grey, mode = _grey(image, (ids.shape[0], ids.shape[1]))
    cells, grid, classes = _cells(rgb[..., 2], trained(height, width))
    return PairLook(
        digest=short_file_hash(image),
        mode=mode,
        thumbnail=np.asarray(Image.fromarray(grey).resize((THUMB, THUMB), Image.Resampling.BOX)),
        size=(height, width),
        blended=blended_share(rgb),
        fragments=_fragments(rgb, ids, things),
        offset=offset_of(grey, borders_of(ids), step),
        cells=cells,
        grid=grid,
        classes=classes,
    )


def blended_share(rgb: UInt8[np.ndarray, "H W 3"]) -> float | None:
    """How many of the pixels between two areas have a colour between those of their left and right neighbours.

    Ids at a border are those of one side or of the other. What was resized smoothly or saved with loss has others
    there, and around it. None where a map has next to no borders.
    """
    rows = rgb[_ROWS // 2 :: _ROWS].astype(np.int16)
    left, middle, right = rows[:, :-2], rows[:, 1:-1], rows[:, 2:]
    border = (left != right).any(axis=-1)
    if (count := int(border.sum())) < 16:
        return None
    left, middle, right = left[border], middle[border], right[border]
    low, high = np.minimum(left, right), np.maximum(left, right)
    between = ((middle >= low) & (middle <= high)).all(axis=1)
    neither = (middle != left).any(axis=1) & (middle != right).any(axis=1)
    return float((between & neither).sum()) / count


def _grey(image: Path, size: tuple[int, int]) -> tuple[UInt8[np.ndarray, "h w"], str]:
    """The picture in grey at (H, W), as it is shown; and the mode it is stored in."""
    wanted = size[1], size[0]
    try:
        with Image.open(image) as picture:
            mode = picture.mode
            picture.draft("L", wanted)  # a JPEG is decoded at a fraction of its size
            if orientation_of(picture) != 1 or picture.has_transparency_data or picture.mode not in ("L", "RGB"):
                shown = Image.fromarray(as_rgb(picture)).convert("L")
                return np.asarray(shown.resize(wanted, Image.Resampling.BOX)), mode
            shrunk = picture.reduce(max(1, min(picture.width // wanted[0], picture.height // wanted[1])))
            return np.asarray(shrunk.convert("L").resize(wanted, Image.Resampling.BOX)), mode
    except UNREADABLE as error:
        raise DatasetError(f"Cannot read the picture {image}: {error}") from None


def _coded(rgb: UInt8[np.ndarray, "h w 3"]) -> Int32[np.ndarray, "h w"]:
    wide = rgb.astype(np.int32)
    return wide[..., 0] << 16 | wide[..., 1] << 8 | wide[..., 2]


def _fragments(
    rgb: UInt8[np.ndarray, "H W 3"], ids: Int32[np.ndarray, "h w"], things: frozenset[int]
) -> dict[int, int]:
    """Segments of things in many pieces; counted on the grid, and in full where they may be."""
    found = {}
    for colour in np.unique(ids).tolist():
        if colour >> 8 == 0 or colour & 255 not in things:
            continue
        if _pieces(ids == colour) < _SUSPECTED_PIECES:
            continue
        whole = (_coded(rgb) == colour) if ids.shape != rgb.shape[:2] else ids == colour
        if (pieces := _pieces(whole)) >= MANY_PIECES:
            found[colour >> 8] = pieces
    return found


def _pieces(mask: Bool[np.ndarray, "h w"]) -> int:
    """8-connected areas of the mask."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    cut = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    # Fewer runs than pieces cannot be, and most segments have few runs that begin away from the row above.
    padded = np.pad(cut, ((1, 0), (1, 1)))
    starts = padded[1:, 1:-1] & ~padded[1:, :-2]
    above = padded[:-1, 1:-1] | padded[:-1, :-2] | padded[:-1, 2:]
    if int((starts & ~above).sum()) < _SUSPECTED_PIECES:
        return 0
    return int(connected_components(cut.astype(np.uint8), [1]).max())


def _cells(
    classes: UInt8[np.ndarray, "H W"], size: tuple[int, int]
) -> tuple[Int64[np.ndarray, "cells K"], tuple[int, int], Int64[np.ndarray, "K"]]:
    """Samples of every class in every latent cell of 8x8 pixels at ``size``, 4x4 of them a cell; grid; the classes."""
    grid = (size[0] // 8, size[1] // 8)
    rows, columns = (
        ((np.arange(4 * cells) + 0.5) * (whole / (4 * cells))).astype(np.intp)
        for cells, whole in zip(grid, classes.shape, strict=True)
    )
    sampled = classes[rows[:, None], columns]
    present = np.flatnonzero(np.bincount(sampled.ravel()))
    rank = np.zeros(256, dtype=np.int64)
    rank[present] = np.arange(len(present))
    cell = np.arange(grid[0] * grid[1]).reshape(grid).repeat(4, axis=0).repeat(4, axis=1)
    counts = np.bincount((cell * len(present) + rank[sampled]).ravel(), minlength=grid[0] * grid[1] * len(present))
    return counts.reshape(-1, len(present)), grid, present
