"""What every way of fine-tuning has to say."""

from __future__ import annotations

from typing import Any, ClassVar, Protocol

from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import nn

from mamoe.errors import ConfigError
from mamoe.models.backbone import Backbone
from mamoe.models.backbones import backbone_of
from mamoe.models.blocks.strength import RegionStrength


class Method(Protocol):
    """A way of fine-tuning a UNet that may already know regions and experts.

    Each is a frozen dataclass; its fields are its options, see :mod:`mamoe.methods.options`.

    ``prepare`` takes over the UNet it is given and returns a network called like it: the UNet itself, with adapters as
    parts of its layers, or one made of it. ``merged`` takes what ``prepare`` returned.
    """

    name: ClassVar[str]
    keeps_adapter_alone: ClassVar[bool]
    replaces_experts: ClassVar[bool]

    def prepare(self, unet: UNet2DConditionModel, *, seed: int) -> Any:
        """Add what the method adds, initialised from ``seed``, and let train (``requires_grad``) what is to train.

        The output of the UNet stays what it was.
        """
        ...

    def merged(self, unet: Any) -> Any:
        """The same function without anything added: what sampling and export work with."""
        ...


def names_of_modules(network: nn.Module) -> list[str]:
    """The full names of all layers."""
    typed: Any = network
    return [name for name, _ in typed.named_modules()]


def require_fits(network: Any, method: str) -> None:
    """Refuse a method that the family of a network cannot take.

    Raises:
        ConfigError: says which it can.
    """
    backbone = backbone_of(network)
    if backbone.methods is not None and method not in backbone.methods:
        raise ConfigError(
            f"method={method} does not fit a {backbone.stock.__name__}: its weights are too many to be moved or held "
            f"a second time, so it is fine-tuned by low-rank additions beside them. Choose another method: "
            f"{_others(backbone)}."
        )


def require_decoder(backbone: Backbone, setting: str) -> None:
    """Refuse a setting that trains a decoder of networks that have none.

    Raises:
        ConfigError: says so.
    """
    if not backbone.decoder:
        raise ConfigError(
            f"{setting} trains the part of a network that draws, and a {backbone.stock.__name__} has no such part: all "
            f"its blocks are alike. Leave it out, or choose another method: {_others(backbone)}."
        )


def require_pictures(network: Any, method: str) -> None:
    """Refuse a method that shows condition pictures to a network that cannot be shown any.

    Raises:
        ConfigError: says so.
    """
    backbone = backbone_of(network)
    if not backbone.takes_pictures:
        raise ConfigError(
            f"method={method} shows a UNet a condition picture, and this is a {backbone.stock.__name__}, for which "
            f"there is no such thing yet. Choose another method: {_others(backbone)}."
        )


def _others(backbone: Backbone) -> str:
    return ", ".join(backbone.methods or ("full", "lora", "dora", "lora_experts", "shared_expert"))


def train_strengths(unet: UNet2DConditionModel) -> None:
    """Let learned region strengths train whatever else is frozen: they have no pretrained value to keep."""
    for module in unet.modules():
        if isinstance(module, RegionStrength):
            module.requires_grad_(True)
