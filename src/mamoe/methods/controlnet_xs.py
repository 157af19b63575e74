"""Fine-tuning a ControlNet-XS branch beside the UNet."""

from __future__ import annotations

from dataclasses import dataclass

from diffusers.models.controlnets.controlnet_xs import ControlNetXSAdapter
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

from mamoe.errors import ConfigError
from mamoe.methods.method import require_pictures, train_strengths
from mamoe.methods.options import ControlNetXSOptions
from mamoe.models.control.controlnet_xs import ControlledUNet, new_branch
from mamoe.models.experts.moe import MoEFeedForward
from mamoe.randomness import seeded


@dataclass(frozen=True, kw_only=True, slots=True)
class ControlNetXS(ControlNetXSOptions):
    """A branch trains, a new one unless the UNet has one, and what else was not pretrained: experts but the first,
    region strengths.

    Raises:
        ConfigError: ControlNet-XS does not fit the UNet.
    """

    def prepare(self, unet: UNet2DConditionModel | ControlledUNet, *, seed: int) -> ControlledUNet:
        require_pictures(unet, self.name)
        if isinstance(unet, ControlledUNet):  # trained before
            unet, branch = unet.base, self._fitting(unet.branch)
        else:
            with seeded(seed):
                branch = new_branch(unet, self.widths)
        unet.requires_grad_(self.train_base)
        for module in unet.modules():
            if isinstance(module, MoEFeedForward):
                module.experts.requires_grad_(True)
        train_strengths(unet)
        return ControlledUNet(unet, branch.requires_grad_(True))

    def _fitting(self, branch: ControlNetXSAdapter) -> ControlNetXSAdapter:
        has = tuple(branch.config["block_out_channels"])
        if self.widths is not None and tuple(self.widths) != has:
            raise ConfigError(
                f"The ControlNet-XS branch there is has the widths {list(has)}, method.widths={list(self.widths)} asks "
                "for others: leave method.widths out, or start from the base model."
            )
        return branch

    def merged(self, unet: ControlledUNet) -> ControlledUNet:
        return unet
