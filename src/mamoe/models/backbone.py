"""What the rest of the package asks of a family of denoising networks.

A family is known by a file that fills this record in, such as ``models/unet/backbone.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class Pyramid:
    """The grids of cells that a network's blocks work on."""

    count: int  # L, each level half the one before, rounded up
    skipped: int = 0  # halvings of the latent before the first level: log2 of a transformer's patch


def called(
    network: Any, noisy: Float[Tensor, "B C h w"], timestep: Tensor, inputs: Mapping[str, Any], guidance: float = 1.0
) -> Float[Tensor, "B _ h w"]:
    """What a network makes of noisy latents that takes them, and its inputs, as they are; it knows no ``guidance``.

    Behind the latent's channels there may be those of a learned variance.
    """
    return network(noisy, timestep=timestep, **inputs).sample


def in_channels(config: Mapping[str, Any]) -> int:
    """Channels of the latents that a network reads which takes them as they are."""
    return config["in_channels"]


def unchanged(network: Any, inputs: dict[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    """Inputs of many calls in a row, of a family that makes nothing of them but in every call anew."""
    return inputs


@dataclass(frozen=True, kw_only=True, slots=True)
class Backbone:
    """A family of networks.

    A mask and a routing enter every family alike: as ``cross_attention_kwargs={"regions": levels}`` of a call, one
    ``LevelConditioning`` per level; and so does text, as ``encoder_hidden_states``. Families that are called otherwise
    say how (``call``). The feed-forwards that can have experts are those of its ``LayoutBlock``s, or of its
    ``ExpertPlace``s.
    """

    part: str  # its folder in a diffusers pipeline
    ours: type[Any]  # a ``Steered`` class, whose blocks know regions and experts
    convert: Callable[..., Any]  # a network of either class and options of its ``own_config`` -> ours, see its from_…
    pyramid: Callable[[Mapping[str, Any]], Pyramid]  # of its configuration
    levels_with_blocks: Callable[[Any], tuple[int, ...]]  # of a network
    text_width: Callable[[Mapping[str, Any]], Any]  # D of the text it reads; a list where its levels differ
    adapted: Mapping[str, str]  # kind of layer (methods' Target) -> expression that full names of such layers match
    pooled_width: Callable[[Mapping[str, Any]], int] = lambda config: 0  # P of the pooled prompt it is told; 0: of none
    sized: Callable[[Mapping[str, Any]], bool] = lambda config: False  # whether it is told how large pictures are
    call: Callable[..., Any] = called  # (network, noisy, timestep, inputs, guidance) -> prediction, see called
    for_steps: Callable[..., dict[str, Any]] = (
        unchanged  # (network, inputs, dtype) of calls without gradients that differ
    )
    # in latents and timestep alone -> inputs for them, in which is made once what would be made in every call
    latent_channels: Callable[[Mapping[str, Any]], int] = in_channels  # of its configuration
    autoencoder: str = "AutoencoderKL"  # diffusers' class of the one whose latents it knows
    most_cells: Callable[[Mapping[str, Any]], int | None] = lambda config: None  # a side of latents; None: any
    takes_pictures: bool = False  # whether it can be shown a condition picture
    decoder: tuple[str, ...] = ()  # parts that draw, as opposed to those that look; none: they cannot be told apart
    methods: tuple[str, ...] | None = None  # of fine-tuning, by name; None: all that do not say otherwise themselves
    distilled: Callable[[Mapping[str, Any]], bool] = lambda config: False  # whether it is told how far to guide itself
    flow: bool = False  # it predicts flows alone, and schedules of others are not its
    even_steps: bool = False  # of a flow: it is drawn in steps of one length, see set_steps
    drawn_shift: Callable[[int, int], float] | None = None  # (patches, steps) -> log of the shift; None: the schedule's
    keeps_length: bool = False  # guided, a patch's prediction stays as long as the conditional one, see keep_length
    weighs: bool = True  # whether a mask may be log weights, as regions.strength=soft makes them
    unheard: Callable[[Mapping[str, Any]], str | None] = lambda config: None  # layers that no prediction depends on
    routed: str | None = None  # expression for layers whose experts are additions; None: experts are copies
    lora_prefix: str | None = None  # before its layers' names in LoRA files of diffusers; None: nobody reads such files

    @property
    def stock(self) -> type[Any]:
        """Diffusers' class."""
        return self.ours.stock

    @property
    def own_config(self) -> tuple[str, ...]:
        """Arguments of ``ours`` that ``stock`` does not have."""
        return self.ours.own_config
