"""What methods start from that have experts other than as full copies."""

from __future__ import annotations

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

from mamoe.errors import ConfigError
from mamoe.models.blocks.block import LayoutBlock
from mamoe.models.experts.moe import MoEFeedForward, SharedExpertFeedForward


def fresh_experts(unet: UNet2DConditionModel, method: str) -> list[tuple[LayoutBlock, MoEFeedForward]]:
    """The blocks with experts, which must be copies of one feed-forward: a method that starts anew would lose more.

    Raises:
        ConfigError: the UNet has none, or some that were trained.
    """
    found = [
        (block, block.ff)
        for block in unet.modules()
        if isinstance(block, LayoutBlock) and isinstance(block.ff, MoEFeedForward)
    ]
    if not found:
        raise ConfigError(
            f"The method {method} gives the class groups experts, and this UNet has none: switch layout.moe on, with a "
            "grouping of at least two groups, or take another method."
        )
    if any(isinstance(experts, SharedExpertFeedForward) or not _alike(experts) for _, experts in found):
        raise ConfigError(
            f"The method {method} starts from one feed-forward per block, and the experts of this UNet differ: they "
            "were trained before. Start from the base model, or go on with the method they were trained with."
        )
    return found


def _alike(experts: MoEFeedForward) -> bool:
    first, *others = (net.state_dict() for net in experts.nets)
    pairs = [(value, other[key]) for other in others for key, value in first.items()]
    return all(other.is_meta or torch.equal(value, other) for value, other in pairs)  # meta: not made yet
