"""Fine-tuning a UNet that sees the latent of a condition picture beside the noisy one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from diffusers import UNet2DConditionModel

from mamoe.models.concat import widened


@dataclass(frozen=True, kw_only=True, slots=True)
class Concat:
    """The first layer takes twice the channels, see :func:`mamoe.models.concat.widened`; every weight trains.

    The output stays what it was where the condition equals the noisy latent.
    """

    keeps_adapter_alone: ClassVar[bool] = False

    def prepare(self, unet: UNet2DConditionModel, *, seed: int) -> UNet2DConditionModel:
        return widened(unet).requires_grad_(True)

    def merged(self, unet: UNet2DConditionModel) -> UNet2DConditionModel:
        return unet
