"""Stable Diffusion 3's transformer block, aware of regions and experts (Esser et al. 2024, arXiv 2403.03206).

Text and picture have weights of their own and meet in attention; experts in the picture's feed-forward. The first
blocks of 3.5-medium have a second attention, of the picture alone; the last block's text goes nowhere.
"""

from __future__ import annotations

from typing import Any, cast

from diffusers.models.attention import FeedForward, JointTransformerBlock
from jaxtyping import Float
from torch import Tensor, nn

from mamoe.models.blocks.block import refuse_chunks
from mamoe.models.joint.place import ExpertsInPicture
from mamoe.models.sd3.attention import MaskedJointAttnProcessor, check_takes_mask


class MaMoESD3Block(ExpertsInPicture, JointTransformerBlock):
    """A joint block whose text reaches the cells of its region, and whose cells go to the expert of their group."""

    def __init__(self, stock: JointTransformerBlock) -> None:
        self.take_over(stock)
        self.use_dual_attention, self.context_pre_only = stock.use_dual_attention, stock.context_pre_only
        for name in ("attn2", "norm2_context", "ff_context"):  # where the stock block has none it says so
            if not hasattr(self, name):
                setattr(self, name, None)
        self.take_own_processor()

    def take_own_processor(self) -> None:
        """Let the joint attention be computed by :class:`MaskedJointAttnProcessor`."""
        self.attn.set_processor(cast(Any, MaskedJointAttnProcessor()))

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride] - the last block's text is None in the stock one too
        self,
        hidden_states: Float[Tensor, "B N C"],
        encoder_hidden_states: Float[Tensor, "B S C"],
        temb: Float[Tensor, "B C"],
        joint_attention_kwargs: dict[str, Any] | None = None,
    ) -> tuple[Float[Tensor, "B S C"] | None, Float[Tensor, "B N C"]]:
        routing, told = self.routed_and_told(joint_attention_kwargs)
        if told.get("attention_mask") is not None:
            check_takes_mask(self.attn)
        cells, text = hidden_states, encoder_hidden_states
        normed, gate, shift, scale, ff_gate, *of_second = self.norm1(cells, emb=temb)
        normed_text, *of_text = (
            [self.norm1_context(text, temb)] if self.context_pre_only else self.norm1_context(text, emb=temb)
        )
        seen, seen_by_text = self.attn(hidden_states=normed, encoder_hidden_states=normed_text, **told)
        cells = gate.unsqueeze(1) * seen + cells  # in this order: see the block of PixArt
        if self.attn2 is not None:
            normed_again, second_gate = of_second
            cells = cells + second_gate.unsqueeze(1) * self.attn2(hidden_states=normed_again)
        normed = self.norm2(cells) * (1 + scale.unsqueeze(1)) + shift.unsqueeze(1)
        cells = cells + ff_gate.unsqueeze(1) * self.feed_forward(normed, routing)
        if self.context_pre_only:
            return None, cells
        gate, shift, scale, ff_gate = (one.unsqueeze(1) for one in of_text)
        text = text + gate * seen_by_text
        normed_text = cast(nn.LayerNorm, self.norm2_context)(text) * (1 + scale) + shift
        text = text + ff_gate * cast(FeedForward, self.ff_context)(normed_text)
        return text, cells

    def set_chunk_feed_forward(self, chunk_size: int | None, dim: int = 0) -> None:
        """Refused: experts work on slices of their own already.

        Raises:
            ConfigError: a chunk size is given.
        """
        refuse_chunks(chunk_size)
