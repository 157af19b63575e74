"""Stable Diffusion 3's transformer whose blocks know regions and experts; see :mod:`mamoe.models.flux.steered`."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, ClassVar, cast

from diffusers.models.attention import JointTransformerBlock
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from diffusers.models.transformers.transformer_sd3 import SD3Transformer2DModel
from jaxtyping import Float
from torch import Tensor, nn

from mamoe.models.blocks.conversion import with_own_arguments
from mamoe.models.blocks.norms import keep_format
from mamoe.models.flux.steered import SteeredFlux
from mamoe.models.sd3.block import MaMoESD3Block


class MaMoESD3Transformer2DModel(SteeredFlux, SD3Transformer2DModel):  # pyright: ignore[reportIncompatibleMethodOverride]
    """A ``SD3Transformer2DModel`` (3 and 3.5) with region-masked joint attention and class-aware experts.

    Args:
        num_experts: E, class groups. 1 = dense.
        region_attention: whether a cell sees the text of its own regions only. False = it sees that of the whole image.
        region_blocks: numbers of the transformer blocks in which it does, from 0 in the order they run; in the others
            it sees that of the whole image. None = all.
        expert_rank: of the experts' additions. None = every group has the feed-forward of the base model.
        expert_alpha: they are scaled by alpha / rank.
        config: the stock transformer's own arguments.

    Raises:
        ConfigError: a value is out of range.
    """

    _stock: ClassVar[type[Any]] = SD3Transformer2DModel
    _no_split_modules = ["MaMoESD3Block"]  # noqa: RUF012
    _repeated_blocks = ["MaMoESD3Block"]  # noqa: RUF012

    def __init__(
        self,
        num_experts: int = 1,
        region_attention: bool = True,
        expert_rank: int | None = None,
        expert_alpha: float | None = None,
        region_blocks: Sequence[int] | None = None,
        **config: Any,
    ) -> None:
        super().__init__(**config)
        self.transformer_blocks = nn.ModuleList(
            MaMoESD3Block(cast(JointTransformerBlock, block)) for block in self.transformer_blocks
        )
        self._set_up(num_experts, region_attention, region_blocks, expert_rank, expert_alpha)
        keep_format(self)

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        hidden_states: Float[Tensor, "B c h w"],
        encoder_hidden_states: Float[Tensor, "B S D"],
        *,
        joint_attention_kwargs: dict[str, Any] | None = None,
        **stock: Any,
    ) -> Transformer2DModelOutput | tuple[Tensor, ...]:
        """The stock forward pass, after a check of the sizes and the layout.

        Raises:
            ValueError: the layout does not fit the latents, the text or this model; or the latents are no whole number
                of patches.
        """
        (height, width), patch = hidden_states.shape[2:], self.config["patch_size"]
        if height % patch or width % patch:
            raise ValueError(f"Latents must be whole patches of {patch}x{patch} cells, got {height}x{width} cells.")
        patches = hidden_states[:, :1, ::patch, ::patch].flatten(2).transpose(1, 2)  # to be counted
        told: Any = self.steering(joint_attention_kwargs, patches, encoder_hidden_states)
        output: Any = super().forward(hidden_states, encoder_hidden_states, joint_attention_kwargs=told, **stock)
        return output

    def set_default_attn_processor(self) -> None:
        """Put back the processors of the joint attentions, where others took their place."""
        for block in self.places:
            cast(MaMoESD3Block, block).take_own_processor()


MaMoESD3Transformer2DModel.__init__.__signature__ = with_own_arguments(  # pyright: ignore[reportFunctionMemberAccess]
    inspect.signature(SD3Transformer2DModel.__init__), inspect.signature(MaMoESD3Transformer2DModel.__init__)
)
