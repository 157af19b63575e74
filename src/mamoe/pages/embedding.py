"""Pictures inside a page, and pages written whole or not at all."""

from __future__ import annotations

import base64
import io
import os
from pathlib import Path
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


def write_whole(text: str, path: Path) -> None:
    """Write a text file, whole or not at all."""
    temporary = path.with_name(f".{path.name}.partial")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _uri(image: Picture, kind: str, options: dict[str, Any]) -> str:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, **options)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
