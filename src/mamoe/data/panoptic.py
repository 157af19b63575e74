"""The panoptic PNG: an RGB picture with segment id = R*256 + G and class id = B."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Integer, UInt8
from PIL import Image, UnidentifiedImageError

from mamoe.data.exif import orientation_of
from mamoe.data.mapkinds import why_no_map
from mamoe.taxonomy import Taxonomy
from mamoe.types import DatasetError, PanopticMap

# What PIL raises for files that are not pictures, cut off, or damaged.
UNREADABLE = (UnidentifiedImageError, SyntaxError, ValueError, EOFError, OSError, Image.DecompressionBombError)

_BORDER = 0.45  # brightness of the line around an instance
_VARIATION = 0.35  # how much darker an instance may be than its class colour


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


def read_panoptic(path: Path) -> PanopticMap:
    """Read a panoptic PNG.

    Raises:
        DatasetError: the file is missing, damaged, not an 8-bit RGB PNG, turned by EXIF, or a segment in it has two
            classes.
    """
    rgb = read_panoptic_rgb(path)
    try:
        return decode_panoptic(rgb)
    except ValueError as error:
        raise DatasetError(f"The panoptic map {path} is wrong: {error}") from None


def read_panoptic_rgb(path: Path) -> UInt8[np.ndarray, "H W 3"]:
    """The pixels of a panoptic PNG, not yet decoded.

    Raises:
        DatasetError: the file is missing, damaged, not an 8-bit RGB PNG, or turned by EXIF.
    """
    with _decoded(path) as picture:
        return np.array(picture)


def panoptic_colours(path: Path, most: int) -> tuple[tuple[int, int], list[tuple[int, tuple[int, int, int]]] | None]:
    """(H, W) of a panoptic PNG, and every (R, G, B) in it after its count of pixels; None if there are over ``most``.

    Raises:
        DatasetError: as :func:`read_panoptic_rgb`.
    """
    with _decoded(path) as picture:  # PIL counts several times as fast as numpy, and without copies
        return (picture.height, picture.width), picture.getcolors(most)  # pyright: ignore[reportReturnType]


@contextmanager
def _decoded(path: Path) -> Iterator[Image.Image]:
    try:
        with Image.open(path) as picture:
            _require_rgb_png(picture, path)
            picture.load()
            _require_upright(picture, path)
            yield picture
    except FileNotFoundError:
        raise DatasetError(f"There is no panoptic map {path}.") from None
    except DatasetError:
        raise
    except UNREADABLE as error:
        raise DatasetError(f"Cannot read the panoptic map {path}: {error}") from None


def write_panoptic(panoptic: PanopticMap, path: Path) -> None:
    """Write the panoptic PNG; the folder must exist."""
    Image.fromarray(encode_panoptic(panoptic)).save(path, format="PNG")


def resized_panoptic(panoptic: PanopticMap, size: tuple[int, int]) -> PanopticMap:
    """The map at (H, W) pixels: every pixel takes the ids of the nearest one, by pixel centres (nearest-exact)."""
    rows, columns = (
        ((np.arange(new) + 0.5) * (old / new)).astype(np.intp) for old, new in zip(panoptic.size, size, strict=True)
    )
    places = np.ix_(rows, columns)
    return PanopticMap(segment_id=panoptic.segment_id[places], class_id=panoptic.class_id[places])


def colourize(panoptic: PanopticMap, taxonomy: Taxonomy, borders: bool = True) -> UInt8[np.ndarray, "H W 3"]:
    """A picture of the map for people: class colours, each instance of a thing a little darker or lighter.

    Args:
        panoptic: the map [H W].
        taxonomy: gives the colours; void and unknown classes are black.
        borders: darken the pixels where a thing's segment meets another one.
    """
    thing = np.array([row.is_thing for row in taxonomy.classes])
    things = np.isin(panoptic.class_id, np.array([row.id for row in taxonomy.classes], dtype=np.uint8)[thing])
    # Steps of the golden ratio keep neighbouring ids apart in brightness however many there are.
    spread = 1.0 - _VARIATION * ((panoptic.segment_id * 0.618034) % 1.0)
    brightness = np.where(things & (panoptic.segment_id > 0), spread, 1.0)
    if borders:
        brightness[borders_of(panoptic.segment_id) & things] = _BORDER
    return (taxonomy.palette[panoptic.class_id] * brightness[..., None]).round().astype(np.uint8)


def borders_of(ids: Integer[np.ndarray, "H W"]) -> Bool[np.ndarray, "H W"]:
    """The pixels beside, above or below one of another id: a line two pixels wide."""
    edges = np.zeros(ids.shape, dtype=bool)
    across = ids[:, 1:] != ids[:, :-1]
    down = ids[1:] != ids[:-1]
    edges[:, 1:] |= across
    edges[:, :-1] |= across
    edges[1:] |= down
    edges[:-1] |= down
    return edges


def _require_rgb_png(picture: Image.Image, path: Path) -> None:
    if (reason := why_no_map(picture)) is not None:
        raise DatasetError(f"{_wanted(path)}, {reason}.")


def _require_upright(picture: Image.Image, path: Path) -> None:
    # Label tools copy EXIF from the photograph to its map, turned or not: there is no telling which way up is meant.
    if (turned := orientation_of(picture)) != 1:
        raise DatasetError(
            f"{_wanted(path)}, stored as it is shown, but its EXIF says orientation {turned}. Turn the pixels to suit "
            "the picture and save the map without EXIF."
        )


def _wanted(path: Path) -> str:
    return f"The panoptic map {path} must be an 8-bit RGB PNG (segment id = R*256 + G, class id = B)"
