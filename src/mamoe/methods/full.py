"""Fine-tuning every weight of the UNet."""

from __future__ import annotations

from dataclasses import dataclass

from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

from mamoe.methods.method import require_fits
from mamoe.methods.options import FullOptions


@dataclass(frozen=True, kw_only=True, slots=True)
class Full(FullOptions):
    """Every weight trains."""

    def prepare(self, unet: UNet2DConditionModel, *, seed: int) -> UNet2DConditionModel:
        require_fits(unet, self.name)
        unet.requires_grad_(True)
        return unet

    def merged(self, unet: UNet2DConditionModel) -> UNet2DConditionModel:
        return unet
