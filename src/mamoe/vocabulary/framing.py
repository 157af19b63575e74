"""How a picture was cut out of its file."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Framing:
    """How a picture was cut out of its file: what SDXL is told beside the prompt (Podell et al. 2023, section 2.2)."""

    original: tuple[int, int]  # (H, W) of the file in pixels, before any resize
    crop: tuple[int, int]  # (top, left) of the picture in the resized file; of the mirrored one if it was mirrored
    target: tuple[int, int]  # (H, W) of the picture

    @classmethod
    def whole(cls, size: tuple[int, int]) -> Framing:
        """A picture of ``size`` (H, W) that is all of its file, neither resized nor cropped."""
        return cls(original=size, crop=(0, 0), target=size)
