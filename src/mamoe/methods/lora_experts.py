"""Fine-tuning experts that are low-rank additions to one frozen feed-forward."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

from mamoe.methods.fresh_experts import fresh_experts, train_additions
from mamoe.methods.method import train_strengths
from mamoe.methods.options import LoraExpertsOptions
from mamoe.models.backbones import backbone_of
from mamoe.models.blocks.block import LayoutBlock
from mamoe.models.experts.lora import LoraExpertsFeedForward
from mamoe.models.experts.moe import dense_of


@dataclass(frozen=True, kw_only=True, slots=True)
class LoraExperts(LoraExpertsOptions):
    """One frozen feed-forward and a LoRA of it per class group, see :mod:`mamoe.models.experts.lora`. Only these train.

    Merged they become experts of their own, but where a network's experts are additions anyway.

    Raises:
        ConfigError: the UNet has no experts, or some that are no longer copies of one feed-forward.
    """

    def prepare(self, unet: UNet2DConditionModel, *, seed: int) -> UNet2DConditionModel:
        unet.requires_grad_(False)
        if backbone_of(unet).routed is not None:
            train_additions(unet, self.name, rank=self.rank, alpha=self.alpha, seed=seed)
            return unet
        generator = torch.Generator().manual_seed(seed)
        for block, experts in fresh_experts(unet, self.name):
            block.ff = LoraExpertsFeedForward(
                dense_of(experts.net), experts.num_experts, rank=self.rank, alpha=self.alpha, generator=generator
            )
        train_strengths(unet)
        return unet

    def merged(self, unet: UNet2DConditionModel) -> UNet2DConditionModel:
        for block in list(unet.modules()):
            if isinstance(block, LayoutBlock) and isinstance(block.ff, LoraExpertsFeedForward):
                block.ff = block.ff.merged()
        return unet.requires_grad_(True)
