"""Fine-tuning the UNet's decoder."""

from __future__ import annotations

from dataclasses import dataclass

from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

from mamoe.methods.method import require_decoder, train_strengths
from mamoe.methods.options import DecoderOptions
from mamoe.models.backbones import backbone_of


@dataclass(frozen=True, kw_only=True, slots=True)
class Decoder(DecoderOptions):
    """The up blocks and the output layers train; encoder and mid block stay as they were pretrained."""

    def prepare(self, unet: UNet2DConditionModel, *, seed: int) -> UNet2DConditionModel:
        backbone = backbone_of(unet)
        require_decoder(backbone, "method=decoder")
        unet.requires_grad_(False)
        for name in backbone.decoder:
            unet.get_submodule(name).requires_grad_(True)
        train_strengths(unet)
        return unet

    def merged(self, unet: UNet2DConditionModel) -> UNet2DConditionModel:
        return unet
