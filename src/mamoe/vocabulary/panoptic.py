"""Which segment and which class every pixel belongs to, and the RGB PNG that says it on disk: R and G carry the segment
id, B the class id."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

import numpy as np
from jaxtyping import Int16, Int32, Int64, UInt8, UInt32
from PIL import Image, UnidentifiedImageError

from mamoe.errors import DatasetError
from mamoe.storage.contents import found_instead
from mamoe.storage.png import decode_png, encode_png
from mamoe.vocabulary.exif import orientation_of
from mamoe.vocabulary.map_kinds import why_no_map

MAX_SEGMENT_ID = 0xFFFF


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PanopticMap:
    """Which segment and which class every pixel belongs to.

    On disk an RGB PNG: segment id = R*256 + G, class id = B. Segment id 0 means "no segment". A class without
    segments of its own (stuff) may carry segment ids too.

    Raises:
        ValueError: the two arrays differ in size or type, an id is out of range, or a segment has two classes.
    """

    segment_id: Int32[np.ndarray, "H W"]  # in [0, 65535]
    class_id: UInt8[np.ndarray, "H W"]
    class_of_segment: Int16[np.ndarray, "ids"] = field(init=False, repr=False)
    """Class of every segment id up to the largest, -1 where the map has no such segment; of id 0, any of its own."""

    def __post_init__(self) -> None:
        segment, klass = self.segment_id, self.class_id
        if segment.ndim != 2 or segment.shape != klass.shape:
            raise ValueError(
                "A panoptic map needs two arrays [H W] of one size, "
                f"got segment_id {segment.shape} and class_id {klass.shape}."
            )
        if segment.dtype != np.int32 or klass.dtype != np.uint8:
            raise ValueError(
                f"A panoptic map needs segment_id int32 and class_id uint8, got {segment.dtype} and {klass.dtype}."
            )
        if segment.size == 0:
            raise ValueError("A panoptic map needs at least one pixel, got an empty one.")
        least, most = int(segment.min()), int(segment.max())
        if least < 0 or most > MAX_SEGMENT_ID:
            raise ValueError(f"Segment ids must lie in [0, {MAX_SEGMENT_ID}], got {least} to {most}.")
        table = np.full(most + 1, -1, dtype=np.int16)
        table[segment] = klass  # one pass over the pixels, where sorting them would take a hundred times as long
        object.__setattr__(self, "class_of_segment", table)
        odd = np.take(table, segment) != klass  # the last pixel of a segment decided; in a good map all agree
        mixed = sorted({int(i) for i in np.unique(segment[odd])} - {0})
        if mixed:
            raise ValueError(
                f"Every segment must have one class, but segments {mixed[:8]} have several. Give each its own id."
            )

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) in pixels."""
        return self.segment_id.shape[0], self.segment_id.shape[1]

    @property
    def classes(self) -> dict[int, int]:
        """Class id of every segment in the map, segment 0 left out, in order of the ids."""
        return {int(i): int(self.class_of_segment[i]) for i in np.flatnonzero(self.class_of_segment >= 0) if i != 0}

    @classmethod
    def read(cls, path: str | Path) -> PanopticMap:
        """Read the RGB PNG at ``path``."""
        return read_panoptic(Path(path))

    def write(self, path: str | Path) -> None:
        """Write the RGB PNG to ``path``."""
        write_panoptic(self, Path(path))


# What PIL raises for files that are not pictures, cut off, or damaged.
UNREADABLE = (UnidentifiedImageError, SyntaxError, ValueError, EOFError, OSError, Image.DecompressionBombError)


def encode_panoptic(panoptic: PanopticMap) -> UInt8[np.ndarray, "H W 3"]:
    """The pixels of the RGB PNG: R and G carry the segment id, B the class id."""
    rgb = np.empty((*panoptic.size, 3), dtype=np.uint8)
    rgb[..., 0] = panoptic.segment_id >> 8
    rgb[..., 1] = panoptic.segment_id & 0xFF
    rgb[..., 2] = panoptic.class_id
    return rgb


def decode_panoptic(rgb: UInt8[np.ndarray, "H W 3"]) -> PanopticMap:
    """The inverse of :func:`encode_panoptic`.

    Raises:
        ValueError: the array is not u8[H W 3], or a segment has two classes.
    """
    if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3:
        raise ValueError(f"A panoptic picture is uint8 [H W 3], got {rgb.dtype} {rgb.shape}.")
    segment_id = rgb[..., 0].astype(np.int32)
    segment_id <<= 8
    segment_id |= rgb[..., 1]
    return PanopticMap(segment_id=segment_id, class_id=np.ascontiguousarray(rgb[..., 2]))


def class_pixels(class_id: UInt8[np.ndarray, "H W"]) -> Int64[np.ndarray, "256"]:
    """How many pixels every class id has; PIL counts bytes several times as fast as numpy."""
    return np.array(Image.fromarray(class_id).histogram(), dtype=np.int64)


def read_panoptic(path: Path) -> PanopticMap:
    """Read a panoptic PNG.

    Raises:
        DatasetError: the file is missing, damaged, not an 8-bit RGB PNG, turned by EXIF, or a segment in it has two
            classes.
    """
    return _meant(read_panoptic_rgb(path), path)


def panoptic_of_bytes(data: bytes, name: str) -> PanopticMap:
    """Read a panoptic PNG that was sent; ``name`` is what messages call it.

    Raises:
        DatasetError: as :func:`read_panoptic`.
    """
    with _opened(BytesIO(data), name) as picture:
        return _meant(np.array(picture), name)


def panoptic_bytes(panoptic: PanopticMap) -> bytes:
    """The file of a panoptic PNG."""
    return encode_png(encode_panoptic(panoptic))


def read_panoptic_rgb(path: Path) -> UInt8[np.ndarray, "H W 3"]:
    """The pixels of a panoptic PNG, not yet decoded.

    Raises:
        DatasetError: the file is missing, damaged, not an 8-bit RGB PNG, or turned by EXIF.
    """
    with _opened(path, path) as picture:
        found = decode_png(path)
        return np.array(picture) if found is None else found


def colour_numbers(rgb: UInt8[np.ndarray, "*shape 3"]) -> UInt32[np.ndarray, "*shape"]:
    """Pixels of a panoptic PNG as one number each, R << 16 | G << 8 | B = segment id << 8 | class id."""
    parts = np.zeros((*rgb.shape[:-1], 4), dtype=np.uint8)
    for place, channel in ((2, 0), (1, 1), (0, 2)):
        parts[..., place] = rgb[..., channel]
    return parts.view("<u4")[..., 0]


@contextmanager
def _opened(source: Path | BytesIO, name: Path | str) -> Generator[Image.Image]:
    try:
        with Image.open(source) as picture:
            _require_rgb_png(picture, name)
            _require_upright(picture, name)
            _require_still(picture, name)
            yield picture
    except FileNotFoundError:
        raise DatasetError(f"There is no panoptic map {name}.") from None
    except DatasetError:
        raise
    except UNREADABLE as error:
        instead = found_instead(name) if isinstance(name, Path) else None
        raise DatasetError(f"Cannot read the panoptic map {name}: {instead or error}") from None


def _meant(rgb: UInt8[np.ndarray, "H W 3"], name: Path | str) -> PanopticMap:
    try:
        return decode_panoptic(rgb)
    except ValueError as error:
        raise DatasetError(f"The panoptic map {name} is wrong: {error}") from None


def write_panoptic(panoptic: PanopticMap, path: Path) -> None:
    """Write the panoptic PNG; the folder must exist."""
    path.write_bytes(panoptic_bytes(panoptic))


def resized_panoptic(panoptic: PanopticMap, size: tuple[int, int]) -> PanopticMap:
    """The map at (H, W) pixels: every pixel takes the ids of the nearest one, by pixel centres (nearest-exact)."""
    rows, columns = (
        ((np.arange(new) + 0.5) * (old / new)).astype(np.intp) for old, new in zip(panoptic.size, size, strict=True)
    )
    places = np.ix_(rows, columns)
    return PanopticMap(segment_id=panoptic.segment_id[places], class_id=panoptic.class_id[places])


def _require_rgb_png(picture: Image.Image, name: Path | str) -> None:
    if (reason := why_no_map(picture)) is not None:
        raise DatasetError(f"{_wanted(name)}, {reason}.")


def _require_upright(picture: Image.Image, name: Path | str) -> None:
    # Label tools copy EXIF from the photograph to its map, turned or not: there is no telling which way up is meant.
    if (turned := orientation_of(picture)) != 1:
        raise DatasetError(
            f"{_wanted(name)}, stored as it is shown, but its EXIF says orientation {turned}. Turn the pixels to suit "
            "the picture and save the map without EXIF."
        )


def _require_still(picture: Image.Image, name: Path | str) -> None:
    if (frames := getattr(picture, "n_frames", 1)) != 1:
        raise DatasetError(
            f"{_wanted(name)} of one picture, and it is an animation of {frames}. Save the one you mean."
        )


def _wanted(name: Path | str) -> str:
    return f"The panoptic map {name} must be an 8-bit RGB PNG (segment id = R*256 + G, class id = B)"
