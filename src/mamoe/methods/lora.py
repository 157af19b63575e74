"""Low-rank adapters beside a network's layers, through peft.

    LoRA   W x + (alpha / rank) B A x                     Hu et al. 2021, section 4.1

A starts at random, B at zero, so that nothing changes at first. Where feed-forwards have experts, each expert gets
adapters of its own.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.utils import peft_utils
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import nn

from mamoe.errors import ConfigError
from mamoe.methods.fresh_experts import train_additions
from mamoe.methods.method import names_of_modules, require_decoder, require_fits, train_strengths
from mamoe.methods.options import LoraOptions, Target
from mamoe.models.backbones import backbone_of
from mamoe.models.wrapped import unwrapped
from mamoe.randomness import seeded


@dataclass(frozen=True, kw_only=True, slots=True)
class Lora(LoraOptions):
    """Adapters of one rank on the chosen layers; nothing else trains.

    Raises:
        ConfigError: no target, or a target of which the UNet has no layer.
    """

    learns_sizes: ClassVar[bool] = False

    def layers(self, network: nn.Module) -> str:
        """A regular expression that full names of adapted layers match, in a network of this family.

        Raises:
            ConfigError: a target of which the network has no layer.
        """
        backbone, names = backbone_of(network), names_of_modules(network)
        if self.decoder_only:
            require_decoder(backbone, "method.decoder_only=true")
        where = rf"(?={re.escape(backbone.decoder[0])}\.)" if self.decoder_only else ""
        if self._has_additions(network):
            where += rf"(?!(?:{backbone.routed})$)"  # every expert has adapters of its own there
        if (unheard := backbone.unheard(unwrapped(network).config)) is not None:
            where += rf"(?!(?:{unheard})$)"  # processes that share a training wait for every gradient
        present = {t: rf"{where}(?:{e})" for t in Target if (e := backbone.adapted.get(t)) is not None}
        present = {t: e for t, e in present.items() if any(re.fullmatch(e, name) for name in names)}
        if absent := [target for target in self.targets if target not in present]:
            place = " in its up blocks" if self.decoder_only else ""
            raise ConfigError(
                f"LoRA finds no layer for {', '.join(absent)}: this {backbone.stock.__name__} has none{place}. It has "
                f"some for {', '.join(present) or 'no target'}; switch the others off: "
                f"{' '.join(f'method.{target}=false' for target in absent)}."
            )
        return "|".join(f"(?:{present[target]})" for target in self.targets)

    def _has_additions(self, network: Any) -> bool:
        """Whether experts are to get adapters that are no copies' but additions to what they share."""
        own = backbone_of(network).routed is not None and network.config.get("num_experts", 1) > 1
        return own and Target.FEED_FORWARD in self.targets

    def prepare(self, unet: UNet2DConditionModel, *, seed: int) -> UNet2DConditionModel:
        require_fits(unet, self.name)
        layers = self.layers(unet)
        unet.requires_grad_(False)
        config = LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha,  # type: ignore[arg-type] - peft divides it, whatever it is
            target_modules=layers,
            use_dora=self.learns_sizes,  # type: ignore[arg-type]
        )
        with seeded(seed):  # peft initialises from the global generator
            _add(unet, config)
        for parameter in unet.parameters():
            if parameter.requires_grad:  # peft gives adapters the number format of frozen weights
                parameter.data = parameter.data.float()
        if self._has_additions(unet):
            train_additions(unet, self.name, rank=self.rank, alpha=self.alpha, seed=seed)
        if self.decoder_only:
            for name in backbone_of(unet).decoder[1:]:
                unet.get_submodule(name).requires_grad_(True)
        train_strengths(unet)
        return unet

    def merged(self, unet: UNet2DConditionModel) -> UNet2DConditionModel:
        _merge(unet)
        return unet.requires_grad_(True)


def _add(network: Any, config: LoraConfig) -> None:
    if hasattr(network, "add_adapter"):
        network.add_adapter(config)
    else:  # diffusers gives its functions for peft to some families only
        inject_adapter_in_model(config, network)


def _merge(network: Any) -> None:
    if hasattr(network, "fuse_lora"):
        network.fuse_lora()
        network.unload_lora()
        return
    for layer in network.modules():
        if isinstance(layer, LoraLayer):
            layer.merge()
    library: Any = peft_utils  # whose functions say little of their arguments
    library.recurse_remove_peft_layers(network)


def to_channels_last(unet: nn.Module) -> nn.Module:
    """Lay pictures' channels last in memory, in the weights of all convolutions but DoRA's: peft reads those flat."""
    unet.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    for layer in unet.modules():
        if isinstance(layer, LoraLayer):
            for name in layer.lora_magnitude_vector:
                for adapter in (layer.lora_A[name], layer.lora_B[name]):
                    adapter.to(memory_format=torch.contiguous_format)
    return unet
