"""Joint geometry: picture and panoptic map are resized, cropped and flipped as one.

The map travels as the three byte planes of its PNG: they are resized natively, and no id is ever interpolated.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2

from mamoe.data.geometry.buckets import bucket_size
from mamoe.data.geometry.extra import apply_extra, with_map_fill
from mamoe.data.geometry.sizes import MULTIPLE, covering, in_cells
from mamoe.errors import ConfigError
from mamoe.vocabulary.framing import Framing


class Crop(StrEnum):
    """What is cut out after the resize that just covers the wanted size."""

    RANDOM = "random"
    CENTER = "center"


@dataclass(frozen=True, kw_only=True, slots=True)
class Placement:
    """What becomes of one picture and its map, every choice made: resize, then crop, then mirror."""

    resized: tuple[int, int]  # (H, W)
    corner: tuple[int, int]  # of the crop: (top, left)
    size: tuple[int, int]  # (H, W) of the crop
    mirrored: bool

    def __str__(self) -> str:
        def by(pair: tuple[int, int]) -> str:
            return f"{pair[0]}x{pair[1]}"

        mirrored = ", mirrored" if self.mirrored else ""
        return f"resized to {by(self.resized)}, cut at {self.corner} to {by(self.size)}{mirrored}"

    def picture(self, image: UInt8[Tensor, "3 H0 W0"]) -> UInt8[Tensor, "3 H W"]:
        """A picture as placed; bicubic, antialiased."""
        bicubic = InterpolationMode.BICUBIC
        return self._cut(v2.functional.resize_image(image, list(self.resized), interpolation=bicubic, antialias=True))

    def planes(self, planes: UInt8[Tensor, "3 H0 W0"]) -> UInt8[Tensor, "3 H W"]:
        """The byte planes of a map as placed; nearest-exact."""
        return self._cut(_nearest_exact(planes, self.resized))

    def framing(self, original: tuple[int, int]) -> Framing:
        """The same in words of the file, which is ``original`` (H, W) large."""
        top, left = self.corner
        if self.mirrored:
            left = self.resized[1] - self.size[1] - left
        return Framing(original=original, crop=(top, left), target=self.size)

    def _cut(self, pixels: Tensor) -> Tensor:
        (top, left), (height, width) = self.corner, self.size
        cut = pixels[..., top : top + height, left : left + width]
        return (cut.flip(-1) if self.mirrored else cut).contiguous()


def _nearest_exact(planes: UInt8[Tensor, "3 H0 W0"], size: tuple[int, int]) -> UInt8[Tensor, "3 H W"]:
    (height, width), (new_height, new_width) = planes.shape[-2:], size
    if height % new_height == 0 and width % new_width == 0:  # the usual way: every second pixel, say, is a view
        down, across = height // new_height, width // new_width
        return planes[..., down // 2 :: down, across // 2 :: across]
    # The dispatcher resizes a Mask by `nearest`, which is half a pixel off; the image kernel knows nearest-exact.
    return v2.functional.resize_image(planes, list(size), interpolation=InterpolationMode.NEAREST_EXACT)


@dataclass(frozen=True, kw_only=True, slots=True)
class Geometry:
    """How a picture and its map reach the size the model is trained at.

    ``size`` (H, W) without a crop squeezes the picture to exactly that size; with a crop the picture is resized,
    keeping its aspect, until it covers (H, W), and the crop is taken from it. A whole number is the short side: the
    aspect is kept and the long side is cut at its centre to a multiple of 8 (or of ``multiple``), or a square is
    cropped. With ``buckets`` the picture is squeezed, a little, to the nearest of a few sizes that have the area of
    ``size`` (of a square, for a whole number): see :mod:`mamoe.data.geometry.buckets`.

    Random choices are drawn from torch's global generator, as torchvision does; see
    :class:`mamoe.data.dataset.LayoutDataset`, which seeds it per sample.

    Raises:
        ConfigError: a size is not a positive multiple of ``multiple``, the crop is unknown or stands beside
            ``buckets``, ``flip`` is no probability, or a transform's ``fill`` names what torchvision does not know.
    """

    size: Sequence[int] | int  # (H, W), or the short side
    crop: Crop | str | None = None
    flip: float = 0.0  # probability of a horizontal flip
    buckets: bool = False
    extra: Sequence[Callable[..., Any]] = ()  # torchvision v2 transforms that keep size and dtype; see extra.py
    # Of a size: 8; more where a network takes cells in patches; 1 where pictures meet no autoencoder.
    multiple: int = field(default=MULTIPLE, repr=False)

    def __post_init__(self) -> None:
        problems = []
        size = self.size if isinstance(self.size, int) else tuple(self.size)
        sides = (size,) if isinstance(size, int) else size
        if len(sides) > 2 or not all(
            isinstance(side, int) and side > 0 and side % self.multiple == 0 for side in sides
        ):
            divisible = "" if self.multiple == 1 else f" and divisible by {self.multiple}"
            problems.append(f"size must be (height, width) or the short side, positive{divisible}; got {size}")
        if self.crop is not None and self.crop not in list(Crop):
            problems.append(f"crop must be one of {', '.join(Crop)} or null; got {self.crop!r}")
        if self.crop is not None and self.buckets:
            problems.append(f"buckets are there so that nothing is cropped, but crop is {self.crop!r}: set it to null")
        if not 0.0 <= self.flip <= 1.0:
            problems.append(f"flip must be a probability in [0, 1]; got {self.flip}")
        if problems:
            raise ConfigError("The data geometry is wrong: " + "; ".join(problems) + ".")
        object.__setattr__(self, "size", size)
        object.__setattr__(self, "crop", None if self.crop is None else Crop(self.crop))
        object.__setattr__(self, "extra", tuple(map(with_map_fill, self.extra)))

    def for_evaluation(self) -> Geometry:
        """The same sizes without any chance: centre crop for random crop, no flip, no extra transforms."""
        return replace(self, crop=None if self.crop is None else Crop.CENTER, flip=0.0, extra=())

    def __call__(
        self, image: UInt8[Tensor, "3 H0 W0"], planes: UInt8[Tensor, "3 H0 W0"], void_id: int
    ) -> tuple[UInt8[Tensor, "3 H W"], UInt8[Tensor, "3 H W"], Framing]:
        """Transform a picture and the RGB planes of its map, and say what was cut out; H and W are divisible by 8.

        Args:
            image: RGB in [0, 255].
            planes: R, G and B of the panoptic PNG.
            void_id: class of pixels that an extra transform turned in from outside the picture; their segment is 0.

        Raises:
            ConfigError: an extra transform fails, or changes the size or the dtype.
        """
        image, planes, _, framing = self.with_condition(image, planes, None, void_id)
        return image, planes, framing

    def with_condition(
        self,
        image: UInt8[Tensor, "3 H0 W0"],
        planes: UInt8[Tensor, "3 H0 W0"],
        condition: UInt8[Tensor, "3 H0 W0"] | None,
        void_id: int,
    ) -> tuple[UInt8[Tensor, "3 H W"], UInt8[Tensor, "3 H W"], UInt8[Tensor, "3 H W"] | None, Framing]:
        """As a call, with a condition picture: resized as a picture; extra transforms move, but never recolour it."""
        original = (image.shape[-2], image.shape[-1])
        placement = self.draw(*original)
        # A condition picture travels on with the planes of the map: moved as they are, never recoloured.
        shown = [] if condition is None else [placement.picture(condition)]
        moved = torch.cat([placement.planes(planes), *shown])
        image, moved = apply_extra(self.extra, placement.picture(image), moved, void_id=void_id)
        condition = None if condition is None else moved[3:].contiguous()
        return image.contiguous(), moved[:3].contiguous(), condition, placement.framing(original)

    def draw(self, height: int, width: int) -> Placement:
        """One of the placements a picture of this size may get, by torch's global generator."""
        resized = self._resized_size(height, width)
        size = self._cropped_size(resized)
        top, left = (self._offset(whole, cut) for whole, cut in zip(resized, size, strict=True))
        mirrored = self.flip == 1 or (self.flip > 0 and bool(torch.rand(()) < self.flip))
        return Placement(resized=resized, corner=(top, left), size=size, mirrored=mirrored)

    def size_of(self, height: int, width: int) -> tuple[int, int]:
        """The (H, W) that a picture of ``height`` x ``width`` gets."""
        return self._cropped_size(self._resized_size(height, width))

    def variants(self, height: int, width: int) -> tuple[Placement, ...]:
        """Every placement that a picture of this size may get.

        Raises:
            ConfigError: there is no telling: the crop is random, or extra transforms change the picture.
        """
        if (reason := self.unpredictable) is not None:
            raise ConfigError(f"The pictures cannot be encoded ahead: {reason}.")
        fixed = replace(self, flip=0.0).draw(height, width)
        mirrored = [flag for flag, share in ((False, 1 - self.flip), (True, self.flip)) if share > 0]
        return tuple(replace(fixed, mirrored=flag) for flag in mirrored)

    @property
    def unpredictable(self) -> str | None:
        """Why a picture's pixels differ in every pass over the data, flips aside; None where they do not."""
        if self.crop is Crop.RANDOM:
            return "a random crop shows another part of the picture in every epoch"
        return "extra transforms change the picture in every epoch" if self.extra else None

    @property
    def _target(self) -> tuple[int, int]:
        height, width = (self.size, self.size) if isinstance(self.size, int) else self.size
        return height, width

    @property
    def _cells(self) -> int:
        return max(self.multiple, MULTIPLE)

    def _resized_size(self, height: int, width: int) -> tuple[int, int]:
        if self.buckets:
            return bucket_size((height, width), self._target, self._cells)
        if self.crop is None and not isinstance(self.size, int):
            return self._target
        return covering((height, width), self._target)

    def _cropped_size(self, resized: tuple[int, int]) -> tuple[int, int]:
        if self.crop is None:
            return in_cells(resized, self._cells)
        return self._target

    def _offset(self, whole: int, cut: int) -> int:
        if self.crop is Crop.RANDOM and whole > cut:
            return int(torch.randint(whole - cut + 1, ()))
        return round((whole - cut) / 2)
