"""What a file that is no panoptic PNG looks like, and which import serves."""

from __future__ import annotations

from PIL import Image, ImageFile, PngImagePlugin

_LOSSY = frozenset({"AVIF", "HEIF", "JPEG", "JPEG2000", "MPO", "WEBP"})
_LOSSY_SUFFIXES = frozenset({".avif", ".heic", ".heif", ".jfif", ".jp2", ".jpeg", ".jpg", ".webp"})
_INDICES = (
    "`mamoe prepare camvid` reads maps of class indices, with instances from connected areas; for classes of your own "
    "write segment id and class id into R, G and B (see docs/data.md)"
)


def raw_mode(picture: Image.Image) -> str:
    """How a file stores its pixels, before PIL drops the low bytes of 16-bit colours; empty where PIL does not say."""
    tile = picture.tile if isinstance(picture, ImageFile.ImageFile) else ()
    args = tile[0].args if tile else ""
    first = args[0] if isinstance(args, tuple) and args else args
    return first if isinstance(first, str) else ""


def why_no_map(picture: Image.Image) -> str | None:
    """Why an opened picture is no panoptic PNG, as far as its header tells; None: it may be one."""
    if not isinstance(picture, PngImagePlugin.PngImageFile):
        return why_no_format(picture.format or "unknown", lossy=picture.format in _LOSSY)
    raw, mode = raw_mode(picture) or picture.mode, picture.mode
    if mode == "P":
        return f"got a palette PNG: one class index per pixel, as PASCAL VOC and ADE20K have them. {_INDICES}"
    if mode.startswith("I"):
        return (
            f"got one channel of 16 bits ({raw!r}): an id per pixel, such as class * 1000 + instance (Cityscapes) or "
            "class * 256 + instance (Mapillary Vistas). `mamoe prepare cityscapes` reads *_gtFine_instanceIds.png; for "
            "other divisors divide, and write segment id and class id into R, G and B (see docs/data.md)"
        )
    if mode in ("1", "L", "LA"):
        return (
            f"got one channel ({raw!r}): one class index per pixel, as *_labelIds.png and *_labelTrainIds.png of "
            f"Cityscapes. {_INDICES}; `mamoe prepare cityscapes` reads *_instanceIds.png"
        )
    if "16" in raw:
        return f"got 16 bits per channel ({raw!r}), whose low bytes would be dropped. Export the map again with 8 bits"
    if mode == "RGBA":
        return (
            "got an alpha channel (RGBA). Where R, G and B are the ids, save the file again without alpha; where they "
            "are colours for people to look at, the ids are in another file"
        )
    return None if mode == "RGB" else f"got pixels of the kind {raw!r}. Convert the file or export the map again"


def why_no_suffix(suffix: str) -> str:
    """Why a file with that ending cannot be a panoptic map."""
    return why_no_format(suffix.removeprefix(".").upper(), lossy=suffix.lower() in _LOSSY_SUFFIXES)


def why_no_format(name: str, *, lossy: bool) -> str:
    """Why a map in that format does not serve."""
    if lossy:
        return (
            f"got {name}. Lossy formats change ids, and no conversion brings them back: export the map again as PNG "
            "from what made it"
        )
    return f"got {name}. Save it again as PNG, without changing a pixel"
