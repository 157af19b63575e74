"""PixArt's transformer block, aware of regions and experts."""

from __future__ import annotations

from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from mamoe.models.blocks.block import LayoutBlock


class MaMoEPixArtBlock(LayoutBlock):
    """A block whose norms are shifted, scaled and gated by the noise level (Chen et al. 2023, PixArt-alpha, 2.3).

    Every block adds a table of its own to six vectors that all blocks share: ``timestep``, f32[B 6C]. The text is read
    from cells that are not normed; ``norm2`` belongs to the feed-forward.
    """

    norms: ClassVar[str] = "ada_norm_single"
    scale_shift_table: nn.Parameter

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
        assert timestep is not None, "these blocks are steered by the noise level"
        told = self.told(cross_attention_kwargs)
        of_block = self.scale_shift_table + timestep.unflatten(1, (6, -1))
        shift, scale, gate, ff_shift, ff_scale, ff_gate = of_block.chunk(6, dim=1)

        cells = self.norm1(hidden_states) * (1 + scale) + shift
        cells = self.attn1(cells, attention_mask=attention_mask, **told.others)
        hidden_states = hidden_states + gate * cells
        hidden_states = hidden_states + self.read_text(
            hidden_states, encoder_hidden_states, told, encoder_attention_mask
        )
        cells = self.norm2(hidden_states) * (1 + ff_scale) + ff_shift
        return hidden_states + ff_gate * self.feed_forward(cells, told)
