"""Reading and splitting other data sets' label pictures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int32, Int64, UInt8
from PIL import Image, PngImagePlugin

from mamoe.errors import DatasetError
from mamoe.storage.contents import found_instead
from mamoe.vocabulary.exif import orientation_of
from mamoe.vocabulary.map_kinds import raw_mode, why_no_format
from mamoe.vocabulary.panoptic import UNREADABLE
from mamoe.vocabulary.taxonomy import Taxonomy

_MOST_COLOURS = 64  # of a picture that shows classes as colours; photographs have thousands
_SPREAD = {"L;2": 85, "L;4": 17}  # PIL spreads the numbers of fewer than eight bits over 0..255
_CAMVID_LEVELS = (0, 64, 128, 192)  # CamVid's 32 class colours are made of these


def read_index_picture(path: Path) -> Int32[np.ndarray, "H W"]:
    """A label picture with one number per pixel: 1 to 16 bits, or the indices of a palette.

    Raises:
        DatasetError: the file is missing, damaged, no PNG, has several channels, a palette that leaves open what the
            numbers are, or is turned by EXIF.
    """
    with opened_annotation(path) as picture:
        if picture.mode not in ("1", "L", "P") and not picture.mode.startswith("I"):
            raise DatasetError(
                f"{path} must hold one number per pixel, got pixels of the kind {picture.mode!r}"
                f"{_colour_coding(picture)}."
            )
        spread = _SPREAD.get(raw_mode(picture), 1)
        values = np.asarray(picture).astype(np.int32)
        if spread > 1:
            values //= spread
        if picture.mode == "P":
            _require_indices(path, values, np.array(picture.getpalette("RGB")).reshape(-1, 3))
        return values


def read_colour_ids(path: Path) -> UInt8[np.ndarray, "H W 3"]:
    """The pixels of a PNG whose colours are ids; one that was packed into a palette is unpacked.

    Raises:
        DatasetError: the file is missing, damaged, no PNG, not of 8 bits and three channels, or is turned by EXIF.
    """
    with opened_annotation(path) as picture:
        raw = raw_mode(picture) or picture.mode
        if picture.mode not in ("RGB", "P") or "16" in raw:
            raise DatasetError(
                f"{path} must be an RGB PNG with 8 bits per channel, whose colours are ids; got pixels of the kind "
                f"{raw!r}. Converting it would change ids: export it again."
            )
        return np.array(picture.convert("RGB"))


def is_eight_bit(path: Path) -> bool:
    """Whether a readable label picture has room for no number above 255."""
    with opened_annotation(path) as picture:
        return picture.mode in ("1", "L", "P")


def counted(values: Int32[np.ndarray, "H W"], wrong: Sequence[int]) -> str:
    """The first of the wrong values, with their numbers of pixels."""
    listed = ", ".join(f"{value} ({int((values == value).sum())} pixels)" for value in wrong[:8])
    return listed if len(wrong) <= 8 else f"{listed} and {len(wrong) - 8} more"


def connected_components(class_id: UInt8[np.ndarray, "H W"], classes: Sequence[int]) -> Int32[np.ndarray, "H W"]:
    """Number the 8-connected areas of one class each: 1, 2, ... in reading order of their first pixel, 0 elsewhere.

    Each row is cut into runs of one class; runs that touch in neighbouring rows are joined by union-find
    (Rosenfeld and Pfaltz, 1966), so the work in Python grows with the touching runs, not with the pixels.
    """
    width = class_id.shape[1]
    begins = np.ones(class_id.shape, dtype=bool)
    np.not_equal(class_id[:, 1:], class_id[:, :-1], out=begins[:, 1:])
    first = np.flatnonzero(begins)
    lengths, value = np.diff(first, append=class_id.size), class_id.ravel()[first]
    wanted = np.flatnonzero(np.isin(value, np.array(list(classes), dtype=np.uint8)))

    parent = list(range(len(wanted)))
    for a, b in _touching_runs(first[wanted], (first + lengths)[wanted], value[wanted], width):
        low, high = sorted((_root(parent, a), _root(parent, b)))
        parent[high] = low

    roots = np.array([_root(parent, i) for i in range(len(parent))], dtype=np.int64)
    number = np.zeros(len(first), dtype=np.int32)
    number[wanted] = np.unique(roots, return_inverse=True)[1] + 1
    return np.repeat(number, lengths).reshape(class_id.shape)


def _touching_runs(
    first: Int64[np.ndarray, "R"], end: Int64[np.ndarray, "R"], value: UInt8[np.ndarray, "R"], width: int
) -> list[list[int]]:
    """Pairs of runs of one class in neighbouring rows that touch, be it by a corner.

    Runs lie one after another in the flat map, so that those above a run are a stretch of them: from the first that
    does not end before it begins to the last that does not begin after it ends.
    """
    above = np.searchsorted(end, first - width)
    count = np.maximum(np.searchsorted(first, end - width, side="right") - above, 0)
    lower = np.repeat(np.arange(len(first)), count)
    upper = np.arange(len(lower)) + np.repeat(above - (np.cumsum(count) - count), count)
    row = first // width  # a stretch may reach into the row before or after, around the edge of the map
    touch = (row[upper] == row[lower] - 1) & (value[upper] == value[lower])
    return np.stack([upper[touch], lower[touch]], axis=1).tolist()


def _root(parent: list[int], i: int) -> int:
    while parent[i] != i:
        parent[i] = parent[parent[i]]
        i = parent[i]
    return i


@contextmanager
def opened_annotation(path: Path) -> Iterator[Image.Image]:
    """A label picture, not yet decoded.

    Raises:
        DatasetError: the file is missing, damaged, no PNG, or turned by EXIF; also inside the ``with``.
    """
    try:
        with Image.open(path) as picture:
            if not isinstance(picture, PngImagePlugin.PngImageFile):
                name = picture.format or "unknown"
                reason = why_no_format(name, lossy=name in ("JPEG", "WEBP", "AVIF", "JPEG2000"))
                raise DatasetError(f"The annotation {path} must be a PNG, {reason}.")
            if (orientation := orientation_of(picture)) != 1:
                raise DatasetError(
                    f"The annotation {path} has an EXIF orientation ({orientation}): there is no telling which way up "
                    "it is meant. Turn its pixels to suit the picture as it is shown and save it without EXIF."
                )
            yield picture
    except DatasetError:
        raise
    except UNREADABLE as error:
        raise DatasetError(f"Cannot read the annotation {path}: {found_instead(path) or error}") from None


def _require_indices(path: Path, values: Int32[np.ndarray, "H W"], palette: np.ndarray) -> None:
    """Programs that make PNGs smaller turn grey numbers into a palette of greys in some order of their own.

    ``palette`` is [n 3] bytes.
    """
    used = np.unique(values)
    colours = palette[used[used < len(palette)]]
    greys = colours[:, 0]
    if (colours == greys[:, None]).all() and len(set(greys.tolist())) == len(used) and (greys != used).any():
        raise DatasetError(
            f"{path} has a palette of greys ({greys[:8].tolist()}) under other indices ({used[:8].tolist()}), so it is "
            "open which of the two are the numbers; save it again in 8-bit grey."
        )


def _colour_coding(picture: Image.Image) -> str:
    """What a picture with several channels seems to be, to be added to a sentence."""
    colours = picture.convert("RGB").getcolors(maxcolors=_MOST_COLOURS)
    if colours is None:
        return ", more colours than classes could have; is it a photograph?"
    found: set[Any] = {rgb for _, rgb in colours}
    street = {row.colour for row in Taxonomy.load("cityscapes").classes} | {(0, 0, 0)}
    if found <= street:
        known = " in Cityscapes' colours, as *_gtFine_color.png"
    elif set(np.unique(np.array([*found]))) <= set(_CAMVID_LEVELS):
        known = " in the colours of CamVid's 32 classes, as *_L.png"
    else:
        known = ""
    return f": {len(found)} colours for people to look at{known}. The class or instance numbers are in another file"
