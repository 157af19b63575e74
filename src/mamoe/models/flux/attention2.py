"""FLUX.2's attention where every picture has positions of its own, and the feed-forward that is part of it has experts.

It computes what diffusers' processors compute; the layers' weights and their names stay untouched. Shapes: B images ·
T positions, those of text first · C channels · c channels of a head.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.transformers.transformer_flux2 import Flux2AttnProcessor, Flux2ParallelSelfAttnProcessor
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from mamoe.models.blocks.attention import with_signature
from mamoe.models.experts.beside import ExpertsBeside
from mamoe.models.flux.block import Rotation, cells_routed
from mamoe.vocabulary.conditioning import ExpertRouting


def places_in_prompts(region: Int64[Tensor, "B S"]) -> Int64[Tensor, "B S"]:
    """The place of every token in its own prompt, from 0: as it would have it alone, wherever it stands in the text."""
    same = region.unsqueeze(2) == region.unsqueeze(1)
    first = same.int().argmax(dim=2)
    return torch.arange(region.shape[1], device=region.device) - first


@with_signature
class PlacedAttnProcessor(Flux2AttnProcessor):
    """Of a double block; ``places`` [B T c] take the place of positions that are the same for all pictures."""

    def __call__(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        attn: Any,
        hidden_states: Float[Tensor, "B N C"],
        encoder_hidden_states: Float[Tensor, "B S C"] | None = None,
        attention_mask: Bool[Tensor, "B 1 T T"] | None = None,
        image_rotary_emb: Rotation | None = None,
        places: Rotation | None = None,
    ) -> Any:
        if places is None or encoder_hidden_states is None:
            stock: Any = super()
            return stock.__call__(attn, hidden_states, encoder_hidden_states, attention_mask, image_rotary_emb)
        size, text = attn.head_dim, encoder_hidden_states
        query = torch.cat(
            [
                attn.norm_added_q(attn.add_q_proj(text).unflatten(2, (-1, size))),
                attn.norm_q(attn.to_q(hidden_states).unflatten(2, (-1, size))),
            ],
            dim=1,
        )
        key = torch.cat(
            [
                attn.norm_added_k(attn.add_k_proj(text).unflatten(2, (-1, size))),
                attn.norm_k(attn.to_k(hidden_states).unflatten(2, (-1, size))),
            ],
            dim=1,
        )
        value = torch.cat([attn.add_v_proj(text), attn.to_v(hidden_states)], dim=1).unflatten(2, (-1, size))
        seen = _attended(query, key, value, attention_mask, places)
        of_text, of_cells = seen[:, : text.shape[1]], seen[:, text.shape[1] :]
        project, dropout = attn.to_out
        return dropout(project(of_cells)), attn.to_add_out(of_text)


@with_signature
class PlacedParallelProcessor(Flux2ParallelSelfAttnProcessor):
    """Of a single block, whose feed-forward lies in the same two layers: beside ``places`` it knows experts.

    ``tokens`` is how many positions are of text.
    """

    def __call__(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        attn: Any,
        hidden_states: Float[Tensor, "B T C"],
        attention_mask: Bool[Tensor, "B 1 T T"] | None = None,
        image_rotary_emb: Rotation | None = None,
        places: Rotation | None = None,
        experts: ExpertsBeside | None = None,
        routing: ExpertRouting | None = None,
        tokens: int = 0,
    ) -> Float[Tensor, "B T C"]:
        if places is None and experts is None:
            stock: Any = super()
            return stock.__call__(attn, hidden_states, attention_mask, image_rotary_emb)
        both = attn.to_qkv_mlp_proj(hidden_states)
        looking, wide = both.split([3 * attn.inner_dim, both.shape[2] - 3 * attn.inner_dim], dim=2)
        query, key, value = (one.unflatten(2, (-1, attn.head_dim)) for one in looking.chunk(3, dim=2))
        rotation = image_rotary_emb if places is None else places
        seen = _attended(attn.norm_q(query), attn.norm_k(key), value, attention_mask, rotation)
        if experts is None:
            inner = attn.mlp_act_fn(wide)
        else:
            inner = cells_routed(experts, wide, attn.mlp_act_fn, hidden_states, tokens, routing)
        return attn.to_out(torch.cat([seen, inner], dim=2))


def _attended(
    query: Float[Tensor, "B T h c"],
    key: Float[Tensor, "B T h c"],
    value: Float[Tensor, "B T h c"],
    mask: Bool[Tensor, "B 1 T T"] | None,
    rotation: Rotation | None,
) -> Float[Tensor, "B T C"]:
    if rotation is not None:
        query, key = _rotated(query, rotation), _rotated(key, rotation)
    query, key, value = (one.transpose(1, 2) for one in (query, key, value))
    seen = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    return seen.transpose(1, 2).flatten(2).to(query.dtype)


def _rotated(x: Float[Tensor, "B T h c"], rotation: Rotation) -> Float[Tensor, "B T h c"]:
    """Neighbouring numbers turned by the angles of their position (Su et al. 2021, RoFormer, section 3.2.2)."""
    cosine, sine = (one.unsqueeze(-2) for one in rotation)
    even, odd = x.float().unflatten(3, (-1, 2)).unbind(4)
    turned = torch.stack([-odd, even], dim=4).flatten(3)
    return (x.float() * cosine + turned * sine).to(x.dtype)
