"""FLUX.1's two kinds of transformer blocks, aware of regions and experts.

    double:  text and picture have weights of their own and meet in attention; experts in the picture's feed-forward
    single:  one sequence, attention and feed-forward side by side; experts in ``proj_mlp``

Cells are routed; text is not: in a single block it goes with the rest group, expert 0, so that the model without a
layout is one of the base model's shape. Letters: see :mod:`mamoe.vocabulary`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from diffusers.models.transformers.transformer_flux import FluxSingleTransformerBlock, FluxTransformerBlock
from jaxtyping import Float
from torch import Tensor, nn

from mamoe.models.experts.beside import ExpertsBeside
from mamoe.models.joint.attention import Rotation, within_half
from mamoe.models.joint.place import ExpertPlace, ExpertsInPicture
from mamoe.vocabulary.conditioning import ExpertRouting


class MaMoEFluxBlock(ExpertsInPicture, FluxTransformerBlock):
    """A double block whose cells go to the expert of their class group."""

    def __init__(self, stock: FluxTransformerBlock) -> None:
        self.take_over(stock)

    def forward(
        self,
        hidden_states: Float[Tensor, "B N C"],
        encoder_hidden_states: Float[Tensor, "B S C"],
        temb: Float[Tensor, "B C"],
        image_rotary_emb: Rotation | None = None,
        joint_attention_kwargs: dict[str, Any] | None = None,
    ) -> tuple[Float[Tensor, "B S C"], Float[Tensor, "B N C"]]:
        routing, told = self.routed_and_told(joint_attention_kwargs)
        cells, text = hidden_states, encoder_hidden_states
        normed, gate, *of_ff = self.norm1(cells, emb=temb)
        normed_text, text_gate, *of_text_ff = self.norm1_context(text, emb=temb)
        seen, seen_by_text, *shown = self.attn(
            hidden_states=normed, encoder_hidden_states=normed_text, image_rotary_emb=image_rotary_emb, **told
        )
        cells = cells + gate.unsqueeze(1) * seen
        shift, scale, ff_gate = (one.unsqueeze(1) for one in of_ff)
        cells = cells + ff_gate * self.feed_forward(self.norm2(cells) * (1 + scale) + shift, routing)
        text = text + text_gate.unsqueeze(1) * seen_by_text
        shift, scale, ff_gate = (one.unsqueeze(1) for one in of_text_ff)
        text = text + ff_gate * self.ff_context(self.norm2_context(text) * (1 + scale) + shift)
        for picture in shown:  # of an IP-Adapter
            cells = cells + picture
        return within_half(text), cells


class MaMoEFluxSingleBlock(ExpertPlace, FluxSingleTransformerBlock):
    """A single block whose cells are widened by the expert of their class group."""

    beside: ClassVar[Mapping[str, str]] = {"widen": "proj_mlp"}

    def __init__(self, stock: FluxSingleTransformerBlock) -> None:
        self.take_over(stock)
        self.mlp_hidden_dim = stock.mlp_hidden_dim

    def shared_layers(self) -> tuple[nn.Linear, nn.Linear | None]:
        return self.proj_mlp, None

    def forward(
        self,
        hidden_states: Float[Tensor, "B N C"],
        encoder_hidden_states: Float[Tensor, "B S C"],
        temb: Float[Tensor, "B C"],
        image_rotary_emb: Rotation | None = None,
        joint_attention_kwargs: dict[str, Any] | None = None,
    ) -> tuple[Float[Tensor, "B S C"], Float[Tensor, "B N C"]]:
        routing, told = self.routed_and_told(joint_attention_kwargs)
        tokens = encoder_hidden_states.shape[1]
        both = torch.cat([encoder_hidden_states, hidden_states], dim=1)
        normed, gate = self.norm(both, emb=temb)
        seen = self.attn(hidden_states=normed, image_rotary_emb=image_rotary_emb, **told)
        joined = torch.cat([seen, self._widened(normed, tokens, routing)], dim=2)
        both = within_half(both + gate.unsqueeze(1) * self.proj_out(joined))
        return both[:, :tokens], both[:, tokens:]

    def _widened(self, normed: Tensor, tokens: int, routing: ExpertRouting | None) -> Tensor:
        wide = self.proj_mlp(normed)
        if self.experts is None:
            return self.act_mlp(wide)
        return cells_routed(self.experts, wide, self.act_mlp, normed, tokens, routing)


def cells_routed(
    experts: ExpertsBeside,
    wide: Float[Tensor, "B T F"],
    activation: Callable[[Tensor], Tensor],
    x: Float[Tensor, "B T C"],
    tokens: int,
    routing: ExpertRouting | None,
) -> Float[Tensor, "B T _"]:
    """See :meth:`ExpertsBeside.added_to`, of a sequence that begins with ``tokens`` of text: these go with expert 0."""
    if routing is None:
        return experts.added_to(wide, activation, x, None)
    text = experts.added_to(wide[:, :tokens], activation, x[:, :tokens], None)
    return torch.cat([text, experts.added_to(wide[:, tokens:], activation, x[:, tokens:], routing)], dim=1)
