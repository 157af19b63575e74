"""Qwen-Image's attention where a layout masks it: diffusers' own refuses any mask but one of padding.

Shapes: B images · N cells · S text tokens · T = S + N positions, those of text first · C channels · c channels of a
head.
"""

from __future__ import annotations

from typing import Any

from diffusers.models.transformers.transformer_qwenimage import QwenDoubleStreamAttnProcessor2_0
from jaxtyping import Bool, Float
from torch import Tensor

from mamoe.models.blocks.attention import with_signature
from mamoe.models.joint.attention import Rotation, two_streams


@with_signature
class PlacedDoubleStreamProcessor(QwenDoubleStreamAttnProcessor2_0):
    """With ``places`` [B T c], of every picture its own, it obeys ``attention_mask``; else it is the stock one."""

    def __call__(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        attn: Any,
        hidden_states: Float[Tensor, "B N C"],
        encoder_hidden_states: Float[Tensor, "B S C"],
        encoder_hidden_states_mask: Bool[Tensor, "B S"] | None = None,
        attention_mask: Bool[Tensor, "B 1 T T"] | None = None,
        image_rotary_emb: tuple[Tensor, Tensor] | None = None,
        places: Rotation | None = None,
    ) -> tuple[Float[Tensor, "B N C"], Float[Tensor, "B S C"]]:
        """What cells and text take up from each other.

        Raises:
            ValueError: a mask without places.
        """
        if places is None:
            stock: Any = super()
            padding = encoder_hidden_states_mask
            return stock.__call__(attn, hidden_states, encoder_hidden_states, padding, attention_mask, image_rotary_emb)
        size = attn.inner_dim // attn.heads
        return two_streams(attn, hidden_states, encoder_hidden_states, size, attention_mask, places)
