"""The orientation that EXIF asks for: how the stored pixels must be turned to stand upright."""

from __future__ import annotations

import struct

from PIL import ExifTags, Image, PngImagePlugin

UPRIGHT = {  # orientation -> what makes the picture upright; 1 needs nothing
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
ON_THEIR_SIDE = (5, 6, 7, 8)  # height and width are exchanged


def orientation_of(picture: Image.Image) -> int:
    """1 to 8, from the header alone where that tells.

    It is 1 where there is no EXIF or where that is damaged: the pixels may be fine, and viewers show them as they are.
    """
    try:
        if isinstance(picture, PngImagePlugin.PngImageFile) and _exif_follows_pixels(picture):
            picture.load()
        # PngImageFile's own getexif decodes every picture in search of a chunk behind its pixels.
        found = Image.Image.getexif(picture).get(ExifTags.Base.Orientation, 1)
    except (SyntaxError, ValueError, EOFError, struct.error):
        return 1
    return found if found in UPRIGHT else 1


def _exif_follows_pixels(picture: PngImagePlugin.PngImageFile) -> bool:
    if "exif" in picture.info or not picture.tile or not picture.filename:
        return False
    with open(picture.filename, "rb") as file:
        file.seek(8)
        while len(head := file.read(8)) == 8:
            length, kind = struct.unpack(">I4s", head)
            if kind == b"eXIf":
                return True
            file.seek(length + 4, 1)
    return False
