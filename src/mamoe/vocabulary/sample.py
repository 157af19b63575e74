"""One picture with its map and prompts, after the joint geometry: what a data set gives."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8
from torch import Tensor

from mamoe.vocabulary.framing import Framing
from mamoe.vocabulary.panoptic import PanopticMap
from mamoe.vocabulary.prompts import RegionPrompts

LATENT_CELL = 8  # pixels per side


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Sample:
    """One picture with its map and prompts, after the joint geometry, before any conditioning.

    The picture is there as pixels, or encoded: as the posterior of the autoencoder, from a cache.
    """

    key: str  # file name
    index: int  # position in the split's order
    epoch: int  # which pass over the data drew it: augmentation, noise and dropout derive from (seed, epoch, index)
    image: UInt8[Tensor, "3 H W"] | None
    panoptic: PanopticMap  # [H W]
    prompts: RegionPrompts
    framing: Framing | None = None  # None: the picture is all of its file
    moments: Float[Tensor, "2 C h w"] | None = None  # mean and standard deviation, not scaled
    condition: UInt8[Tensor, "3 H W"] | None = None  # the picture that methods with a picture input are shown, RGB

    def __post_init__(self) -> None:
        if (self.image is None) == (self.moments is None):
            raise ValueError(f"{self.key}: a sample has either pixels or an encoded picture.")
        if self.moments is not None:
            size = (self.moments.shape[-2] * LATENT_CELL, self.moments.shape[-1] * LATENT_CELL)
        else:
            assert self.image is not None
            size = tuple(self.image.shape[-2:])
        if size != self.panoptic.size:
            raise ValueError(f"{self.key}: picture {size} and map {self.panoptic.size} (H, W) differ in size.")
        if size[0] % LATENT_CELL or size[1] % LATENT_CELL:
            raise ValueError(f"{self.key}: height and width must be divisible by 8, got {size}.")

    @property
    def picture(self) -> UInt8[np.ndarray, "H W 3"]:
        """The pixels as imaging libraries want them.

        Raises:
            ValueError: the sample is encoded.
        """
        if self.image is None:
            raise ValueError(f"{self.key}: the sample holds an encoded picture, no pixels.")
        return np.ascontiguousarray(self.image.permute(1, 2, 0).numpy())
