"""Reading the photographs of a data set: upright, in colour, on black where they are transparent."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, PngImagePlugin, TiffImagePlugin, TiffTags

from mamoe.errors import DatasetError
from mamoe.storage.contents import found_instead
from mamoe.storage.png import decode_png
from mamoe.vocabulary.exif import ON_THEIR_SIDE, UPRIGHT, orientation_of
from mamoe.vocabulary.map_kinds import raw_mode
from mamoe.vocabulary.panoptic import UNREADABLE

SUFFIXES = (".avif", ".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
CONTACT_SHEET = "contact_sheet.png"  # what a sampling job adds to its pictures; never one of them
_CAMERA_RAW = (".arw", ".cr2", ".cr3", ".dng", ".nef", ".orf", ".raf", ".rw2")
_PROGRAMS = ("EPS",)  # PIL hands them to Ghostscript, which runs what strangers wrote
_EIGHT_BIT = ("1", "CMYK", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "YCbCr")
# Black is what most programs leave in transparent pixels: such pictures look as they did when alpha was dropped.
_BACKGROUND = (0, 0, 0, 255)
_LUMA = (0.299, 0.587, 0.114)  # of red, green and blue in grey, as PIL has it (ITU-R BT.601)


@dataclass(frozen=True, kw_only=True, slots=True)
class PictureHeader:
    """What the header of a picture says."""

    size: tuple[int, int]  # (H, W), upright
    orientation: int  # EXIF's, 1 to 8; 1: stored as it is shown
    alpha: bool  # pixels can be transparent
    frames: int  # of an animation, or pages; the first is read


def read_picture(path: Path) -> UInt8[np.ndarray, "H W 3"]:
    """Read a picture as RGB in [0, 255], as :func:`as_rgb` shows it; of several frames the first.

    Raises:
        DatasetError: the file is missing, damaged, no picture, or has more than 8 bits per channel.
    """
    with _opened(path) as picture:
        found = _plain(picture, path)
        return as_rgb(picture) if found is None else found


def as_rgb(picture: Image.Image) -> UInt8[np.ndarray, "H W 3"]:
    """The pixels of a picture, turned as its EXIF orientation says; grey becomes RGB, transparency is on black."""
    orientation = orientation_of(picture)
    if isinstance(picture, TiffImagePlugin.TiffImageFile):
        picture.load()  # which turns it already
        orientation = 1
    rgb = _on_background(picture)
    return np.array(rgb.transpose(UPRIGHT[orientation]) if orientation in UPRIGHT else rgb)


def picture_header(path: Path) -> PictureHeader:
    """What a picture's header says; no pixel is decoded.

    Raises:
        DatasetError: as :func:`read_picture`, as far as the header tells.
    """
    with _opened(path) as picture:
        return _header(picture)


def picture_size(path: Path) -> tuple[int, int]:
    """(H, W) of a picture as it is shown, from its header alone.

    Raises:
        DatasetError: as :func:`picture_header`.
    """
    return picture_header(path).size


def reading_of(path: Path) -> str:
    """What reading does to a picture's stored pixels, for names of cache entries; empty for most pictures.

    Raises:
        DatasetError: as :func:`picture_header`.
    """
    header = picture_header(path)
    turned = "" if header.orientation == 1 else f"-orientation{header.orientation}"
    return turned + ("-onblack" if header.alpha else "")


def is_transparent(path: Path) -> bool:
    """Whether a pixel of the picture is not opaque; decodes it where the header leaves that open.

    Raises:
        DatasetError: as :func:`read_picture`.
    """
    with _opened(path) as picture:
        if not picture.has_transparency_data:
            return False
        return bool(np.asarray(picture.convert("RGBA").getchannel("A")).min() < 255)


def why_unread(suffix: str) -> str:
    """What to do about files of that ending, to follow their names; empty where it is no ending of pictures."""
    if suffix in (".heic", ".heif", *_CAMERA_RAW):
        return "; convert them to JPEG or PNG, for example `magick mogrify -format jpg -auto-orient FILES`"
    if suffix in (".gif", ".jfif", ".jp2", ".jxl", ".pbm", ".pgm", ".ppm", ".psd", ".tga"):
        return "; convert them to PNG if they belong to the data"
    return ""


def _on_background(picture: Image.Image) -> Image.Image:
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    seen = picture.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", seen.size, _BACKGROUND), seen).convert("RGB")


def _header(picture: Image.Image) -> PictureHeader:
    orientation = orientation_of(picture)
    height, width = _stored_size(picture)
    return PictureHeader(
        size=(width, height) if orientation in ON_THEIR_SIDE else (height, width),
        orientation=orientation,
        alpha=picture.has_transparency_data,
        # The further pictures of a camera's JPEG are previews or another eye's.
        frames=1 if picture.format == "MPO" else getattr(picture, "n_frames", 1),
    )


def _stored_size(picture: Image.Image) -> tuple[int, int]:
    if isinstance(picture, TiffImagePlugin.TiffImageFile):  # PIL has turned its size already, depending on its release
        tags = {tag.name: number for number, tag in TiffTags.TAGS_V2.items()}
        return picture.tag_v2[tags["ImageLength"]], picture.tag_v2[tags["ImageWidth"]]
    return picture.height, picture.width


def check_picture(path: Path) -> PictureHeader:
    """Read all of a picture's file: a PNG's check sums are compared, others are decoded.

    Raises:
        DatasetError: as :func:`read_picture`.
    """
    with _opened(path) as picture:
        header = _header(picture)
        if isinstance(picture, PngImagePlugin.PngImageFile):
            picture.verify()  # forty times as fast as decoding, and as sure to see what is cut off or damaged
        else:
            _draft(picture, 8)
            picture.load()
        return header


def shrunk_grey(path: Path, side: int) -> tuple[UInt8[np.ndarray, "h w"], PictureHeader, str]:
    """A picture in grey as it is shown, at least ``side`` pixels along its longer side where it has so many; its
    header; and PIL's word for how its pixels are stored. All of the file is read, as by :func:`check_picture`, a JPEG
    in less time.

    Raises:
        DatasetError: as :func:`read_picture`.
    """
    with _opened(path) as picture:
        if isinstance(picture, PngImagePlugin.PngImageFile):
            picture.verify()  # which leaves it closed
    with _opened(path) as picture:
        header, mode, factor = _header(picture), picture.mode, max(1, max(picture.size) // side)
        _draft(picture, factor)
        if header.orientation != 1 or header.alpha or picture.mode not in ("L", "RGB"):
            return np.asarray(Image.fromarray(as_rgb(picture)).convert("L")), header, mode
        if (found := _plain(picture, path)) is not None:
            return _grey_of(found, factor), header, mode
        return np.asarray(picture.reduce(max(1, max(picture.size) // side)).convert("L")), header, mode


def _plain(picture: Image.Image, path: Path) -> UInt8[np.ndarray, "H W 3"] | None:
    """The pixels of a PNG that is shown as it is stored; None of any other file."""
    if not isinstance(picture, PngImagePlugin.PngImageFile) or picture.mode != "RGB":
        return None
    header = _header(picture)
    return None if header.alpha or header.orientation != 1 or header.frames > 1 else decode_png(path)


def _grey_of(rgb: UInt8[np.ndarray, "H W 3"], factor: int) -> UInt8[np.ndarray, "h w"]:
    """As PIL's ``reduce`` and ``convert("L")`` to within a level, faster where ``factor`` divides both sides."""
    height, width = rgb.shape[0] // factor, rgb.shape[1] // factor
    if factor > 256 or (height * factor, width * factor) != rgb.shape[:2]:  # 16 bits hold the sums of so many rows
        return np.asarray(Image.fromarray(rgb).reduce(factor).convert("L"))
    rows = rgb.reshape(height, factor, -1)
    sums = rows[:, 0].astype(np.uint16)
    for i in range(1, factor):
        sums += rows[:, i]
    weights = np.tile(np.array(_LUMA, dtype=np.float32) / factor**2, factor)
    return (sums.reshape(height, width, -1).astype(np.float32) @ weights + 0.5).astype(np.uint8)


def _draft(picture: Image.Image, factor: int) -> None:
    """Have a JPEG decoded in grey, up to ``factor`` times smaller: all of it is read, little of it is computed."""
    picture.draft("L", (max(1, picture.width // factor), max(1, picture.height // factor)))


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    try:
        with Image.open(path) as picture:
            if picture.format in _PROGRAMS:
                raise DatasetError(
                    f"The picture {path} is {picture.format} inside, whatever its name says; convert it."
                )
            if picture.mode not in _EIGHT_BIT or ";16" in raw_mode(picture):
                kind = raw_mode(picture) or picture.mode
                raise DatasetError(f"The picture {path} has pixels of the kind {kind!r}; convert it to 8 bits.")
            yield picture
    except DatasetError:
        raise
    except FileNotFoundError:
        raise DatasetError(f"There is no picture {path}.") from None
    except UNREADABLE as error:
        raise DatasetError(f"Cannot read the picture {path}: {found_instead(path) or error}") from None
