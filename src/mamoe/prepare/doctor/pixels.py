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

from mamoe.data.reading.looks import SIDE, ClosePicture
from mamoe.prepare.annotations import connected_components
from mamoe.prepare.doctor.shift import Offset, offset_of
from mamoe.storage.hashing import short_file_hash
from mamoe.vocabulary.colourize import borders_of

Trained = Callable[[int, int], tuple[int, int]]  # (H, W) of a file -> (H, W) that the model sees, divisible by 8
THUMB = 32  # a side of the thumbnail that tells whether two pictures are one
_ROWS = 8  # every so many rows are searched for blended colours
_SUSPECTED_PIECES, MANY_PIECES = 8, 16  # of a segment: on the grid, which is counted out; and in truth
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
    cells: Int32[np.ndarray, "K h w"]  # samples of every class in every latent cell, classes as in ``classes``
    classes: Int64[np.ndarray, "K"]

    @property
    def is_blank(self) -> bool:
        """Whether the picture is of one colour."""
        return float(self.thumbnail.std()) < _FAINT


def look_closely(
    image: Path, picture: ClosePicture, rgb: UInt8[np.ndarray, "H W 3"], things: frozenset[int], trained: Trained
) -> PairLook:
    """Look at a sound pair.

    Args:
        image: the picture's file, for its digest.
        picture: what it shows.
        rgb: the pixels of the panoptic PNG.
        things: ids of the classes whose segments should be in one piece.
        trained: the size at which a pair is trained.
    """
    height, width = rgb.shape[:2]
    step = max(1, -(-max(height, width) // SIDE))
    ids = _coded(rgb[step // 2 :: step, step // 2 :: step])
    grey = np.asarray(Image.fromarray(picture.grey).resize(ids.shape[::-1], Image.Resampling.BOX))
    cells, classes = _cells(rgb[..., 2], trained(height, width))
    return PairLook(
        digest=short_file_hash(image),
        mode=picture.mode,
        thumbnail=np.asarray(Image.fromarray(grey).resize((THUMB, THUMB), Image.Resampling.BOX)),
        size=(height, width),
        blended=blended_share(rgb),
        fragments=_fragments(rgb, ids, things),
        offset=offset_of(grey, borders_of(ids), step),
        cells=cells,
        classes=classes,
    )


def blended_share(rgb: UInt8[np.ndarray, "H W 3"]) -> float | None:
    """How many of the pixels between two areas have a colour between those of their left and right neighbours.

    Ids at a border are those of one side or of the other. What was resized smoothly or saved with loss has others
    there, and around it. None where a map has next to no borders.
    """
    rows = rgb[_ROWS // 2 :: _ROWS]
    coded = _coded(rows)
    row, column = np.nonzero(coded[:, :-2] != coded[:, 2:])
    if len(row) < 16:
        return None
    left, middle, right = (rows[row, column + i] for i in range(3))
    between = ((middle >= np.minimum(left, right)) & (middle <= np.maximum(left, right))).all(axis=1)
    here = coded[row, column + 1]
    neither = (here != coded[row, column]) & (here != coded[row, column + 2])
    return float((between & neither).sum()) / len(row)


def _coded(rgb: UInt8[np.ndarray, "h w 3"]) -> Int32[np.ndarray, "h w"]:
    coded = rgb[..., 0].astype(np.int32)
    for channel in (1, 2):
        coded <<= 8
        coded |= rgb[..., channel]
    return coded


def _fragments(
    rgb: UInt8[np.ndarray, "H W 3"], ids: Int32[np.ndarray, "h w"], things: frozenset[int]
) -> dict[int, int]:
    """Segments of things in many pieces; suspected on the grid, counted in full."""
    found = {}
    for colour, most in zip(*np.unique(ids[_beginnings(ids)], return_counts=True), strict=True):
        segment, klass = int(colour) >> 8, int(colour) & 255
        if segment == 0 or klass not in things or most < _SUSPECTED_PIECES:
            continue
        mask = (rgb[..., 1] == segment & 255) & (rgb[..., 0] == segment >> 8) & (rgb[..., 2] == klass)
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        cut = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        if (_beginnings(cut.astype(np.int32)) & cut).sum() < MANY_PIECES:
            continue
        if (whole := int(connected_components(cut.astype(np.uint8), [1]).max())) >= MANY_PIECES:
            found[segment] = whole
    return found


def _beginnings(ids: Int32[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """Pixels with none of their own kind to the left or above: of an area there is one at least."""
    padded = np.pad(ids, ((1, 0), (1, 1)), constant_values=-1)
    begins = ids != padded[1:, :-2]
    for above in (padded[:-1, :-2], padded[:-1, 1:-1], padded[:-1, 2:]):
        begins &= ids != above
    return begins


def _cells(
    classes: UInt8[np.ndarray, "H W"], size: tuple[int, int]
) -> tuple[Int32[np.ndarray, "K h w"], Int64[np.ndarray, "K"]]:
    """Samples of every class in every latent cell of 8x8 pixels at ``size``, 4x4 of them a cell; the classes."""
    rows, columns = (
        ((np.arange(side // 2) + 0.5) * (2 * whole / side)).astype(np.intp)
        for side, whole in zip((size[0] // 8 * 8, size[1] // 8 * 8), classes.shape, strict=True)
    )
    sampled = classes[rows].take(columns, axis=1)
    present = np.flatnonzero(np.bincount(sampled.ravel(), minlength=256))
    counts = np.empty((len(present), size[0] // 8, size[1] // 8), dtype=np.int32)
    for number, klass in enumerate(present.tolist()):
        mask = (sampled == klass).view(np.uint8)
        tall = mask[0::4] + mask[1::4] + mask[2::4] + mask[3::4]
        counts[number] = tall[:, 0::4] + tall[:, 1::4] + tall[:, 2::4] + tall[:, 3::4]
    return counts, present
