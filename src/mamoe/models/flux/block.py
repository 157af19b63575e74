"""FLUX.1's two kinds of transformer blocks, aware of experts. Their masks come as ``attention_mask``, as in stock ones.

    double:  text and picture have weights of their own and meet in attention; experts in the picture's feed-forward
    single:  one sequence, attention and feed-forward side by side; experts in ``proj_mlp``

Cells are routed; text is not: in a single block it goes with the rest group, expert 0, so that the model without a
layout is one of the base model's shape. Letters: see :mod:`mamoe.vocabulary`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
import torch.nn.functional as F
from diffusers.models.activations import GELU
from diffusers.models.attention import FeedForward
from diffusers.models.transformers.transformer_flux import FluxSingleTransformerBlock, FluxTransformerBlock
from jaxtyping import Float
from torch import Tensor, nn

from mamoe.models.experts.beside import ExpertsBeside
from mamoe.models.experts.grouped import Activation
from mamoe.vocabulary.conditioning import ExpertRouting

Rotation = tuple[Tensor, Tensor]  # cosines and sines of the positions
_HALF_MAX = 65504  # of float16


class ExpertPlace(nn.Module):
    """A block that can have experts, each a low-rank addition."""

    experts: ExpertsBeside | None
    region_attention: bool  # whether regions hold here

    def take_over(self, stock: nn.Module) -> None:
        """The layers of a stock block, under their names, and no experts yet."""
        nn.Module.__init__(self)  # of the stock block's own constructor nothing but layers would come
        for name, layer in stock.named_children():
            setattr(self, name, layer)
        self.experts = None
        self.region_attention = True

    def shared_layers(self) -> tuple[nn.Linear, nn.Linear | None]:
        """What the experts lie beside: the first layer, and the second where the experts have one of their own."""
        raise NotImplementedError

    def routed_and_told(
        self, joint_attention_kwargs: dict[str, Any] | None
    ) -> tuple[ExpertRouting | None, dict[str, Any]]:
        """What the block looks at itself, and what its attention is told: of a layout's two masks its own."""
        told = dict(joint_attention_kwargs or {})
        routing, held, opened = (told.pop(key, None) for key in ("routing", "region_mask", "open_mask"))
        mask = held if self.region_attention else opened
        return routing, told if mask is None else {**told, "attention_mask": mask}

    def widened_by(self) -> int | None:
        """Of what the first layer gives the last so many numbers are the feed-forward's; None: all of it."""
        return None

    def add_experts(self, num_experts: int, *, rank: int, alpha: float, generator: torch.Generator) -> None:
        """Give every class group an addition, which is nothing at first."""
        wide, narrow = self.shared_layers()
        options = {"rank": rank, "alpha": alpha, "generator": generator}
        self.experts = ExpertsBeside(wide, narrow, num_experts, width=self.widened_by(), **options)

    def rest_additions(self) -> list[tuple[Tensor, Float[Tensor, "F C"]]]:
        """The shared layers' weights, and what expert 0 adds to each."""
        if self.experts is None:
            return []
        wide, narrow = self.shared_layers()
        added = self.experts.widen.weight_of(0)
        found = [(wide.weight, F.pad(added, (0, 0, len(wide.weight) - len(added), 0)))]
        if narrow is not None and self.experts.narrow is not None:
            found.append((narrow.weight, self.experts.narrow.weight_of(0)))
        return found


class ExpertsInPicture(ExpertPlace):
    """A block whose picture has a feed-forward of its own, ``ff``: there the experts are."""

    ff: FeedForward

    def shared_layers(self) -> tuple[nn.Linear, nn.Linear | None]:
        return cast(GELU, self.ff.net[0]).proj, cast(nn.Linear, self.ff.net[2])

    def feed_forward(self, normed: Float[Tensor, "B N C"], routing: ExpertRouting | None) -> Float[Tensor, "B N C"]:
        """What every cell's expert adds to it, or without experts the feed-forward."""
        if self.experts is None:
            return self.ff(normed)
        first, dropout, second = self.ff.net
        activation = Activation.of(first)
        assert activation is not None, "these blocks have GELU between their layers"
        layers = (cast(GELU, first).proj, second)
        return self.experts.through(layers, lambda inner: dropout(activation(inner)), normed, routing)


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


def within_half(x: Tensor) -> Tensor:
    """The numbers cut to what float16 holds, where they are of that type: FLUX's text goes beyond it."""
    return x.clip(-_HALF_MAX, _HALF_MAX) if x.dtype == torch.float16 else x
