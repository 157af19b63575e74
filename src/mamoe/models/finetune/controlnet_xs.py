"""Fine-tuning a ControlNet-XS branch beside the UNet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from diffusers import UNet2DConditionModel

from mamoe.models.controlnet_xs import ControlledUNet, new_branch
from mamoe.models.finetune.method import train_strengths
from mamoe.models.moe import MoEFeedForward


@dataclass(frozen=True, kw_only=True, slots=True)
class ControlNetXS:
    """A new branch trains, and what else the pretrained UNet did not have: experts but the first, region strengths.

    Args:
        widths: channels of the branch by level; None = 4, 8, 16, 16.
        train_base: train the UNet's pretrained weights too.

    Raises:
        ConfigError: ControlNet-XS does not fit the UNet.
    """

    widths: Sequence[int] | None = None
    train_base: bool = False

    keeps_adapter_alone: ClassVar[bool] = True  # whatever trains

    def prepare(self, unet: UNet2DConditionModel, *, seed: int) -> ControlledUNet:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            branch = new_branch(unet, self.widths)
        unet.requires_grad_(self.train_base)
        for module in unet.modules():
            if isinstance(module, MoEFeedForward):
                module.experts.requires_grad_(True)
        train_strengths(unet)
        return ControlledUNet(unet, branch.requires_grad_(True))

    def merged(self, unet: ControlledUNet) -> ControlledUNet:
        return unet
