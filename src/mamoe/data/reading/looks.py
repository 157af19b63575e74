"""What one file is: found out once, and all that any check of the data set needs of it."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from enum import Flag, auto
from pathlib import Path

import numpy as np
from jaxtyping import Int64, UInt8, UInt32

from mamoe.data.reading.pictures import PictureHeader, check_picture, is_transparent, shrunk_grey
from mamoe.vocabulary.panoptic import MAX_SEGMENT_ID, colour_numbers, read_panoptic_rgb
from mamoe.vocabulary.runs import run_starts

SIDE = 256  # of a picture that is looked at closely: enough for edges
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


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ClosePicture:
    """A picture whose file is sound, small and grey."""

    look: PictureLook
    grey: UInt8[np.ndarray, "h w"]
    mode: str  # PIL's word for how the file stores its pixels


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class CloseMap:
    """A map with its pixels."""

    look: MapLook
    rgb: UInt8[np.ndarray, "H W 3"]


def look_at_picture(path: Path) -> PictureLook:
    """Read a picture's file to its end.

    Raises:
        DatasetError: as :func:`mamoe.data.reading.pictures.read_picture`.
    """
    return _picture_look(path, check_picture(path))


def look_at_picture_closely(path: Path) -> ClosePicture:
    """The same, and what the picture shows, at :data:`SIDE` pixels or somewhat more.

    Raises:
        DatasetError: as :func:`look_at_picture`.
    """
    grey, header, mode = shrunk_grey(path, SIDE)
    return ClosePicture(look=_picture_look(path, header), grey=grey, mode=mode)


def _picture_look(path: Path, header: PictureHeader) -> PictureLook:
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
    return look_at_map_closely(path).look


def look_at_map_closely(path: Path) -> CloseMap:
    """The same, with the pixels.

    Raises:
        DatasetError: as :func:`look_at_map`.
    """
    rgb = read_panoptic_rgb(path)
    different, counts = _counted(rgb)
    known = len(different) <= MOST_COLOURS
    look = MapLook(
        size=(rgb.shape[0], rgb.shape[1]),
        colours=different if known else None,
        counts=counts if known else np.zeros(0, dtype=np.int64),
    )
    return CloseMap(look=look, rgb=rgb)


def _counted(rgb: UInt8[np.ndarray, "H W 3"]) -> tuple[UInt32[np.ndarray, "K"], Int64[np.ndarray, "K"]]:
    """The different colours in ascending order, and the pixels of each.

    Runs are counted: colour and length make one number of 64 bits, so that one sort brings together what belongs
    together.
    """
    flat = rgb.reshape(-1)
    # Bytes that differ from the pixel before, up to three in one: no pixel but those at borders is put together.
    changed = np.flatnonzero(flat[3:] != flat[:-3]) // 3 + 1
    starts = np.concatenate([np.zeros(1, dtype=np.int64), changed[run_starts(changed)] if len(changed) else changed])
    lengths = np.diff(starts, append=flat.size // 3).astype(np.uint64)
    runs = colour_numbers(rgb.reshape(-1, 3)[starts]).astype(np.uint64) << 32 | lengths
    runs.sort()
    sorted_colours = (runs >> 32).astype(np.uint32)
    firsts = run_starts(sorted_colours)
    return sorted_colours[firsts], np.add.reduceat((runs & 0xFFFFFFFF).astype(np.int64), firsts)
