"""Joint attention of Stable Diffusion 3 that obeys a mask: diffusers' own takes one and ignores it.

Shapes: B images · S text tokens · N cells · C channels · c channels of a head.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import Attention
from jaxtyping import Bool, Float
from torch import Tensor

from mamoe.errors import ConfigError
from mamoe.models.blocks.attention import with_signature


@with_signature
class MaskedJointAttnProcessor:
    """Computes what the stock ``JointAttnProcessor2_0`` computes, by the mask of :func:`joint_mask`.

    The text comes first in the sequence, as in the mask; it has no places here, so that the order means nothing.
    """

    def __call__(
        self,
        attn: Attention,
        hidden_states: Float[Tensor, "B N C"],
        encoder_hidden_states: Float[Tensor, "B S C"],
        attention_mask: Bool[Tensor, "B 1 S+N S+N"] | None = None,
    ) -> tuple[Float[Tensor, "B N C"], Float[Tensor, "B S C"]]:
        """What cells and text take up; that of the text is projected unless the block is the last."""
        layer: Any = attn  # whose projections are declared as perhaps not there
        cells, text, heads = hidden_states, encoder_hidden_states, attn.heads
        query = _joined(layer.add_q_proj(text), layer.to_q(cells), heads, layer.norm_added_q, layer.norm_q)
        key = _joined(layer.add_k_proj(text), layer.to_k(cells), heads, layer.norm_added_k, layer.norm_k)
        value = _joined(layer.add_v_proj(text), layer.to_v(cells), heads)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=attention_mask)
        mixed = mixed.transpose(1, 2).flatten(2)
        seen_by_text, seen = mixed[:, : text.shape[1]], mixed[:, text.shape[1] :]
        project, dropout = layer.to_out
        return dropout(project(seen)), seen_by_text if layer.context_pre_only else layer.to_add_out(seen_by_text)


def check_takes_mask(attn: Attention) -> None:
    """Refuse a processor that would ignore a mask.

    Raises:
        ConfigError: the layer's processor is not ours.
    """
    processor: Any = attn.processor
    if not isinstance(processor, MaskedJointAttnProcessor):
        raise ConfigError(
            f"The attention processor {type(processor).__name__} would ignore the layout's mask. Leave out what put it "
            "there (set_attn_processor, fused projections); transformer.set_default_attn_processor() puts ours back."
        )


def _joined(
    text: Float[Tensor, "B S C"],
    cells: Float[Tensor, "B N C"],
    heads: int,
    norm_text: Any = None,
    norm: Any = None,
) -> Float[Tensor, "B heads T c"]:
    parts = [(text, norm_text), (cells, norm)]
    split = [(one.unflatten(2, (heads, -1)).transpose(1, 2), normed) for one, normed in parts]
    return torch.cat([one if normed is None else normed(one) for one, normed in split], dim=2)
