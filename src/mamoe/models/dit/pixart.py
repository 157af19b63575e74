"""PixArt's transformer (alpha and Sigma) whose blocks know regions and experts.

    stock transformer --from_transformer--> MaMoE transformer --to_dense--> stock transformer

It has one level: the latent over the patch size. Letters: see :mod:`mamoe.vocabulary`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Self, cast

from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.attention_processor import AttnProcessor2_0
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from diffusers.models.transformers.pixart_transformer_2d import PixArtTransformer2DModel
from jaxtyping import Float
from torch import Tensor, nn

from mamoe.errors import ConfigError
from mamoe.models.blocks.conversion import (
    check_levels,
    check_nothing_is_dropped,
    noise_level_of,
    option_problems,
    put_back_processors,
)
from mamoe.models.blocks.held import held_blocks, listed
from mamoe.models.blocks.norms import keep_format
from mamoe.models.blocks.steered import SteeredNetwork
from mamoe.models.dit.block import MaMoEPixArtBlock
from mamoe.models.wrapped import unwrapped


class MaMoEPixArtTransformer2DModel(SteeredNetwork, PixArtTransformer2DModel):
    """A ``PixArtTransformer2DModel`` with region-masked cross-attention and class-aware experts.

    Called like the stock one; the layout comes as ``cross_attention_kwargs={"regions": levels}`` with the one
    ``LevelConditioning`` of its patches (``Conditioning.unet_inputs()`` makes both that and the text). Without it the
    model is the dense one of expert 0.

    Args:
        num_experts: E, experts of every feed-forward. 1 = dense.
        region_attention: whether a cell sees the text of its own regions only. False = it sees that of the whole image.
        region_blocks: numbers of the transformer blocks in which it does, from 0 in the order they run; in the others
            it sees that of the whole image. None = all.
        learned_strength: whether every cross-attention head learns how strongly the regions bind it, as a function of
            the noise level; it starts at full strength.
        shared_expert: whether the pretrained feed-forward works on every cell and the experts of all groups but the
            rest add to it (:class:`~mamoe.models.experts.moe.SharedExpertFeedForward`).
        config: the stock transformer's own arguments.

    Raises:
        ConfigError: a value is out of range, or the blocks are not of the usual kind.
    """

    stock: ClassVar[type[Any]] = PixArtTransformer2DModel
    converter: ClassVar[str] = "from_transformer"
    _no_split_modules = ["MaMoEPixArtBlock", "PatchEmbed"]  # noqa: RUF012
    _repeated_blocks = ["MaMoEPixArtBlock"]  # noqa: RUF012

    def __init__(
        self,
        num_experts: int = 1,
        region_attention: bool = True,
        learned_strength: bool = False,
        shared_expert: bool = False,
        region_blocks: Sequence[int] | None = None,
        **config: Any,
    ) -> None:
        super().__init__(**config)
        if problems := option_problems(num_experts, region_attention, learned_strength, shared_expert):
            raise ConfigError("; ".join(problems) + ".")
        options: dict[str, Any] = {
            "num_experts": num_experts,
            "learned_strength": learned_strength,
            "shared_expert": shared_expert,
        }
        self.register_to_config(
            region_attention=region_attention,
            region_blocks=listed(region_blocks),
            **options,
        )
        held = held_blocks(region_attention, region_blocks, len(self.transformer_blocks))
        self.transformer_blocks = nn.ModuleList(
            MaMoEPixArtBlock(cast(BasicTransformerBlock, block), level=0, region_attention=holds, **options)
            for block, holds in zip(self.transformer_blocks, held, strict=True)
        )
        keep_format(self)

    @classmethod
    def from_transformer(
        cls,
        transformer: PixArtTransformer2DModel,
        num_experts: int = 1,
        region_attention: bool = True,
        learned_strength: bool = False,
        shared_expert: bool = False,
        region_blocks: Sequence[int] | None = None,
        *,
        copies: bool = True,
    ) -> Self:
        """Convert a transformer, which stays as it is. Every expert starts as a copy of its feed-forward.

        Without ``copies`` experts that the transformer has not yet are left without memory (on torch's ``meta``
        device), for whoever puts experts of another kind in their places. Beside a shared expert the output layers of
        the others start as zeros. Experts and strengths that the transformer has already are kept.

        Without a layout, or with one whose regions all cover everything, the result computes what ``transformer`` does.

        Raises:
            ConfigError: see the class; or the result has no place for experts or strengths that the transformer has.
        """
        transformer = cast(PixArtTransformer2DModel, unwrapped(transformer))
        check_nothing_is_dropped(transformer, num_experts, learned_strength, shared_expert, region_blocks)
        options: dict[str, Any] = {"num_experts": num_experts, "region_attention": region_attention}
        options |= {
            "learned_strength": learned_strength,
            "shared_expert": shared_expert,
            "region_blocks": region_blocks,
        }
        return cls.of_stock(transformer, options, copies=copies)

    # The stock options by name only, after the three that everybody gives.
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        hidden_states: Float[Tensor, "B c h w"],
        encoder_hidden_states: Float[Tensor, "B S D"],
        timestep: Tensor | float | int,
        *,
        cross_attention_kwargs: dict[str, Any] | None = None,
        **stock: Any,
    ) -> Transformer2DModelOutput | tuple[Tensor, ...]:
        """The stock forward pass, after a check of the sizes and the layout.

        Raises:
            ValueError: the layout does not fit the latents, the text or this model; or the latents are no whole number
                of patches.
        """
        height, width = hidden_states.shape[2:]
        patch = self.config["patch_size"]
        if height % patch or width % patch:
            raise ValueError(f"Latents must be whole patches of {patch}x{patch} cells, got {height}x{width} cells.")
        told: Any = noise_level_of(timestep, hidden_states)
        kwargs: Any = cross_attention_kwargs
        if cross_attention_kwargs is not None and (levels := cross_attention_kwargs.get("regions")) is not None:
            masked = stock.get("encoder_attention_mask") is not None
            grids = [(height // patch, width // patch)]
            check_levels(levels, grids, encoder_hidden_states, self.config, padding_mask=masked)
            if self.config["learned_strength"]:
                kwargs = {**cross_attention_kwargs, "noise_level": told}
        return super().forward(hidden_states, encoder_hidden_states, told, cross_attention_kwargs=kwargs, **stock)

    def set_default_attn_processor(self) -> None:
        """Put back the processors the model was made with, where others took their place."""
        self.set_attn_processor(AttnProcessor2_0())
        put_back_processors(self)
