"""FLUX.1's transformer whose blocks know regions and experts; see :mod:`mamoe.models.flux.steered`."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, ClassVar, cast

from diffusers.models.modeling_outputs import Transformer2DModelOutput
from diffusers.models.transformers.transformer_flux import (
    FluxSingleTransformerBlock,
    FluxTransformer2DModel,
    FluxTransformerBlock,
)
from jaxtyping import Float
from torch import Tensor, nn

from mamoe.models.blocks.conversion import with_own_arguments
from mamoe.models.blocks.norms import keep_format
from mamoe.models.flux.block import MaMoEFluxBlock, MaMoEFluxSingleBlock
from mamoe.models.flux.steered import SteeredFlux


class MaMoEFluxTransformer2DModel(SteeredFlux, FluxTransformer2DModel):  # pyright: ignore[reportIncompatibleMethodOverride]
    """A ``FluxTransformer2DModel`` with region-masked joint attention and class-aware experts.

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

    _stock: ClassVar[type[Any]] = FluxTransformer2DModel
    _no_split_modules = ["MaMoEFluxBlock", "MaMoEFluxSingleBlock"]  # noqa: RUF012
    _repeated_blocks = ["MaMoEFluxBlock", "MaMoEFluxSingleBlock"]  # noqa: RUF012

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
            MaMoEFluxBlock(cast(FluxTransformerBlock, block)) for block in self.transformer_blocks
        )
        self.single_transformer_blocks = nn.ModuleList(
            MaMoEFluxSingleBlock(cast(FluxSingleTransformerBlock, block)) for block in self.single_transformer_blocks
        )
        self._set_up(num_experts, region_attention, region_blocks, expert_rank, expert_alpha)
        keep_format(self)

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        hidden_states: Float[Tensor, "B N c4"],
        encoder_hidden_states: Float[Tensor, "B S D"],
        *,
        joint_attention_kwargs: dict[str, Any] | None = None,
        **stock: Any,
    ) -> Transformer2DModelOutput | Tensor:
        """The stock forward pass, after a check of the layout.

        Raises:
            ValueError: the layout does not fit the latents, the text or this model.
        """
        told = self.steering(joint_attention_kwargs, hidden_states, encoder_hidden_states)
        return super().forward(hidden_states, encoder_hidden_states, joint_attention_kwargs=told, **stock)


MaMoEFluxTransformer2DModel.__init__.__signature__ = with_own_arguments(  # pyright: ignore[reportFunctionMemberAccess]
    inspect.signature(FluxTransformer2DModel.__init__), inspect.signature(MaMoEFluxTransformer2DModel.__init__)
)
