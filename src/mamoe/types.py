"""Boundary objects that need no torch. The error classes are re-exported from :mod:`mamoe.errors`.

Letters used in every signature of the package: B images · R regions of an image · E experts · S text tokens ·
D text width · H, W pixels · h, w latent cells · N = h*w cells of one UNet level · L levels · C channels ·
K entries of a layout table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Int16, Int32, UInt8

from mamoe.errors import ConfigError, DatasetError, MamoeError, NonFiniteLossError

__all__ = [
    "ConfigError",
    "DatasetError",
    "Framing",
    "MamoeError",
    "NonFiniteLossError",
    "PanopticMap",
    "RegionPrompts",
]

MAX_SEGMENT_ID = 0xFFFF


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PanopticMap:
    """Which segment and which class every pixel belongs to.

    On disk an RGB PNG: segment id = R*256 + G, class id = B. Segment id 0 means "no segment". A class without
    segments of its own (stuff) may carry segment ids too.

    Raises:
        ValueError: the two arrays differ in size or type, an id is out of range, or a segment has two classes.
    """

    segment_id: Int32[np.ndarray, "H W"]  # in [0, 65535]
    class_id: UInt8[np.ndarray, "H W"]
    class_of_segment: Int16[np.ndarray, "ids"] = field(init=False, repr=False)
    """Class of every segment id up to the largest, -1 where the map has no such segment; of id 0, any of its own."""

    def __post_init__(self) -> None:
        segment, klass = self.segment_id, self.class_id
        if segment.ndim != 2 or segment.shape != klass.shape:
            raise ValueError(
                "A panoptic map needs two arrays [H W] of one size, "
                f"got segment_id {segment.shape} and class_id {klass.shape}."
            )
        if segment.dtype != np.int32 or klass.dtype != np.uint8:
            raise ValueError(
                f"A panoptic map needs segment_id int32 and class_id uint8, got {segment.dtype} and {klass.dtype}."
            )
        if segment.size == 0:
            raise ValueError("A panoptic map needs at least one pixel, got an empty one.")
        if segment.min() < 0 or segment.max() > MAX_SEGMENT_ID:
            raise ValueError(f"Segment ids must lie in [0, {MAX_SEGMENT_ID}], got {segment.min()} to {segment.max()}.")
        table = np.full(int(segment.max()) + 1, -1, dtype=np.int16)
        table[segment] = klass  # one pass over the pixels, where sorting them would take a hundred times as long
        object.__setattr__(self, "class_of_segment", table)
        odd = np.take(table, segment) != klass  # the last pixel of a segment decided; in a good map all agree
        mixed = sorted({int(i) for i in np.unique(segment[odd])} - {0})
        if mixed:
            raise ValueError(
                f"Every segment must have one class, but segments {mixed[:8]} have several. Give each its own id."
            )

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) in pixels."""
        return self.segment_id.shape[0], self.segment_id.shape[1]

    @property
    def classes(self) -> dict[int, int]:
        """Class id of every segment in the map, segment 0 left out, in order of the ids."""
        return {int(i): int(self.class_of_segment[i]) for i in np.flatnonzero(self.class_of_segment >= 0) if i != 0}

    @classmethod
    def read(cls, path: str | Path) -> PanopticMap:
        """Read the RGB PNG at ``path``."""
        from mamoe.data.panoptic import read_panoptic

        return read_panoptic(Path(path))

    def write(self, path: str | Path) -> None:
        """Write the RGB PNG to ``path``."""
        from mamoe.data.panoptic import write_panoptic

        write_panoptic(self, Path(path))


@dataclass(frozen=True, kw_only=True, slots=True)
class RegionPrompts:
    """What the user wrote about one picture."""

    global_prompt: str = ""
    by_segment: Mapping[int, str] = field(default_factory=dict)  # segment id -> instance prompt


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
