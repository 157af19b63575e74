"""What every way of fine-tuning has to say."""

from __future__ import annotations

from typing import Any, ClassVar, Protocol

from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import nn

from mamoe.models.unet.strength import RegionStrength

DECODER = ("up_blocks", "conv_norm_out", "conv_out")


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


def train_strengths(unet: UNet2DConditionModel) -> None:
    """Let learned region strengths train whatever else is frozen: they have no pretrained value to keep."""
    for module in unet.modules():
        if isinstance(module, RegionStrength):
            module.requires_grad_(True)
