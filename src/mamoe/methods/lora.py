"""Low-rank adapters beside the UNet's layers, through peft.

    LoRA   W x + (alpha / rank) B A x                     Hu et al. 2021, section 4.1

A starts at random, B at zero, so that nothing changes at first. Where feed-forwards have experts, each expert gets
adapters of its own.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from peft import LoraConfig
from peft.tuners.lora import LoraLayer
from torch import nn

from mamoe.errors import ConfigError
from mamoe.methods.method import DECODER, names_of_modules, train_strengths
from mamoe.methods.options import LoraOptions, Target
from mamoe.randomness import seeded

_LAYERS = {
    Target.ATTENTION: r"to_q|to_k|to_v|to_out\.0",
    Target.CONV: r"conv1|conv2|conv_shortcut|downsamplers\.\d+\.conv|upsamplers\.\d+\.conv",
    Target.PROJECTION: r"proj_in|proj_out|time_emb_proj",
    Target.FEED_FORWARD: r"ff(?:\.experts\.\d+)?\.net\.0\.proj|ff(?:\.experts\.\d+)?\.net\.2",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Lora(LoraOptions):
    """Adapters of one rank on the chosen layers; nothing else trains.

    Raises:
        ConfigError: no target, or a target of which the UNet has no layer.
    """

    learns_sizes: ClassVar[bool] = False

    @property
    def layers(self) -> str:
        """A regular expression that full names of adapted layers match."""
        return self._layers_of(self.targets)

    def _layers_of(self, targets: Sequence[Target]) -> str:
        where = "up_blocks" if self.decoder_only else "down_blocks|mid_block|up_blocks"
        what = "|".join(_LAYERS[Target(target)] for target in targets)
        return rf"(?:{where})\.(?:.*\.)?(?:{what})"

    def _check_targets(self, unet: UNet2DConditionModel) -> None:
        names = names_of_modules(unet)
        present = [t for t in Target if any(re.fullmatch(self._layers_of([t]), name) for name in names)]
        if absent := [target for target in self.targets if target not in present]:
            where = " in its up blocks" if self.decoder_only else ""
            raise ConfigError(
                f"LoRA finds no layer for {', '.join(absent)}: this UNet has none{where}. It has some for "
                f"{', '.join(present) or 'no target'}; switch the others off."
            )

    def prepare(self, unet: UNet2DConditionModel, *, seed: int) -> UNet2DConditionModel:
        self._check_targets(unet)
        unet.requires_grad_(False)
        config = LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha,  # type: ignore[arg-type] - peft divides it, whatever it is
            target_modules=self.layers,
            use_dora=self.learns_sizes,  # type: ignore[arg-type]
        )
        with seeded(seed):  # peft initialises from the global generator
            _with_adapters(unet).add_adapter(config)
        if self.decoder_only:
            for name in DECODER[1:]:
                unet.get_submodule(name).requires_grad_(True)
        train_strengths(unet)
        return unet

    def merged(self, unet: UNet2DConditionModel) -> UNet2DConditionModel:
        _with_adapters(unet).fuse_lora()
        _with_adapters(unet).unload_lora()
        return unet.requires_grad_(True)


def _with_adapters(unet: UNet2DConditionModel) -> Any:
    """The UNet, for the functions that diffusers adds for peft: their types are only partly known."""
    return unet


def to_channels_last(unet: nn.Module) -> nn.Module:
    """Lay pictures' channels last in memory, in the weights of all convolutions but DoRA's: peft reads those flat."""
    unet.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    for layer in unet.modules():
        if isinstance(layer, LoraLayer):
            for name in layer.lora_magnitude_vector:
                for adapter in (layer.lora_A[name], layer.lora_B[name]):
                    adapter.to(memory_format=torch.contiguous_format)
    return unet
