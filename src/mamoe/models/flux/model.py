"""FLUX.1's transformer whose blocks know regions and experts; see :mod:`mamoe.models.joint.steered`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from diffusers.models.modeling_outputs import Transformer2DModelOutput
from diffusers.models.transformers.transformer_flux import (
    FluxTransformer2DModel,
)
from jaxtyping import Float
from torch import Tensor

from mamoe.models.flux.block import MaMoEFluxBlock, MaMoEFluxSingleBlock
from mamoe.models.joint.place import ExpertPlace
from mamoe.models.joint.steered import SteeredJoint


class MaMoEFluxTransformer2DModel(SteeredJoint, FluxTransformer2DModel):  # pyright: ignore[reportIncompatibleMethodOverride]
    """A ``FluxTransformer2DModel`` with region-masked joint attention and class-aware experts."""

    stock: ClassVar[type[Any]] = FluxTransformer2DModel
    blocks: ClassVar[Mapping[str, type[ExpertPlace]]] = {
        "transformer_blocks": MaMoEFluxBlock,
        "single_transformer_blocks": MaMoEFluxSingleBlock,
    }

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
