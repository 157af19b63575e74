"""What methods start from that have experts other than as full copies."""

from __future__ import annotations

from typing import Any

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
        raise ConfigError(_none(method))
    if any(isinstance(experts, SharedExpertFeedForward) or not _alike(experts) for _, experts in found):
        raise ConfigError(
            f"The method {method} starts from one feed-forward per block, and the experts of this UNet differ: they "
            "were trained before. Start from the base model, or go on with the method they were trained with."
        )
    return found


def train_additions(network: Any, method: str, *, rank: int, alpha: float, seed: int) -> None:
    """Let the additions train that are a network's experts; those of this rank that it has go on.

    Raises:
        ConfigError: it has no class groups, or additions of another rank.
    """
    config = network.config
    if config["num_experts"] < 2:
        raise ConfigError(_none(method))
    if config["expert_rank"] is None:
        network.add_experts(rank=rank, alpha=alpha, generator=torch.Generator().manual_seed(seed))
    elif (config["expert_rank"], config["expert_alpha"]) != (rank, alpha):
        raise ConfigError(
            f"The method {method} is asked for experts of rank {rank} and alpha {alpha}, and this transformer has "
            f"learned some of rank {config['expert_rank']} and alpha {config['expert_alpha']}, which it goes on with: "
            f"method.rank={config['expert_rank']} method.alpha={config['expert_alpha']}; or start from its dense part."
        )
    for name, parameter in network.named_parameters():
        if ".experts." in name:
            parameter.requires_grad_(True)


def _none(method: str) -> str:
    return (
        f"The method {method} gives the class groups experts, and this network has none: switch layout.moe on, with a "
        "grouping of at least two groups, or take another method."
    )


def _alike(experts: MoEFeedForward) -> bool:
    first, *others = (net.state_dict() for net in experts.nets)
    pairs = [(value, other[key]) for other in others for key, value in first.items()]
    return all(other.is_meta or torch.equal(value, other) for value, other in pairs)  # meta: not made yet
