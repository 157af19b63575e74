"""The diffusers UNet whose transformer blocks know regions and experts.

    stock UNet --from_unet--> MaMoE UNet --to_dense--> stock UNet

A UNet of L blocks has L pyramid levels of ``ceil(size / 2)`` each: level i is down block i and up block L-1-i, the mid
block belongs to the coarsest. Every stock transformer block is replaced in its list by one that knows its level.
Letters: see :mod:`mamoe.vocabulary`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any, ClassVar, Self, cast

import torch
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel, UNet2DConditionOutput
from jaxtyping import Float
from torch import Tensor, nn

from mamoe.errors import ConfigError
from mamoe.models.blocks.casting import cast_small_weights, holders
from mamoe.models.blocks.conversion import (
    check_levels,
    check_nothing_is_dropped,
    levels_with_experts,
    noise_level_of,
    option_problems,
    put_back_processors,
)
from mamoe.models.blocks.held import held_blocks, listed
from mamoe.models.blocks.pictures import without_idle_passes
from mamoe.models.blocks.steered import SteeredNetwork
from mamoe.models.experts.grouped import compute_dtype
from mamoe.models.experts.moe import RoutedFeedForward
from mamoe.models.unet.block import MaMoETransformerBlock
from mamoe.models.wrapped import unwrapped
from mamoe.vocabulary.conditioning import LevelConditioning, level_grids


class MaMoEUNet2DConditionModel(SteeredNetwork, UNet2DConditionModel):
    """A ``UNet2DConditionModel`` with region-masked cross-attention and class-aware experts.

    Called like the stock one; the layout comes as ``cross_attention_kwargs={"regions": levels}`` with one
    ``LevelConditioning`` per level (``Conditioning.unet_inputs()`` makes both that and the text). Without it the model
    is the dense one of expert 0.

    Args:
        num_experts: E, experts of every feed-forward. 1 = dense.
        region_attention: whether a cell sees the text of its own regions only. False = it sees that of the whole image.
        region_blocks: numbers of the transformer blocks in which it does, from 0 in the order they run; in the others
            it sees that of the whole image. None = all.
        moe_levels: levels that get experts, 0 = finest. None = all that have transformer blocks.
        learned_strength: whether every cross-attention head learns how strongly the regions bind it, as a function of
            the noise level; it starts at full strength.
        shared_expert: whether the pretrained feed-forward works on every cell and the experts of all groups but the
            rest add to it (:class:`~mamoe.models.experts.moe.SharedExpertFeedForward`).
        unet_config: the stock UNet's own arguments.

    Raises:
        ConfigError: a value is out of range, or the UNet has no transformer blocks of the usual kind, or none on a
            level that is to get experts.
    """

    stock: ClassVar[type[Any]] = UNet2DConditionModel
    converter: ClassVar[str] = "from_unet"
    _no_split_modules = ["MaMoETransformerBlock", "ResnetBlock", "ResnetBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"]  # noqa: RUF012
    _repeated_blocks = ["MaMoETransformerBlock"]  # noqa: RUF012
    _holders: list[nn.Module] | None = None  # what holds small weights, once that was asked

    def __init__(
        self,
        num_experts: int = 1,
        region_attention: bool = True,
        moe_levels: Sequence[int] | None = None,
        learned_strength: bool = False,
        shared_expert: bool = False,
        region_blocks: Sequence[int] | None = None,
        **unet_config: Any,
    ) -> None:
        super().__init__(**unet_config)
        num_levels = len(self.config["block_out_channels"])
        _check_config(
            moe_levels, num_levels, option_problems(num_experts, region_attention, learned_strength, shared_expert)
        )
        with_experts = list(range(num_levels) if moe_levels is None else moe_levels)
        self.register_to_config(
            num_experts=num_experts,
            region_attention=region_attention,
            region_blocks=listed(region_blocks),
            moe_levels=None if moe_levels is None else with_experts,
            learned_strength=learned_strength,
            shared_expert=shared_expert,
        )
        _check_moe_levels(moe_levels, {level for level, _ in _transformers(self)})
        count = sum(len(transformer.transformer_blocks) for _, transformer in _transformers(self))
        held = iter(held_blocks(region_attention, region_blocks, count))
        for level, transformer in _transformers(self):
            transformer.transformer_blocks = nn.ModuleList(
                MaMoETransformerBlock(
                    cast(BasicTransformerBlock, block),
                    level=level,
                    num_experts=num_experts if level in with_experts else 1,
                    region_attention=next(held),
                    learned_strength=learned_strength,
                    shared_expert=shared_expert,
                )
                for block in transformer.transformer_blocks
            )
        without_idle_passes(self)

    @classmethod
    def from_unet(
        cls,
        unet: UNet2DConditionModel,
        num_experts: int = 1,
        region_attention: bool = True,
        moe_levels: Sequence[int] | None = None,
        learned_strength: bool = False,
        shared_expert: bool = False,
        region_blocks: Sequence[int] | None = None,
        *,
        copies: bool = True,
    ) -> Self:
        """Convert a UNet, which stays as it is. Every expert starts as a copy of its feed-forward.

        Without ``copies`` experts that the UNet has not yet are left without memory (on torch's ``meta`` device), for
        whoever puts experts of another kind in their places.

        Beside a shared expert the output layers of the others start as zeros. Experts and strengths that the UNet has
        already are kept.

        Without a layout, or with one whose regions all cover everything, the result computes what ``unet`` computes.

        Raises:
            ConfigError: see the class; or the result has no place for experts or strengths that the UNet has.
        """
        unet = cast(UNet2DConditionModel, unwrapped(unet))
        lost = _lost_levels(unet, moe_levels)
        check_nothing_is_dropped(unet, num_experts, learned_strength, shared_expert, region_blocks, lost)
        options: dict[str, Any] = {
            "num_experts": num_experts,
            "region_attention": region_attention,
            "region_blocks": region_blocks,
            "moe_levels": moe_levels,
        }
        options |= {"learned_strength": learned_strength, "shared_expert": shared_expert}
        return cls.of_stock(unet, options, copies=copies)

    # The stock options by name only, after the three that everybody gives by place.
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        sample: Float[Tensor, "B c h w"],
        timestep: Tensor | float | int,
        encoder_hidden_states: Float[Tensor, "B S D"],
        *,
        cross_attention_kwargs: dict[str, Any] | None = None,
        **stock: Any,
    ) -> UNet2DConditionOutput | tuple[Tensor, ...]:
        """The stock forward pass, after a check of the layout.

        Raises:
            ValueError: the layout does not fit the latents, the text or this model.
        """
        if cross_attention_kwargs is not None and (levels := cross_attention_kwargs.get("regions")) is not None:
            grids = level_grids((sample.shape[2], sample.shape[3]), len(self.config["block_out_channels"]))
            masked = stock.get("encoder_attention_mask") is not None
            check_levels(levels, grids, encoder_hidden_states, self.config, padding_mask=masked)
            dtype = compute_dtype(encoder_hidden_states)
            # As every layer that reads it would, for itself; a text that learns would add up all their gradients so.
            if not encoder_hidden_states.requires_grad:
                encoder_hidden_states = encoder_hidden_states.to(dtype)
            cross_attention_kwargs = {**cross_attention_kwargs, "regions": self.computed_in(dtype, levels)}
            if self.config["learned_strength"]:
                cross_attention_kwargs["noise_level"] = noise_level_of(timestep, sample)
        with cast_small_weights(self._holding, sample.device):
            return super().forward(
                sample, timestep, encoder_hidden_states, cross_attention_kwargs=cross_attention_kwargs, **stock
            )

    def _holding(self) -> list[nn.Module]:
        if self._holders is None:
            self._holders = holders(self, but=RoutedFeedForward)
        return self._holders

    def __getstate__(self) -> dict[str, Any]:
        # A copy may lose some of its modules, and must not keep them.
        return {**super().__getstate__(), "_holders": None}

    def computed_in(self, dtype: torch.dtype, levels: Sequence[LevelConditioning]) -> tuple[LevelConditioning, ...]:
        """A layout in the type of this network's products, for all blocks at once; one that is in it stays as it is."""
        # Layers whose regions do not hold, or as strongly as they learned, read who may attend.
        weighs = self.config["region_attention"] and self.config["region_blocks"] is None
        weighs = weighs and not self.config["learned_strength"]
        return tuple(level.computed_in(dtype, weighs=weighs) for level in levels)

    def set_default_attn_processor(self) -> None:
        """Put back the processors the model was made with, where others took their place."""
        put_back_processors(self)

    def set_attention_slice(self, slice_size: str | int | list[int] | None = "auto") -> None:
        """As the stock one; None puts back the processors the model was made with."""
        if slice_size is None:
            self.set_default_attn_processor()
        else:
            super().set_attention_slice(slice_size)


def _check_config(moe_levels: Sequence[int] | None, num_levels: int, problems: list[str]) -> None:
    known = range(num_levels)
    if moe_levels is not None and (unknown := [level for level in moe_levels if level not in known]):
        problems = [*problems, f"moe_levels must be among {list(known)} (0 = finest) or null for all, got {unknown}"]
    if problems:
        raise ConfigError("; ".join(problems) + ".")


def levels_with_blocks(unet: Any) -> tuple[int, ...]:
    """The levels of a UNet, stock or not, on which it has transformer blocks."""
    return tuple(sorted({level for level, _ in _transformers(getattr(unet, "base", unet))}))


def _lost_levels(unet: UNet2DConditionModel, moe_levels: Sequence[int] | None) -> list[str]:
    has = levels_with_experts(unet)
    if not has or moe_levels is None or not set(has) - set(moe_levels):
        return []
    return [f"it has experts on levels {list(has)}, they are asked for on {list(moe_levels)}"]


def _check_moe_levels(moe_levels: Sequence[int] | None, with_blocks: Collection[int]) -> None:
    if bare := [level for level in moe_levels or () if level not in with_blocks]:
        raise ConfigError(
            f"moe_levels {list(moe_levels or ())}: this UNet has transformer blocks on levels {sorted(with_blocks)} "
            f"only, so there is no place for experts on {bare}."
        )


def transformers_of(blocks: Iterable[tuple[int, nn.Module]]) -> list[tuple[int, Transformer2DModel]]:
    """The transformers inside some blocks, in the order they run, each with its block's level."""
    return [(level, m) for level, block in blocks for m in block.modules() if isinstance(m, Transformer2DModel)]


def _transformers(unet: UNet2DConditionModel) -> list[tuple[int, Transformer2DModel]]:
    num_levels = len(unet.down_blocks)
    blocks = [
        *enumerate(unet.down_blocks),
        *([(num_levels - 1, unet.mid_block)] if unet.mid_block is not None else []),
        *((num_levels - 1 - i, block) for i, block in enumerate(unet.up_blocks)),
    ]
    found = transformers_of(blocks)
    if not found:
        kinds = ", ".join(sorted({type(block).__name__ for _, block in blocks}))
        raise ConfigError(f"A UNet with text cross-attention is wanted (CrossAttnDownBlock2D, ...), got {kinds}.")
    return found
