"""Qwen-Image's transformer block, aware of regions and experts (Wu et al. 2025, arXiv 2508.02324).

Text and picture have weights of their own and meet in attention; experts in the picture's feed-forward. Letters: see
:mod:`mamoe.vocabulary`.
"""

from __future__ import annotations

from typing import Any, ClassVar, cast

from diffusers.models.transformers.transformer_qwenimage import QwenImageTransformerBlock
from jaxtyping import Bool, Float
from torch import Tensor

from mamoe.models.joint.attention import within_half
from mamoe.models.joint.place import ExpertsInPicture
from mamoe.models.qwen.attention import PlacedDoubleStreamProcessor


class MaMoEQwenImageBlock(ExpertsInPicture, QwenImageTransformerBlock):
    """A block whose text reaches the cells of its region, and whose cells go to the expert of their class group."""

    of_picture: ClassVar[str] = "img_mlp"

    def __init__(self, stock: QwenImageTransformerBlock) -> None:
        self.take_over(stock)
        self.take_own_processor()

    def take_own_processor(self) -> None:
        """Let attention be computed by :class:`PlacedDoubleStreamProcessor`."""
        self.attn.set_processor(cast(Any, PlacedDoubleStreamProcessor()))

    def forward(
        self,
        hidden_states: Float[Tensor, "B N C"],
        encoder_hidden_states: Float[Tensor, "B S C"],
        encoder_hidden_states_mask: Bool[Tensor, "B S"] | None,
        temb: Float[Tensor, "B C"],
        image_rotary_emb: tuple[Tensor, Tensor] | None = None,
        joint_attention_kwargs: dict[str, Any] | None = None,
        modulate_index: Any = None,
    ) -> tuple[Float[Tensor, "B S C"], Float[Tensor, "B N C"]]:
        routing, told = self.routed_and_told(joint_attention_kwargs)
        cells, text = hidden_states, encoder_hidden_states
        shift, scale, gate, ff_shift, ff_scale, ff_gate = self.img_mod(temb).unsqueeze(1).chunk(6, dim=2)
        text_shift, text_scale, text_gate, *of_text_ff = self.txt_mod(temb).unsqueeze(1).chunk(6, dim=2)
        seen, seen_by_text = self.attn(
            hidden_states=self.img_norm1(cells) * (1 + scale) + shift,
            encoder_hidden_states=self.txt_norm1(text) * (1 + text_scale) + text_shift,
            encoder_hidden_states_mask=encoder_hidden_states_mask,
            image_rotary_emb=image_rotary_emb,
            **told,
        )
        cells = cells + gate * seen
        normed = self.img_norm2(cells) * (1 + ff_scale) + ff_shift
        cells = cells + ff_gate * self.feed_forward(normed, routing)
        text = text + text_gate * seen_by_text
        shift, scale, gate = of_text_ff
        text = text + gate * self.txt_mlp(self.txt_norm2(text) * (1 + scale) + shift)
        return within_half(text), within_half(cells)
