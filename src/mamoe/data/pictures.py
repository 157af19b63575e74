"""Reading the photographs of a data set."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, PngImagePlugin

from mamoe.data.panoptic import UNREADABLE
from mamoe.types import DatasetError

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".webp")
CONTACT_SHEET = "contact_sheet.png"  # what a sampling job adds to its pictures; never one of them
_EIGHT_BIT = ("1", "CMYK", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "YCbCr")


def read_picture(path: Path) -> UInt8[np.ndarray, "H W 3"]:
    """Read a picture as RGB in [0, 255]; grey becomes RGB, transparency is dropped.

    Raises:
        DatasetError: the file is missing, damaged, no picture, or has more than 8 bits per channel.
    """
    with _opened(path) as picture:
        return np.array(picture.convert("RGB"))


def picture_size(path: Path) -> tuple[int, int]:
    """(H, W) of a picture, from its header alone.

    Raises:
        DatasetError: as :func:`read_picture`, as far as the header tells.
    """
    with _opened(path) as picture:
        return picture.height, picture.width


def check_picture(path: Path) -> tuple[int, int]:
    """(H, W) of a picture, once its whole file was found sound: a PNG by its check sums, others by decoding them.

    Raises:
        DatasetError: as :func:`read_picture`.
    """
    with _opened(path) as picture:
        if isinstance(picture, PngImagePlugin.PngImageFile):
            picture.verify()  # forty times as fast as decoding, and as sure to see what is cut off or damaged
        else:
            picture.load()
    return picture_size(path)


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    try:
        with Image.open(path) as picture:
            if picture.mode not in _EIGHT_BIT:
                raise DatasetError(f"The picture {path} has pixels of the kind {picture.mode!r}; convert it to 8 bits.")
            yield picture
    except DatasetError:
        raise
    except FileNotFoundError:
        raise DatasetError(f"There is no picture {path}.") from None
    except UNREADABLE as error:
        raise DatasetError(f"Cannot read the picture {path}: {error}") from None
