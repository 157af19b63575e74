"""The UNet's transformer block, aware of regions and experts."""

from __future__ import annotations

from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from mamoe.models.blocks.block import LayoutBlock


class MaMoETransformerBlock(LayoutBlock):
    """A block of latent diffusion UNets: a norm before each of its three layers."""

    norms: ClassVar[str] = "layer_norm"
    norm3: nn.LayerNorm

    def forward(
        self,
        hidden_states: Float[Tensor, "B N C"],
        attention_mask: Tensor | None = None,
        encoder_hidden_states: Float[Tensor, "B S D"] | None = None,
        encoder_attention_mask: Tensor | None = None,
        timestep: Tensor | None = None,
        cross_attention_kwargs: dict[str, Any] | None = None,
        class_labels: Tensor | None = None,
        added_cond_kwargs: dict[str, Tensor] | None = None,
    ) -> Float[Tensor, "B N C"]:
        told = self.told(cross_attention_kwargs)
        hidden_states = hidden_states + self.attn1(
            self.norm1(hidden_states), attention_mask=attention_mask, **told.others
        )
        hidden_states = hidden_states + self.read_text(
            self.norm2(hidden_states), encoder_hidden_states, told, encoder_attention_mask
        )
        return hidden_states + self.feed_forward(self.norm3(hidden_states), told)
