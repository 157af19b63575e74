"""Fine-tuning experts beside a shared one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

from mamoe.methods.fresh_experts import fresh_experts
from mamoe.methods.method import require_fits
from mamoe.methods.options import SharedExpertOptions
from mamoe.models.experts.moe import SharedExpertFeedForward


@dataclass(frozen=True, kw_only=True, slots=True)
class SharedExpert(SharedExpertOptions):
    """The pretrained feed-forward on every cell, class experts beside it; every weight trains.

    What :class:`~mamoe.models.experts.moe.SharedExpertFeedForward` computes is no plain MoE: a merged UNet keeps it,
    and says so in its configuration.

    Raises:
        ConfigError: the UNet has no experts, or some that are no longer copies of one feed-forward.
    """

    def prepare(self, unet: UNet2DConditionModel, *, seed: int) -> UNet2DConditionModel:
        require_fits(unet, self.name)
        if unet.config.get("shared_expert"):  # trained so before
            return unet.requires_grad_(True)
        for block, experts in fresh_experts(unet, self.name):
            block.ff = SharedExpertFeedForward.of(experts)
        registering: Any = unet  # diffusers' function says nothing of its arguments
        registering.register_to_config(shared_expert=True)
        return unet.requires_grad_(True)

    def merged(self, unet: UNet2DConditionModel) -> UNet2DConditionModel:
        return unet
