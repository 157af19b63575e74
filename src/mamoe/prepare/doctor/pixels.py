"""What the pixels of one pair say that its headers and colours do not: twins, borders, places, latent cells.

Everything is looked at on a grid of at most :data:`SIDE` samples a side: a pair costs a few milliseconds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Shaped, UInt8, UInt32
from PIL import Image

from mamoe.data.reading.looks import SIDE, CloseMap, ClosePicture
from mamoe.prepare.annotations import connected_components
from mamoe.prepare.doctor.cells import CellCounter, MapCells
from mamoe.prepare.doctor.shift import Offset, offset_of
from mamoe.vocabulary.colourize import borders_of
from mamoe.vocabulary.panoptic import colour_numbers

Trained = Callable[[int, int], tuple[int, int]]  # (H, W) of a file -> (H, W) that the model sees, divisible by 8
THUMB = 32  # a side of the thumbnail that tells whether two pictures are one
_ROWS = 8  # every so many rows are searched for blended colours
_SUSPECTED_PIECES, MANY_PIECES = 8, 16  # of a segment: on the grid, which is counted out; and in truth
_FAINT = 2.0  # grey levels of standard deviation below which a picture shows nothing


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PairLook:
    """One picture and its map."""

    mode: str  # PIL's word for how the picture stores its pixels
    thumbnail: UInt8[np.ndarray, "32 32"]  # grey
    blended: float | None  # share of the borders in the map whose colour lies between its neighbours'; None: few
    fragments: dict[int, int]  # segments of things in many pieces -> pieces
    offset: Offset | None  # of the map against the picture; None where neither place is better than the other
    cells: MapCells

    @property
    def is_blank(self) -> bool:
        """Whether the picture is of one colour."""
        return float(self.thumbnail.std()) < _FAINT


def look_closely(
    picture: ClosePicture, panoptic: CloseMap, things: frozenset[int], counter: CellCounter, trained: Trained
) -> PairLook:
    """Look at a sound pair.

    Args:
        picture: what it shows.
        panoptic: its map, of colours that are known.
        things: ids of the classes whose segments should be in one piece.
        counter: of cells.
        trained: the size at which a pair is trained.
    """
    rgb, different = panoptic.rgb, panoptic.look.colours
    assert different is not None
    step = max(1, -(-max(panoptic.look.size) // SIDE))
    grid = colour_numbers(rgb[step // 2 :: step, step // 2 :: step])
    grey = np.asarray(Image.fromarray(picture.grey).resize(grid.shape[::-1], Image.Resampling.BOX))
    return PairLook(
        mode=picture.mode,
        thumbnail=np.asarray(Image.fromarray(grey).resize((THUMB, THUMB), Image.Resampling.BOX)),
        blended=blended_share(rgb),
        fragments=_fragments(rgb, grid, things),
        offset=offset_of(grey, borders_of(grid), step),
        cells=counter.count(rgb[..., 2], np.unique(different.astype(np.uint8)), trained(*panoptic.look.size)),
    )


def blended_share(rgb: UInt8[np.ndarray, "H W 3"]) -> float | None:
    """How many of the pixels between two areas have a colour between those of their left and right neighbours.

    Ids at a border are those of one side or of the other. What was resized smoothly or saved with loss has others
    there, and around it. None where a map has next to no borders.
    """
    rows = colour_numbers(rgb[_ROWS // 2 :: _ROWS])
    row, column = np.nonzero(rows[:, :-2] != rows[:, 2:])
    if len(row) < 16:
        return None
    left, middle, right = (rows[row, column + i] for i in range(3))
    odd = (middle != left) & (middle != right)
    left, middle, right = (_channels(part[odd]) for part in (left, middle, right))
    between = ((middle >= np.minimum(left, right)) & (middle <= np.maximum(left, right))).all(axis=0)
    return float(between.sum()) / len(row)


def _channels(colours: UInt32[np.ndarray, "n"]) -> UInt8[np.ndarray, "3 n"]:
    return np.stack([colours >> 16, colours >> 8, colours]).astype(np.uint8)


def _fragments(
    rgb: UInt8[np.ndarray, "H W 3"], grid: UInt32[np.ndarray, "h w"], things: frozenset[int]
) -> dict[int, int]:
    """Segments of things in many pieces; suspected on the grid, counted in full."""
    found = {}
    for colour, most in zip(*np.unique(grid[_beginnings(grid)], return_counts=True), strict=True):
        segment, klass = int(colour) >> 8, int(colour) & 255
        if segment == 0 or klass not in things or most < _SUSPECTED_PIECES:
            continue
        mask = (rgb[..., 2] == klass) & (rgb[..., 1] == segment & 255) & (rgb[..., 0] == segment >> 8)
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        cut = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        if (_beginnings(cut) & cut).sum() < MANY_PIECES:
            continue
        if (whole := int(connected_components(cut.astype(np.uint8), [1]).max())) >= MANY_PIECES:
            found[segment] = whole
    return found


def _beginnings(ids: Shaped[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """Pixels with none of their own kind to the left or above: of an area there is one at least."""
    begins = np.ones(ids.shape, dtype=bool)
    begins[:, 1:] &= ids[:, 1:] != ids[:, :-1]
    begins[1:] &= ids[1:] != ids[:-1]
    begins[1:, 1:] &= ids[1:, 1:] != ids[:-1, :-1]
    begins[1:, :-1] &= ids[1:, :-1] != ids[:-1, 1:]
    return begins
