"""Pictures inside a page."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

Picture = UInt8[np.ndarray, "H W 3"]
_JPEG_QUALITY = 92


def png_uri(image: Picture) -> str:
    """For maps: few colours, sharp edges."""
    return _uri(image, "png", {"format": "PNG", "optimize": True})


def jpeg_uri(image: Picture) -> str:
    """For pictures."""
    return _uri(image, "jpeg", {"format": "JPEG", "quality": _JPEG_QUALITY, "subsampling": 0})


def _uri(image: Picture, kind: str, options: dict[str, Any]) -> str:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, **options)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
