"""Attention of text and cells together, of layers of diffusers that give both weights of their own.

Shapes: B images · S text tokens · N cells · T = S + N positions, those of text first · C channels · h heads of c
channels.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from mamoe.errors import ConfigError

Rotation = tuple[Tensor, Tensor]  # cosines and sines of the positions
_HALF_MAX = 65504  # of float16


def places_in_prompts(region: Int64[Tensor, "B S"]) -> Int64[Tensor, "B S"]:
    """The place of every token in its own prompt, from 0: as it would have it alone, wherever it stands in the text."""
    same = region.unsqueeze(2) == region.unsqueeze(1)
    first = same.int().argmax(dim=2)
    return torch.arange(region.shape[1], device=region.device) - first


def two_streams(
    attn: Any,
    cells: Float[Tensor, "B N C"],
    text: Float[Tensor, "B S C"],
    size: int,
    mask: Bool[Tensor, "B 1 T T"] | None,
    rotation: Rotation | None,
) -> tuple[Float[Tensor, "B N C"], Float[Tensor, "B S C"]]:
    """What cells and text take up from each other.

    Args:
        attn: the layer whose projections are used; their weights and names stay untouched, so that adapters work.
        cells: after normalisation.
        text: likewise.
        size: c, channels of a head.
        mask: True = may ask; None: everybody asks all.
        rotation: by the positions [B T c] of text and cells; None: they have none.
    """
    query = torch.cat(
        [
            attn.norm_added_q(attn.add_q_proj(text).unflatten(2, (-1, size))),
            attn.norm_q(attn.to_q(cells).unflatten(2, (-1, size))),
        ],
        dim=1,
    )
    key = torch.cat(
        [
            attn.norm_added_k(attn.add_k_proj(text).unflatten(2, (-1, size))),
            attn.norm_k(attn.to_k(cells).unflatten(2, (-1, size))),
        ],
        dim=1,
    )
    value = torch.cat([attn.add_v_proj(text), attn.to_v(cells)], dim=1).unflatten(2, (-1, size))
    seen = attended(query, key, value, mask, rotation)
    of_text, of_cells = seen[:, : text.shape[1]], seen[:, text.shape[1] :]
    project, dropout = attn.to_out
    return dropout(project(of_cells)), attn.to_add_out(of_text)


def attended(
    query: Float[Tensor, "B T h c"],
    key: Float[Tensor, "B T h c"],
    value: Float[Tensor, "B T h c"],
    mask: Bool[Tensor, "B 1 T T"] | None,
    rotation: Rotation | None,
) -> Float[Tensor, "B T C"]:
    """What every position takes up, one mask for all heads."""
    if rotation is not None:
        query, key = _rotated(query, rotation), _rotated(key, rotation)
    query, key, value = (one.transpose(1, 2) for one in (query, key, value))
    seen = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    return seen.transpose(1, 2).flatten(2).to(query.dtype)


def check_processors(network: Any, ours: type[Any] | tuple[type[Any], ...], mend: str) -> None:
    """Refuse processors that would drop what a layout says; ``mend``: what puts ours back.

    ``network`` is a :class:`~mamoe.models.joint.steered.SteeredJoint`. Its blocks are asked, because diffusers'
    ``attn_processors`` looks through every module, which beside adapters takes the host as long as some blocks do.

    Raises:
        ConfigError: names those that are in the place of ``ours``.
    """
    blocks = (block for name in network.blocks for block in getattr(network, name))
    processors = [getattr(block, block.attention_name).processor for block in blocks]
    strange = {type(one).__name__ for one in processors if not isinstance(one, ours)}
    if strange:
        raise ConfigError(
            f"The attention processor {', '.join(sorted(strange))} would drop places and experts of a layout. {mend}"
        )


def within_half(x: Tensor) -> Tensor:
    """The numbers cut to what float16 holds, where they are of that type: text in such blocks goes beyond it."""
    return x.clip(-_HALF_MAX, _HALF_MAX) if x.dtype == torch.float16 else x


def _rotated(x: Float[Tensor, "B T h c"], rotation: Rotation) -> Float[Tensor, "B T h c"]:
    """Neighbouring numbers turned by the angles of their position (Su et al. 2021, RoFormer, section 3.2.2)."""
    cosine, sine = (one.unsqueeze(-2) for one in rotation)
    even, odd = x.float().unflatten(3, (-1, 2)).unbind(4)
    turned = torch.stack([-odd, even], dim=4).flatten(3)
    return (x.float() * cosine + turned * sine).to(x.dtype)
