"""What is shown to a model: a picture, or one object of it on black."""

from __future__ import annotations

import io

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from mamoe.vocabulary.panoptic import PanopticMap

_QUALITY = 92


def object_crop(
    picture: UInt8[np.ndarray, "H W 3"], panoptic: PanopticMap, segment: int, margin: float
) -> UInt8[np.ndarray, "h w 3"]:
    """The box around a segment, black wherever the segment is not.

    Args:
        picture: RGB in [0, 255].
        panoptic: its map, of the same size.
        segment: id of a segment in the map.
        margin: how much wider the box is on each side, as a share of its own side; it ends at the picture's border.

    Raises:
        ValueError: the sizes differ, or the map has no such segment.
    """
    if picture.shape[:2] != panoptic.size:
        raise ValueError(f"the picture has (height, width) {picture.shape[:2]}, its map {panoptic.size}")
    inside = panoptic.segment_id == segment
    rows, columns = _span(inside.any(axis=1), margin), _span(inside.any(axis=0), margin)
    if rows is None or columns is None:
        raise ValueError(f"the map has no segment {segment}")
    return np.where(inside[rows, columns, None], picture[rows, columns], np.uint8(0))


def shrunk(picture: UInt8[np.ndarray, "H W 3"], longest_side: int) -> UInt8[np.ndarray, "h w 3"]:
    """The picture, made smaller where its longer side has more than ``longest_side`` pixels."""
    longer = max(picture.shape[:2])
    if longer <= longest_side:
        return picture
    height, width = (max(1, round(side * longest_side / longer)) for side in picture.shape[:2])
    return np.array(Image.fromarray(picture).resize((width, height), Image.Resampling.LANCZOS))


def jpeg(picture: UInt8[np.ndarray, "H W 3"]) -> bytes:
    """The picture as a JPEG file."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="JPEG", quality=_QUALITY)
    return buffer.getvalue()


def _span(hit: np.ndarray, margin: float) -> slice | None:
    places = np.flatnonzero(hit)
    if not places.size:
        return None
    first, last = int(places[0]), int(places[-1]) + 1
    extra = round(margin * (last - first))
    return slice(max(0, first - extra), min(len(hit), last + extra))
