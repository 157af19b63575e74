"""Fine-tuning experts other than as full copies: by low-rank additions, or beside a shared one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from diffusers.models.attention import FeedForward
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

from mamoe.errors import ConfigError
from mamoe.methods.method import train_strengths
from mamoe.models.experts.lora import LoraExpertsFeedForward
from mamoe.models.experts.moe import MoEFeedForward, SharedExpertFeedForward
from mamoe.models.unet.block import MaMoETransformerBlock
from mamoe.models.unet.model import OWN_CONFIG, MaMoEUNet2DConditionModel


@dataclass(frozen=True, kw_only=True, slots=True)
class LoraExperts:
    """One frozen feed-forward and a LoRA of it per class group, see :mod:`mamoe.models.experts.lora`. Only these train.

    Args:
        rank: of the LoRAs.
        alpha: what they add is scaled by alpha / rank.

    Raises:
        ConfigError: the UNet has no experts, or some that are no longer copies of one feed-forward.
    """

    rank: int = 16
    alpha: float = 16.0

    keeps_adapter_alone: ClassVar[bool] = True

    def prepare(self, unet: UNet2DConditionModel, *, seed: int) -> UNet2DConditionModel:
        unet.requires_grad_(False)
        generator = torch.Generator().manual_seed(seed)
        for block, experts in _fresh_experts(unet, "lora_experts"):
            dense = FeedForward(1, activation_fn="geglu")  # a place for the layers, its own are dropped
            dense.net = experts.net
            block.ff = LoraExpertsFeedForward(
                dense, experts.num_experts, rank=self.rank, alpha=self.alpha, generator=generator
            )
        train_strengths(unet)
        return unet

    def merged(self, unet: UNet2DConditionModel) -> UNet2DConditionModel:
        for block in list(unet.modules()):
            if isinstance(block, MaMoETransformerBlock) and isinstance(block.ff, LoraExpertsFeedForward):
                block.ff = block.ff.merged()
        return unet.requires_grad_(True)


@dataclass(frozen=True, kw_only=True, slots=True)
class SharedExpert:
    """The pretrained feed-forward on every cell, class experts beside it; every weight trains.

    What :class:`~mamoe.models.experts.moe.SharedExpertFeedForward` computes is no plain MoE: a merged UNet keeps it,
    and says so in its configuration.

    Raises:
        ConfigError: the UNet has no experts, or some that are no longer copies of one feed-forward.
    """

    keeps_adapter_alone: ClassVar[bool] = False

    def prepare(self, unet: UNet2DConditionModel, *, seed: int) -> UNet2DConditionModel:
        if unet.config.get("shared_expert"):  # trained so before
            return unet.requires_grad_(True)
        list(_fresh_experts(unet, "shared_expert"))
        mamoe = cast(MaMoEUNet2DConditionModel, unet)
        own: dict[str, Any] = {key: mamoe.config[key] for key in OWN_CONFIG} | {"shared_expert": True}
        shared = MaMoEUNet2DConditionModel.from_unet(mamoe.to_dense(), **own)
        return shared.requires_grad_(True)

    def merged(self, unet: UNet2DConditionModel) -> UNet2DConditionModel:
        return unet


def _fresh_experts(unet: UNet2DConditionModel, method: str) -> Iterator[tuple[MaMoETransformerBlock, MoEFeedForward]]:
    """The blocks with experts, which must be copies of one feed-forward: a method that starts anew would lose more."""
    found = [
        (block, block.ff)
        for block in unet.modules()
        if isinstance(block, MaMoETransformerBlock) and isinstance(block.ff, MoEFeedForward)
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
    yield from found


def _alike(experts: MoEFeedForward) -> bool:
    first, *others = (net.state_dict() for net in experts.nets)
    return all(torch.equal(value, other[key]) for other in others for key, value in first.items())
