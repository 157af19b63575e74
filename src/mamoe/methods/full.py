"""Fine-tuning every weight of the UNet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel


@dataclass(frozen=True, kw_only=True, slots=True)
class Full:
    """Every weight trains."""

    name: ClassVar[str] = "full"
    keeps_adapter_alone: ClassVar[bool] = False

    def prepare(self, unet: UNet2DConditionModel, *, seed: int) -> UNet2DConditionModel:
        unet.requires_grad_(True)
        return unet

    def merged(self, unet: UNet2DConditionModel) -> UNet2DConditionModel:
        return unet
