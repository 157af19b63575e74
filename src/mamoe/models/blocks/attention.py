"""Cross-attention in which every cell sees only the tokens of the regions that cover it.

Shapes: B images · N cells of one level · S text tokens · C channels · c channels of a head · D text width.
"""

from __future__ import annotations

import inspect
from typing import Any, TypeVar, cast

import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import Attention, AttnProcessor2_0, FusedAttnProcessor2_0
from jaxtyping import Bool, Float
from torch import Tensor, nn

from mamoe.errors import ConfigError

Processor = TypeVar("Processor")
# What attention layers made of a text, layer by layer: the text, its keys and its values.
KeptText = dict["Attention", tuple[Tensor, Tensor, Tensor]]


def with_signature(processor: type[Processor]) -> type[Processor]:
    """The class of a processor, whose signature is kept with it.

    diffusers' layers ask for it in every call; to work it out takes Python as long as starting ten kernels.
    """
    call: Any = processor.__call__
    call.__signature__ = inspect.signature(call)
    return processor


_TOLD = {"strength", "kept"}  # what our blocks tell it beside cells, text and mask


@with_signature
class RegionAttnProcessor:
    """Attention processor that takes one mask per image, shared by all heads.

    It computes what the stock ``AttnProcessor2_0`` computes, but broadcasts the mask over the heads where the stock
    one repeats it per head. The layer's weights and their names stay untouched, so adapters on ``to_q``, ``to_k``,
    ``to_v`` and ``to_out`` work; replacing it by a stock processor gives the same result with more memory, see
    :func:`mask_for`.
    """

    def __call__(
        self,
        attn: Attention,
        hidden_states: Float[Tensor, "B N C"],
        encoder_hidden_states: Float[Tensor, "B S D"] | None = None,
        attention_mask: Tensor | None = None,
        strength: Float[Tensor, "B heads"] | None = None,
        kept: KeptText | None = None,
    ) -> Float[Tensor, "B N C"]:
        """Attend from cells to text tokens.

        Args:
            attn: the layer whose projections are used.
            hidden_states: the cells, after normalisation.
            encoder_hidden_states: the text; None = self-attention.
            attention_mask: bool[B N S], True = may attend, every row with a True; or a float bias that broadcasts
                to [B N S]; None = every cell attends every token.
            strength: 1 = the boolean mask holds, 0 = every cell attends what any cell of its image may attend; between
                and beyond, the two results are mixed head by head. None = 1.
            kept: where keys and values of a text are kept, for callers who ask again with the same text and weights.
        """
        query = _split_heads(attn.to_q(hidden_states), attn.heads)
        key, value = _keys_and_values(
            attn, hidden_states if encoder_hidden_states is None else encoder_hidden_states, kept
        )
        mask = None if attention_mask is None else attention_mask.unsqueeze(1)
        if mask is not None and mask.dtype != torch.bool:
            mask = mask.to(query.dtype)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        if mask is not None and strength is not None:
            anywhere = mask.any(dim=2, keepdim=True)
            opened = F.scaled_dot_product_attention(query, key, value, attn_mask=anywhere)
            # Written so that at strength 1 the first term stays as it is, bit for bit.
            mixed = mixed + (1.0 - strength)[:, :, None, None].to(mixed.dtype) * (opened - mixed)
        project, dropout = cast(nn.ModuleList, attn.to_out)
        out = project(mixed.transpose(1, 2).flatten(2))
        return out if type(dropout) is nn.Dropout and not dropout.p else dropout(out)


class OwnAttention(Attention):
    """An attention layer that asks nobody which arguments its processor takes, where that is ours."""

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        **told: Any,
    ) -> Tensor:
        processor: Any = self.processor
        if type(processor) is RegionAttnProcessor and told.keys() <= _TOLD:
            return processor(self, hidden_states, encoder_hidden_states, attention_mask, **told)
        return super().forward(hidden_states, encoder_hidden_states, attention_mask, **told)


def compute_by_region(attn: Attention) -> None:
    """Let a layer be computed by :class:`RegionAttnProcessor`, started in few words; weights and names stay."""
    attn.set_processor(cast(Any, RegionAttnProcessor()))
    if type(attn) is Attention:
        attn.__class__ = OwnAttention


def mask_for(
    attn: Attention, attend: Bool[Tensor, "B N S"] | Float[Tensor, "B N S"], dtype: torch.dtype
) -> Bool[Tensor, "B N S"] | Float[Tensor, "B N S"]:
    """Who may attend in the form that the layer's processor takes, ours or a stock one put in its place.

    Args:
        attn: the layer.
        attend: a boolean mask or log weights.
        dtype: of the cells.
    """
    processor: Any = attn.processor
    if isinstance(processor, RegionAttnProcessor):
        return attend
    by_torch = isinstance(processor, AttnProcessor2_0 | FusedAttnProcessor2_0)  # whose kernels take booleans too
    if attend.dtype == torch.bool:
        if by_torch:
            return attend
        attend = torch.zeros(attend.shape, device=attend.device).masked_fill(~attend, -torch.inf)
    return attend.to(torch.float32 if attn.upcast_attention and not by_torch else dtype)


def check_takes_strength(attn: Attention) -> None:
    """Refuse a processor that would drop a learned strength of the regions.

    Raises:
        ConfigError: the layer's processor takes none.
    """
    processor: Any = attn.processor
    if not isinstance(processor, RegionAttnProcessor) and "strength" not in inspect.signature(processor).parameters:
        raise ConfigError(
            f"This UNet has learned how strongly its regions bind (layout strength 'learned'), and the attention "
            f"processor {type(processor).__name__} would drop that. Leave out what put it there (attention slicing, "
            "set_attn_processor, fused projections, xformers); unet.set_default_attn_processor() puts ours back."
        )


def _keys_and_values(
    attn: Attention, text: Float[Tensor, "B S D"], kept: KeptText | None
) -> tuple[Float[Tensor, "B heads S c"], Float[Tensor, "B heads S c"]]:
    if kept is not None and (last := kept.get(attn)) is not None and last[0] is text:
        return last[1:]
    to_k, to_v = cast(nn.Module, attn.to_k), cast(nn.Module, attn.to_v)
    key, value = _split_heads(to_k(text), attn.heads), _split_heads(to_v(text), attn.heads)
    if kept is not None and not _heard(to_k) and not _heard(to_v):
        kept[attn] = (text, key, value)
    return key, value


def _heard(projection: nn.Module) -> bool:
    """Whether hooks want to hear of every call."""
    return any(layer._forward_hooks or layer._forward_pre_hooks for layer in projection.modules())


def _split_heads(x: Float[Tensor, "B M C"], heads: int) -> Float[Tensor, "B heads M c"]:
    batch, length, width = x.shape
    return x.view(batch, length, heads, width // heads).transpose(1, 2)
