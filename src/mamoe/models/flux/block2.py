"""FLUX.2's two kinds of transformer blocks, aware of experts; what differs from FLUX.1 is where the layers lie.

All blocks of a kind share what the noise level makes of them. In a single block the first layer of the feed-forward is
the end of the layer that makes queries, keys and values. Letters: see :mod:`mamoe.vocabulary`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, cast

import torch
import torch.nn.functional as F
from diffusers.models.transformers.transformer_flux2 import (
    Flux2Modulation,
    Flux2SingleTransformerBlock,
    Flux2TransformerBlock,
)
from jaxtyping import Float
from torch import Tensor, nn

from mamoe.models.experts.beside import ExpertsBeside
from mamoe.models.flux.attention2 import PlacedAttnProcessor, PlacedParallelProcessor
from mamoe.models.joint.attention import Rotation, within_half
from mamoe.models.joint.place import ExpertPlace


class MaMoEFlux2Block(ExpertPlace, Flux2TransformerBlock):
    """A double block whose cells go to the expert of their class group."""

    beside: ClassVar[Mapping[str, str]] = {"widen": "ff.linear_in", "narrow": "ff.linear_out"}

    def __init__(self, stock: Flux2TransformerBlock) -> None:
        self.take_over(stock)
        self.mlp_hidden_dim = stock.mlp_hidden_dim
        self.attn.set_processor(cast(Any, PlacedAttnProcessor()))

    def shared_layers(self) -> tuple[nn.Linear, nn.Linear | None]:
        return self.ff.linear_in, self.ff.linear_out

    def forward(
        self,
        hidden_states: Float[Tensor, "B N C"],
        encoder_hidden_states: Float[Tensor, "B S C"],
        temb_mod_img: Tensor,
        temb_mod_txt: Tensor,
        image_rotary_emb: Rotation | None = None,
        joint_attention_kwargs: dict[str, Any] | None = None,
    ) -> tuple[Float[Tensor, "B S C"], Float[Tensor, "B N C"]]:
        routing, told = self.routed_and_told(joint_attention_kwargs)
        told.pop("tokens", None)
        cells, text = hidden_states, encoder_hidden_states
        (shift, scale, gate), (ff_shift, ff_scale, ff_gate) = Flux2Modulation.split(temb_mod_img, 2)
        (text_shift, text_scale, text_gate), of_text_ff = Flux2Modulation.split(temb_mod_txt, 2)
        seen, seen_by_text = self.attn(
            hidden_states=self.norm1(cells) * (1 + scale) + shift,
            encoder_hidden_states=self.norm1_context(text) * (1 + text_scale) + text_shift,
            image_rotary_emb=image_rotary_emb,
            **told,
        )
        cells = cells + gate * seen
        normed = self.norm2(cells) * (1 + ff_scale) + ff_shift
        if self.experts is None:
            inner = self.ff(normed)
        else:
            layers = (self.ff.linear_in, self.ff.linear_out)
            inner = self.experts.through(layers, self.ff.act_fn, normed, routing)
        cells = cells + ff_gate * inner
        text = text + text_gate * seen_by_text
        ff_shift, ff_scale, ff_gate = of_text_ff
        text = text + ff_gate * self.ff_context(self.norm2_context(text) * (1 + ff_scale) + ff_shift)
        return within_half(text), cells


class MaMoEFlux2SingleBlock(ExpertPlace, Flux2SingleTransformerBlock):
    """A single block whose cells are widened by the expert of their class group."""

    beside: ClassVar[Mapping[str, str]] = {"widen": "attn.to_qkv_mlp_proj"}

    def __init__(self, stock: Flux2SingleTransformerBlock) -> None:
        self.take_over(stock)
        self.attn.set_processor(cast(Any, PlacedParallelProcessor()))

    def shared_layers(self) -> tuple[nn.Linear, nn.Linear | None]:
        return self.attn.to_qkv_mlp_proj, None

    def widened_by(self) -> int | None:
        return self.attn.mlp_hidden_dim * self.attn.mlp_mult_factor

    @classmethod
    def as_adapters(
        cls, part: str, down: Float[Tensor, "r C"], up: Float[Tensor, "F r"]
    ) -> dict[str, tuple[Float[Tensor, "r C"], Float[Tensor, "_ r"]]]:
        above = 3 * down.shape[1]  # queries, keys and values come first
        return {cls.beside[part]: (down, F.pad(up, (0, 0, above, 0)))}

    def forward(
        self,
        hidden_states: Float[Tensor, "B _ C"],
        encoder_hidden_states: Float[Tensor, "B S C"] | None,
        temb_mod: Tensor,
        image_rotary_emb: Rotation | None = None,
        joint_attention_kwargs: dict[str, Any] | None = None,
        split_hidden_states: bool = False,
        text_seq_len: int | None = None,
    ) -> Any:
        routing, told = self.routed_and_told(joint_attention_kwargs)
        tokens = told.pop("tokens", text_seq_len or 0)
        if encoder_hidden_states is not None:
            tokens = encoder_hidden_states.shape[1]
            hidden_states = torch.cat([encoder_hidden_states, hidden_states], dim=1)
        ((shift, scale, gate),) = Flux2Modulation.split(temb_mod, 1)
        seen = self.attn(
            hidden_states=self.norm(hidden_states) * (1 + scale) + shift,
            image_rotary_emb=image_rotary_emb,
            **told,
            **self._of_experts(self.experts, routing, tokens),
        )
        both = within_half(hidden_states + gate * seen)
        return (both[:, :tokens], both[:, tokens:]) if split_hidden_states else both

    @staticmethod
    def _of_experts(experts: ExpertsBeside | None, routing: Any, tokens: int) -> dict[str, Any]:
        return {} if experts is None else {"experts": experts, "routing": routing, "tokens": tokens}
