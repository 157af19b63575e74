"""Joint geometry: picture and panoptic map are resized, cropped and flipped as one.

The map travels as the three byte planes of its PNG: they are resized natively, and no id is ever interpolated.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode, v2

from mamoe.types import ConfigError, Framing

MULTIPLE = 8  # pixels per latent cell: every size must be divisible by it


class Crop(StrEnum):
    """What is cut out after the resize that just covers the wanted size."""

    RANDOM = "random"
    CENTER = "center"


@dataclass(frozen=True, kw_only=True, slots=True)
class Geometry:
    """How a picture and its map reach the size the model is trained at.

    ``size`` (H, W) without a crop squeezes the picture to exactly that size; with a crop the picture is resized,
    keeping its aspect, until it covers (H, W), and the crop is taken from it. A whole number is the short side: the
    aspect is kept and the long side is cut at its centre to a multiple of 8, or a square is cropped.

    Random choices are drawn from torch's global generator, as torchvision does; see
    :class:`mamoe.data.dataset.LayoutDataset`, which seeds it per sample.

    Raises:
        ConfigError: a size is not a positive multiple of 8, the crop is unknown, or ``flip`` is no probability.
    """

    size: Sequence[int] | int  # (H, W), or the short side
    crop: Crop | str | None = None
    flip: float = 0.0  # probability of a horizontal flip
    extra: Sequence[Callable[..., Any]] = ()  # torchvision v2 transforms that keep size and dtype

    def __post_init__(self) -> None:
        problems = []
        size = self.size if isinstance(self.size, int) else tuple(self.size)
        sides = (size,) if isinstance(size, int) else size
        if len(sides) > 2 or not all(isinstance(side, int) and side > 0 and side % MULTIPLE == 0 for side in sides):
            problems.append(
                f"size must be (height, width) or the short side, positive and divisible by {MULTIPLE}; got {size}"
            )
        if self.crop is not None and self.crop not in list(Crop):
            problems.append(f"crop must be one of {', '.join(Crop)} or null; got {self.crop!r}")
        if not 0.0 <= self.flip <= 1.0:
            problems.append(f"flip must be a probability in [0, 1]; got {self.flip}")
        if problems:
            raise ConfigError("The data geometry is wrong: " + "; ".join(problems) + ".")
        object.__setattr__(self, "size", size)
        object.__setattr__(self, "crop", None if self.crop is None else Crop(self.crop))
        object.__setattr__(self, "extra", tuple(self.extra))

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
        original = (image.shape[-2], image.shape[-1])
        covered = self._resized_size(*original)
        size = self._cropped_size(covered)
        top, left = (self._offset(whole, cut) for whole, cut in zip(covered, size, strict=True))
        pair = [part[..., top : top + size[0], left : left + size[1]] for part in resize_pair(image, planes, covered)]
        if torch.rand(()) < self.flip:
            pair = [part.flip(-1) for part in pair]
            left = covered[1] - size[1] - left
        image, planes = apply_extra(self.extra, *pair, void_id=void_id)
        framing = Framing(original=original, crop=(top, left), target=size)
        return image.contiguous(), planes.contiguous(), framing

    @property
    def _target(self) -> tuple[int, int]:
        height, width = (self.size, self.size) if isinstance(self.size, int) else self.size
        return height, width

    def _resized_size(self, height: int, width: int) -> tuple[int, int]:
        if self.crop is None and not isinstance(self.size, int):
            return self._target
        least_height, least_width = self._target
        scale = max(least_height / height, least_width / width)
        return max(least_height, round(height * scale)), max(least_width, round(width * scale))

    def _cropped_size(self, covered: tuple[int, int]) -> tuple[int, int]:
        if self.crop is not None:
            return self._target
        return covered[0] - covered[0] % MULTIPLE, covered[1] - covered[1] % MULTIPLE

    def _offset(self, whole: int, cut: int) -> int:
        if self.crop is Crop.RANDOM and whole > cut:
            return int(torch.randint(whole - cut + 1, ()))
        return round((whole - cut) / 2)


def resize_pair(
    image: UInt8[Tensor, "3 H0 W0"], planes: UInt8[Tensor, "3 H0 W0"], size: tuple[int, int]
) -> tuple[UInt8[Tensor, "3 H W"], UInt8[Tensor, "3 H W"]]:
    """Resize a picture (bicubic, antialiased) and its map (nearest-exact) to (H, W)."""
    resized = v2.functional.resize_image(image, list(size), interpolation=InterpolationMode.BICUBIC, antialias=True)
    # The dispatcher resizes every Mask by `nearest`, which is half a pixel off; the image kernel knows nearest-exact.
    ids = v2.functional.resize_image(planes, list(size), interpolation=InterpolationMode.NEAREST_EXACT)
    return resized, ids


def apply_extra(
    extra: Sequence[Callable[..., Any]], image: Tensor, planes: Tensor, *, void_id: int
) -> tuple[UInt8[Tensor, "3 H W"], UInt8[Tensor, "3 H W"]]:
    """Run users' transforms on the pair; pixels they bring in from outside become void without a segment."""
    wanted = tuple(image.shape)
    inside = torch.ones_like(planes[:1])
    ids: Tensor = tv_tensors.Mask(torch.cat([planes, inside]))
    image = tv_tensors.Image(image)
    for transform in extra:
        try:
            image, ids = transform(image, ids)
        except Exception as error:
            raise ConfigError(f"The extra transform {transform} fails on a picture and its map: {error}") from error
        if tuple(image.shape) != wanted or image.dtype != torch.uint8 or ids.shape[-2:] != image.shape[-2:]:
            raise ConfigError(
                f"An extra transform must keep the size and bytes of the picture {wanted}, but {transform} made "
                f"{image.dtype} {tuple(image.shape)}. Resize by `size` and leave scaling to the model."
            )
    plain, inside = ids[:3].as_subclass(Tensor), ids[3:].as_subclass(Tensor)
    outside = torch.tensor([0, 0, void_id], dtype=torch.uint8)[:, None, None]
    return image.as_subclass(Tensor), torch.where(inside > 0, plain, outside)
