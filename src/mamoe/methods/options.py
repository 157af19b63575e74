"""The options of every method of fine-tuning, by the names that configurations and recipes give them.

Without torch: the configuration is checked against these before anything heavy is loaded. What a method does stands in
its own file beside this one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, ClassVar

from annotated_types import Ge, Gt

from mamoe.errors import ConfigError


class Target(StrEnum):
    """Kinds of layers that may get adapters."""

    ATTENTION = "attention"  # queries, keys, values and outputs of self- and cross-attention
    CONV = "conv"  # convolutions of residual blocks and of the changes between levels
    PROJECTION = "projection"  # into and out of the transformers, and of the timestep into residual blocks
    FEED_FORWARD = "feed_forward"  # both layers of every feed-forward, of every expert


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """What is known of a method before its network is there."""

    name: ClassVar[str]  # in configurations and recipes
    keeps_adapter_alone: ClassVar[bool] = False  # checkpoints hold trained weights only; the rest is the base model's
    shows_condition: ClassVar[bool] = False  # the network sees a condition picture
    replaces_experts: ClassVar[bool] = False  # ``prepare`` puts experts of its own kind in the place of copies
    needs_experts: ClassVar[bool] = False  # it is a way of having them
    shards: ClassVar[bool] = False  # its weights can be dealt out over processes


@dataclass(frozen=True, kw_only=True, slots=True)
class FullOptions(Options):
    """Every weight trains."""

    name: ClassVar[str] = "full"
    shards: ClassVar[bool] = True


@dataclass(frozen=True, kw_only=True, slots=True)
class DecoderOptions(Options):
    """The up blocks and the output layers train."""

    name: ClassVar[str] = "decoder"
    shards: ClassVar[bool] = True


@dataclass(frozen=True, kw_only=True, slots=True)
class LoraOptions(Options):
    """Adapters of one rank on the chosen layers.

    Args:
        rank: of the adapters.
        alpha: the adapters' output is scaled by alpha / rank.
        attention, conv, projection, feed_forward: which layers, see :class:`Target`.
        decoder_only: adapters in the up blocks alone.

    Raises:
        ConfigError: no target.
    """

    rank: Annotated[int, Ge(1)] = 128
    alpha: Annotated[float, Gt(0)] = 128.0
    attention: bool = True
    conv: bool = True
    projection: bool = True
    feed_forward: bool = True
    decoder_only: bool = False

    name: ClassVar[str] = "lora"
    keeps_adapter_alone: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not self.targets:
            raise ConfigError(f"LoRA needs at least one target: switch on one of {', '.join(Target)}")

    @property
    def targets(self) -> tuple[Target, ...]:
        """The kinds of layers that get adapters."""
        return tuple(target for target in Target if getattr(self, target.value))


@dataclass(frozen=True, kw_only=True, slots=True)
class DoraOptions(LoraOptions):
    """Adapters that learn the size of each output weight apart from its direction."""

    name: ClassVar[str] = "dora"


@dataclass(frozen=True, kw_only=True, slots=True)
class LoraExpertsOptions(Options):
    """One frozen feed-forward and a LoRA of it per class group.

    Args:
        rank: of the LoRAs.
        alpha: what they add is scaled by alpha / rank.
    """

    rank: Annotated[int, Ge(1)] = 16
    alpha: Annotated[float, Gt(0)] = 16.0

    name: ClassVar[str] = "lora_experts"
    keeps_adapter_alone: ClassVar[bool] = True
    needs_experts: ClassVar[bool] = True
    replaces_experts: ClassVar[bool] = True


@dataclass(frozen=True, kw_only=True, slots=True)
class SharedExpertOptions(Options):
    """The pretrained feed-forward on every cell, class experts beside it."""

    name: ClassVar[str] = "shared_expert"
    needs_experts: ClassVar[bool] = True


@dataclass(frozen=True, kw_only=True, slots=True)
class ControlNetXSOptions(Options):
    """A ControlNet-XS branch beside the UNet.

    Args:
        widths: channels of the branch by level; None = 4, 8, 16, 16.
        train_base: train the UNet's pretrained weights too.
    """

    widths: Sequence[Annotated[int, Ge(1)]] | None = None
    train_base: bool = False

    name: ClassVar[str] = "controlnet_xs"
    keeps_adapter_alone: ClassVar[bool] = True  # whatever trains
    shows_condition: ClassVar[bool] = True


@dataclass(frozen=True, kw_only=True, slots=True)
class ConcatOptions(Options):
    """The first layer takes the latent of a condition picture beside the noisy one."""

    name: ClassVar[str] = "concat"
    shows_condition: ClassVar[bool] = True


OPTIONS: dict[str, type[Options]] = {
    kind.name: kind
    for kind in (
        FullOptions,
        DecoderOptions,
        LoraOptions,
        DoraOptions,
        LoraExpertsOptions,
        SharedExpertOptions,
        ControlNetXSOptions,
        ConcatOptions,
    )
}
