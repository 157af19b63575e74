"""FLUX.2's attention where every picture has positions of its own, and the feed-forward that is part of it has experts.

It computes what diffusers' processors compute; the layers' weights and their names stay untouched. Shapes: B images ·
T positions, those of text first · C channels · c channels of a head.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.transformers.transformer_flux2 import Flux2AttnProcessor, Flux2ParallelSelfAttnProcessor
from jaxtyping import Bool, Float
from torch import Tensor

from mamoe.models.blocks.attention import with_signature
from mamoe.models.experts.beside import ExpertsBeside
from mamoe.models.flux.block import cells_routed
from mamoe.models.joint.attention import Rotation, attended, two_streams
from mamoe.vocabulary.conditioning import ExpertRouting


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
        return two_streams(attn, hidden_states, encoder_hidden_states, attn.head_dim, attention_mask, places)


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
        seen = attended(attn.norm_q(query), attn.norm_k(key), value, attention_mask, rotation)
        if experts is None:
            inner = attn.mlp_act_fn(wide)
        else:
            inner = cells_routed(experts, wide, attn.mlp_act_fn, hidden_states, tokens, routing)
        return attn.to_out(torch.cat([seen, inner], dim=2))
