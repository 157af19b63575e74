"""What one file is: found out once, and all that any check of the data set needs of it."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from enum import Flag, auto
from pathlib import Path

import numpy as np
from jaxtyping import Int64, UInt32

from mamoe.data.panoptic import panoptic_colours
from mamoe.data.pictures import check_picture, is_transparent, picture_header
from mamoe.types import MAX_SEGMENT_ID

MOST_COLOURS = MAX_SEGMENT_ID + 256  # of a panoptic map: every segment, and every class outside of segments


class Reading(Flag):
    """In what way a picture is shown otherwise than it is stored."""

    TURNED = auto()
    ON_BLACK = auto()
    FIRST_FRAME = auto()


@dataclass(frozen=True, kw_only=True, slots=True)
class PictureLook:
    """A picture whose file is sound."""

    size: tuple[int, int]  # (H, W), upright
    readings: Reading


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class MapLook:
    """The colours of a panoptic PNG and how often they occur: its segments and classes without their places."""

    size: tuple[int, int]  # (H, W)
    colours: UInt32[np.ndarray, "K"] | None  # R << 16 | G << 8 | B, each once, ascending; None: over MOST_COLOURS
    counts: Int64[np.ndarray, "K"]  # pixels of each

    @property
    def class_pixels(self) -> Int64[np.ndarray, "256"]:
        """Pixels of every class id."""
        pixels = np.zeros(256, dtype=np.int64)
        if self.colours is not None:
            np.add.at(pixels, self.colours & 0xFF, self.counts)
        return pixels

    @property
    def segments(self) -> dict[int, list[int]]:
        """The classes of every segment, segment 0 left out; in a good map one each."""
        found = defaultdict(list)
        for colour in () if self.colours is None else self.colours.tolist():
            if segment := colour >> 8:
                found[segment].append(colour & 0xFF)
        return dict(found)


def look_at_picture(path: Path) -> PictureLook:
    """Read a picture's file to its end.

    Raises:
        DatasetError: as :func:`mamoe.data.pictures.read_picture`.
    """
    check_picture(path)
    header = picture_header(path)
    readings = Reading(0)
    if header.orientation != 1:
        readings |= Reading.TURNED
    if header.alpha and is_transparent(path):
        readings |= Reading.ON_BLACK
    if header.frames > 1:
        readings |= Reading.FIRST_FRAME
    return PictureLook(size=header.size, readings=readings)


def look_at_map(path: Path) -> MapLook:
    """Decode a panoptic PNG and count its colours.

    Raises:
        DatasetError: the file is missing, damaged, or not an 8-bit RGB PNG. What its colours mean is not looked at.
    """
    size, found = panoptic_colours(path, MOST_COLOURS)
    if found is None:
        return MapLook(size=size, colours=None, counts=np.zeros(0, dtype=np.int64))
    coded = sorted((r << 16 | g << 8 | b, count) for count, (r, g, b) in found)
    colours, counts = zip(*coded, strict=True)
    return MapLook(size=size, colours=np.array(colours, dtype=np.uint32), counts=np.array(counts, dtype=np.int64))
