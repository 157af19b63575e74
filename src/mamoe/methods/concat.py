"""Fine-tuning a UNet that sees the latent of a condition picture beside the noisy one."""

from __future__ import annotations

from dataclasses import dataclass

from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

from mamoe.methods.method import require_pictures
from mamoe.methods.options import ConcatOptions
from mamoe.models.control.call import Control, control_of
from mamoe.models.control.concat import widened


@dataclass(frozen=True, kw_only=True, slots=True)
class Concat(ConcatOptions):
    """The first layer takes twice the channels, see :func:`mamoe.models.control.concat.widened`; every weight trains.

    A first layer that takes them already goes on as it is. The output stays what it was where the condition equals the
    noisy latent.
    """

    def prepare(self, unet: UNet2DConditionModel, *, seed: int) -> UNet2DConditionModel:
        require_pictures(unet, self.name)
        wide = unet if control_of(unet) is Control.LATENT else widened(unet)
        return wide.requires_grad_(True)

    def merged(self, unet: UNet2DConditionModel) -> UNet2DConditionModel:
        return unet
